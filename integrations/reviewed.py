"""What experts said of a product, joined with the runs that its images were labelled in."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from integrations.catalog import Catalog
from saa_core import __version__
from saa_core.refinement.outcome import EvidenceSummary
from saa_core.reviews import Review, disagreements, evidence
from saa_core.types import ImageRef

_UNLABELLED = "no finished run of these models has it; label it again"
_CONTRADICTORY = "it is called good and has regions; look at it again"


@dataclass(frozen=True, slots=True)
class Reviewed:
    """One image with a review that counts, and the set that it was labelled in."""

    review: Review
    ref: ImageRef
    lot: str
    run: str


@dataclass(frozen=True)
class ReviewedProduct:
    """What experts said of a product, as far as it can be used.

    Attributes:
        product: The product.
        images: With a finding and a finished run, by image key.
        sets: Every usable image of each run that one of `images` is taken from.
        undrawn: Images called defective on which nothing is drawn.
        unusable: (image, reason) of those that cannot be used.
        disputed: (image, reason) of those on which annotators differ; the newest review counts.
    """

    product: str
    images: tuple[Reviewed, ...]
    sets: Mapping[str, tuple[ImageRef, ...]]
    undrawn: int
    unusable: tuple[tuple[str, str], ...]
    disputed: tuple[tuple[str, str], ...]

    @cached_property
    def lots(self) -> dict[str, bool]:
        """Every lot, and whether an image of it is defective."""
        found: dict[str, bool] = {}
        for image in self.images:
            found[image.lot] = found.get(image.lot, False) or image.review.finding == "defective"
        return found

    def words(self, keys: Collection[str]) -> dict[str, int]:
        """What experts wrote of some images and their regions, and the labels they gave, with their counts."""
        words: Counter[str] = Counter()
        for review in (image.review for image in self.images if image.ref.key in keys):
            kept = [region.reviewed for region in review.regions if region.reviewed is not None]
            words.update(text for region in kept for text in (region.words, region.label) if text)
            words.update([review.words] if review.words and review.masks else [])
        return dict(words)

    @cached_property
    def hash(self) -> str:
        """Of all that a refinement's result depends on but the bundle and the models, 16 hexadecimal digits."""
        lines = sorted(
            json.dumps([image.ref.key, image.lot, review.source, review.id, review.updated.isoformat(), review.state])
            for image in self.images
            for review in [image.review]
        )
        sets = sorted({" ".join(sorted(ref.key for ref in refs)) for refs in self.sets.values()})
        return hashlib.sha256("\n".join([__version__, self.product, *lines, *sets]).encode()).hexdigest()[:16]

    def summary(self, lost: Mapping[str, str]) -> EvidenceSummary:
        """What it amounts to without the images, by key, that were found unusable later, each with its reason."""
        used = [image for image in self.images if image.ref.key not in lost]
        unusable = [(image.ref.names[0], lost[image.ref.key]) for image in self.images if image.ref.key in lost]
        good = sum(image.review.finding == "good" for image in used)
        return EvidenceSummary(
            hash=self.hash,
            defective=len(used) - good,
            good=good,
            undrawn=self.undrawn,
            lots=len({image.lot for image in used}),
            held_out=0,
            regions=sum(len(image.review.masks) for image in used),
            unusable=tuple(sorted((*self.unusable, *unusable))),
            disputed=self.disputed,
        )


def lot_of(key: str) -> str:
    """The lot of an image that has none: its own."""
    return f"image {key[:16]}"


def reviewed_product(catalog: Catalog, product: str, models: Mapping[str, str]) -> ReviewedProduct:
    """Join a product's reviews with the runs that its images were labelled in.

    Args:
        catalog: Of the workspace.
        product: The product.
        models: Id of the model in each role: candidates of others cannot be compared.
    """
    reviews = catalog.reviews(product)
    counted, contradictory = evidence(reviews), _contradictory(reviews)
    keys = [*counted, *contradictory]
    names, lots = catalog.names(product, keys), catalog.lots(product, keys)
    drawn = {key: review for key, review in counted.items() if review.finding == "good" or review.masks}
    runs = _runs(catalog, product, list(drawn), models)
    sets = {run: _set(catalog, run) for run in set(runs.values())}
    refs = {run: {ref.key: ref for ref in held} for run, held in sets.items()}
    # An image without a lot is one of its own: nothing says which others resemble it.
    images = [
        Reviewed(drawn[key], refs[run][key], lots.get(key) or lot_of(key), run) for key, run in sorted(runs.items())
    ]
    unusable = [(names[key], _UNLABELLED) for key in drawn if key not in runs]
    unusable += [(names[key], _CONTRADICTORY) for key in contradictory - counted.keys()]
    return ReviewedProduct(
        product=product,
        images=tuple(images),
        sets=sets,
        undrawn=len(counted) - len(drawn),
        unusable=tuple(sorted(unusable)),
        disputed=tuple(sorted((names[each.image], each.reason) for each in disagreements(reviews))),
    )


def _contradictory(reviews: Sequence[Review]) -> set[str]:
    """Keys of the images that the last version of some annotation calls good and leaves regions on."""
    last = {(review.source, review.id): review for review in reviews}  # oldest first, as the catalog gives them
    return {review.image for review in last.values() if review.contradictory}


def _runs(catalog: Catalog, product: str, keys: Sequence[str], models: Mapping[str, str]) -> dict[str, str]:
    """For each image the largest finished run of these models, of equal ones the newest: one of an image by itself
    would judge it without its set.
    """
    found = catalog.runs_of(product, keys)
    known = {run: catalog.run(run) for run in {run for each in found.values() for run in each}}
    sizes = {
        run: record.labelled + record.reused for run, record in known.items() if dict(record.models) == dict(models)
    }
    chosen = {key: [run for run in each if run in sizes] for key, each in found.items()}
    return {key: max(runs, key=sizes.__getitem__) for key, runs in chosen.items() if runs}


def _set(catalog: Catalog, run: str) -> tuple[ImageRef, ...]:
    rows = [row for row in catalog.images_of(run) if row.state != "quarantined" and row.key]
    return tuple(row.ref for row in rows)
