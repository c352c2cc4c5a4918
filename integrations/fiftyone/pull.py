"""What people said in FiftyOne's App, as reviews: tags of regions and images, edited masks.

An image counts once every region on it is tagged `accepted` or `rejected`, or the image itself `good`. Masks that were
painted in the App have the resolution of its canvas, so they are coarser than those from Label Studio, and their
reviews say so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import cv2

from integrations.catalog import Catalog
from integrations.fiftyone.columns import database_errors
from integrations.fiftyone.media import whole_mask
from integrations.fiftyone.publish import newest_in
from integrations.fiftyone.reviews import FIELD, edited
from integrations.finished_run import FinishedRun
from integrations.intake import Intake
from integrations.label_studio.payload import push_item
from saa_core.errors import ReviewError
from saa_core.reviews import PredictedRegion, Review, ReviewedRegion, Verdict, compare

ACCEPTED, REJECTED, GOOD = "accepted", "rejected", "good"
"""Tags of regions, and of images."""

ANNOTATOR = "fiftyone"
EDITED = "masks edited in FiftyOne's App, at its canvas's resolution"


@dataclass(frozen=True, slots=True)
class Shown:
    """What a run shows on one image.

    Attributes:
        run: Id of the run.
        bundle: Id of its bundle.
        size: (height, width) of the image in pixels.
        regions: Best first.
    """

    run: str
    bundle: str
    size: tuple[int, int]
    regions: tuple[PredictedRegion, ...]


@dataclass(frozen=True, slots=True)
class _Said:
    """What the App says of one image."""

    shown: Shown
    verdict: Verdict | None
    regions: tuple[ReviewedRegion, ...]
    words: str = ""


def pull(dataset: Any, catalog: Catalog, runs: Callable[[str], FinishedRun], moment: datetime) -> Intake:
    """Store what was said in the App since the last pull.

    Args:
        dataset: The product's.
        catalog: Of the workspace.
        runs: Gives a run by its id.
        moment: Now, UTC: the date of what is new.

    Returns:
        What came in; refused are images whose tags contradict one another, are not complete, or whose regions have no
        mask.

    Raises:
        ServiceError: mongod does not answer.
        StoreError: A run's files are gone, or the catalog cannot be written.
    """
    source, intake = f"fiftyone {dataset.name}", Intake()
    newest = newest_in(dataset)
    if newest is None:
        return intake
    shown = _shown(dataset, newest.predictions, runs)
    names = dict(zip(*dataset.values(["key", "name"]), strict=True))
    changed = dict(_edited(dataset, shown, names, intake))
    said = dict(_tagged(dataset, newest.predictions, shown, names, intake)) | changed
    known = _newest(catalog, dataset.name, source)
    new = [
        review
        for key, each in said.items()
        if (review := _review(dataset.name, source, key, each, moment)) and not _same(review, known.get(key))
    ]
    intake.store(catalog, source, new)
    # They are in the catalog now, from where the next publish brings them back at the image's resolution.
    with database_errors():
        dataset.set_values(FIELD, dict.fromkeys(changed), key_field="key", dynamic=False)
    return intake


def _shown(dataset: Any, field: str, runs: Callable[[str], FinishedRun]) -> dict[str, Shown]:
    """What a predictions field shows on each image, by key."""
    found: dict[str, Shown] = {}
    with database_errors():
        held = dict(zip(*dataset.values(["key", f"{field}.run"]), strict=True))
    for run in sorted({run for run in held.values() if run}):
        finished = runs(run)
        for record, ref in zip(finished.images, finished.refs, strict=True):
            if held.get(ref.key) == run:
                regions = push_item(record, ref, 0.0, run, finished.bundle).regions
                height, width = record["size"]
                found[ref.key] = Shown(run, finished.bundle.id, (height, width), regions)
    return found


def _tagged(
    dataset: Any, field: str, shown: Mapping[str, Shown], names: Mapping[str, str], intake: Intake
) -> Iterator[tuple[str, _Said]]:
    """What tags say of each image that is tagged."""
    paths = ["key", "tags", f"{field}.detections.region", f"{field}.detections.tags"]
    with database_errors():
        rows = list(zip(*dataset.values(paths), strict=True))
    for key, tags, regions, region_tags in rows:
        if key in shown:
            by_region = dict(zip(regions or [], region_tags or [], strict=True))
            try:
                said = _of_tags(shown[key], GOOD in (tags or []), by_region)
            except ReviewError as error:
                intake.refused.append((names[key], error.reason))
                continue
            if said is not None:
                yield key, said


def _of_tags(shown: Shown, good: bool, tags: Mapping[str, Sequence[str] | None]) -> _Said | None:
    accepted = {region for region, each in tags.items() if ACCEPTED in (each or [])}
    rejected = {region for region, each in tags.items() if REJECTED in (each or [])}
    if accepted & rejected:
        raise ReviewError("", f"a region is tagged {ACCEPTED} and {REJECTED}")
    if good and accepted:
        raise ReviewError("", f"it is tagged {GOOD}, and a region of it {ACCEPTED}")
    if good:
        return _Said(shown, "good", ())
    if not accepted and not rejected:
        return None
    open_ = len(shown.regions) - len(accepted | rejected)
    if open_:
        raise ReviewError("", f"{open_} of its {len(shown.regions)} regions have no tag; it counts once all have one")
    kept = [region for region in shown.regions if region.id in accepted]
    return _Said(shown, None, tuple(ReviewedRegion(each.id, each.label, each.mask) for each in kept))


def _edited(
    dataset: Any, shown: Mapping[str, Shown], names: Mapping[str, str], intake: Intake
) -> Iterator[tuple[str, _Said]]:
    """What the App's Annotate tab made of the expert's regions."""
    from fiftyone import ViewField

    keys = edited(dataset) & shown.keys()
    with database_errors():
        samples = (
            list(dataset.match(ViewField("key").is_in(sorted(keys))).select_fields(["key", FIELD])) if keys else []
        )
    for sample in samples:
        held = shown[sample.key]
        known = {region.id for region in held.regions}
        try:
            regions = tuple(_drawn(each, held.size, known) for each in sample[FIELD].detections)
        except ReviewError as error:
            intake.refused.append((names[sample.key], error.reason))
            continue
        yield sample.key, _Said(held, None if regions else "good", regions, EDITED)
    dataset.clear_cache()


def _drawn(detection: Any, size: tuple[int, int], known: set[str]) -> ReviewedRegion:
    """A region as the App holds it; a painted mask is inside the document, an untouched one in its file."""
    crop = detection.mask
    if crop is None and detection.mask_path:
        crop = cv2.imread(detection.mask_path, cv2.IMREAD_GRAYSCALE)
    if crop is None:
        raise ReviewError("", f"a region {detection.label!r} is a box without a mask; paint one, or use Label Studio")
    region = detection.get_attribute_value("region", None) or None
    mask = whole_mask(crop, detection.bounding_box, *size)
    words = detection.get_attribute_value("words", None) or ""
    return ReviewedRegion(region if region in known else None, detection.label or "defect", mask, words)


def _newest(catalog: Catalog, product: str, source: str) -> dict[str, Review]:
    """Of each image the newest review that came from here."""
    return {review.image: review for review in catalog.reviews(product) if review.source == source}


def _review(product: str, source: str, key: str, said: _Said, moment: datetime) -> Review:
    return Review(
        product=product,
        image=key,
        source=source,
        id=hashlib.sha256(f"{source}\n{key}".encode()).hexdigest()[:24],
        state="submitted",
        annotator=ANNOTATOR,
        updated=moment,
        verdict=said.verdict,
        words=said.words,
        lead_seconds=None,
        run=said.shown.run,
        bundle=said.shown.bundle,
        aided=True,
        regions=compare(said.shown.regions, said.regions),
    )


def _same(review: Review, known: Review | None) -> bool:
    """Whether a review says nothing that was not said: tags stay, whatever is shown or said elsewhere later."""
    return known is not None and _content(review) == _content(known)


def _content(review: Review) -> tuple[object, ...]:
    kept = [region.reviewed for region in review.regions if region.reviewed is not None]
    return review.verdict, review.words, [(region.label, region.mask) for region in kept]
