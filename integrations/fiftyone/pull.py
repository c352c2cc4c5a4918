"""What people said in FiftyOne's App, as reviews: tags of regions and images, edited masks.

An image counts once every region on it is tagged `accepted` or `rejected`, or the image itself `good`; the regions are
those of the newest bundle that shows it. Masks that were painted in the App have the resolution of its canvas, so they
are coarser than those from Label Studio, and their reviews say so. What was said is as old as the last change of its
sample, and of what was said since the last pull an edit counts more than tags.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import cv2

from integrations.catalog import Catalog
from integrations.fiftyone.bundles import judged_in
from integrations.fiftyone.columns import database_errors
from integrations.fiftyone.media import whole_mask
from integrations.fiftyone.reviews import FIELD, edited, note_taken
from integrations.fiftyone.schema import BundleFields
from integrations.fiftyone.tagging import ACCEPTED, GOOD, REJECTED, Tags, note_read, tags_in
from integrations.finished_run import FinishedRun
from integrations.intake import Intake
from integrations.push_items import push_item
from saa_core.errors import ReviewError
from saa_core.masks import to_string
from saa_core.reviews import PredictedRegion, RegionReview, Review, ReviewedRegion, Verdict, compare, evidence

ANNOTATOR = "fiftyone"
_NOT_SHOWN = "nothing found is shown on it: Label Studio has it without masks, or no run that holds it was pushed here"
EDITED = "masks edited in FiftyOne's App, at its canvas's resolution"

_Word = TypeVar("_Word")
_Judged = Mapping[str, tuple[BundleFields, str]]


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
    regions: tuple[RegionReview, ...]
    words: str = ""


def pull(dataset: Any, catalog: Catalog, runs: Callable[[str], FinishedRun]) -> Intake:
    """Store what was said in the App since the last pull.

    Args:
        dataset: The product's.
        catalog: Of the workspace.
        runs: Gives a run by its id.

    Returns:
        What came in; refused are images whose tags contradict one another, are not complete or are on regions that are
        not judged, and images with a region without a mask.

    Raises:
        ServiceError: mongod does not answer.
        StoreError: A run's files are gone, or the catalog cannot be written.
    """
    source, intake, judged = f"fiftyone {dataset.name}", Intake(), judged_in(dataset)
    with database_errors():
        keys, names, times = dataset.values(["key", "name", "last_modified_at"])
    named, changed = dict(zip(keys, names, strict=True)), dict(zip(keys, times, strict=True))
    tags, drawn = tags_in(dataset), edited(dataset)
    new_tags = _new_tags(tags, judged)
    shown = _shown(judged, new_tags.keys() | drawn.keys(), runs)
    tagged = dict(_understood(new_tags, _of_tags, shown, named, intake))
    painted = dict(_understood(_regions(dataset, drawn), _of_regions, shown, named, intake))
    _tell_ignored(tags, judged, named, intake)
    edits = _without_known(catalog, dataset.name, painted)
    new = [_review(dataset.name, source, key, each, changed[key]) for key, each in (tagged | edits).items()]
    intake.store(catalog, source, new)
    # The edits last: to note something changes the time of a sample, and an edit must not become older than tags.
    refused = new_tags.keys() - tagged.keys()
    note_read(dataset, {key: tags[key].once_read(fields) for key, (fields, _) in judged.items() if key not in refused})
    note_taken(dataset, {key: drawn[key] for key in painted})
    return intake


def _new_tags(tags: Mapping[str, Tags], judged: _Judged) -> dict[str, frozenset[str]]:
    """All tags that count of the images that have some that no pull has read, by key."""
    said = {key: each.judging(judged[key][0]) if key in judged else each.image for key, each in tags.items()}
    return {key: each for key, each in said.items() if not each <= tags[key].read}


def _tell_ignored(tags: Mapping[str, Tags], judged: _Judged, names: Mapping[str, str], intake: Intake) -> None:
    for key, (fields, _) in judged.items():
        ignored = len(tags[key].beside(fields) - tags[key].read)
        if ignored:
            reason = f"{ignored} of its tags are on regions of another bundle; those of {fields.predictions} are judged"
            intake.refused.append((names[key], reason))


def _shown(judged: _Judged, keys: Collection[str], runs: Callable[[str], FinishedRun]) -> dict[str, Shown]:
    """What the run that is judged shows on each of these images, by key."""
    found: dict[str, Shown] = {}
    wanted = {key: judged[key][1] for key in keys if key in judged}
    for run in sorted(set(wanted.values())):
        finished = runs(run)
        for record, ref in zip(finished.images, finished.refs, strict=True):
            if wanted.get(ref.key) == run:
                regions = push_item(record, ref, 0.0, run, finished.bundle).regions
                height, width = record["size"]
                found[ref.key] = Shown(run, finished.bundle.id, (height, width), regions)
    return found


def _understood(
    words: Mapping[str, _Word],
    meaning: Callable[[Shown, _Word], _Said],
    shown: Mapping[str, Shown],
    names: Mapping[str, str],
    intake: Intake,
) -> Iterator[tuple[str, _Said]]:
    """What the App says of each image; what has no meaning is refused."""
    for key, word in words.items():
        try:
            if key not in shown:
                raise ReviewError("", _NOT_SHOWN)
            yield key, meaning(shown[key], word)
        except ReviewError as error:
            intake.refused.append((names[key], error.reason))


def _of_tags(shown: Shown, tags: frozenset[str]) -> _Said:
    accepted, rejected = ({r.id for r in shown.regions if f"{tag} {r.id}" in tags} for tag in (ACCEPTED, REJECTED))
    if accepted & rejected:
        raise ReviewError("", f"a region is tagged {ACCEPTED} and {REJECTED}")
    if GOOD in tags and accepted:
        raise ReviewError("", f"it is tagged {GOOD}, and a region of it {ACCEPTED}")
    open_ = len(shown.regions) - len(accepted | rejected)
    if open_ and GOOD not in tags:
        raise ReviewError("", f"{open_} of its {len(shown.regions)} regions have no tag; it counts once all have one")
    kept = [ReviewedRegion(each.id, each.label, each.mask) for each in shown.regions if each.id in accepted]
    return _Said(shown, "good" if GOOD in tags else None, compare(shown.regions, kept))


def _regions(dataset: Any, keys: Collection[str]) -> dict[str, Sequence[Any]]:
    """The expert's regions of these images, as the App holds them."""
    from fiftyone import ViewField

    if not keys:
        return {}
    with database_errors():
        view = dataset.match(ViewField("key").is_in(list(keys))).select_fields(["key", FIELD])
        found = {sample.key: sample[FIELD].detections if sample[FIELD] else [] for sample in view}
    dataset.clear_cache()
    return found


def _of_regions(shown: Shown, detections: Sequence[Any]) -> _Said:
    """What the App's Annotate tab made of the expert's regions."""
    known = {region.id for region in shown.regions}
    regions = [_drawn(each, shown.size, known) for each in detections]
    return _Said(shown, None if regions else "good", compare(shown.regions, regions), EDITED)


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


def _without_known(catalog: Catalog, product: str, edits: Mapping[str, _Said]) -> dict[str, _Said]:
    """Without those that leave the regions of the review that counts: a change undone, or a pull that was cut off."""
    known = evidence(catalog.reviews(product, edits))
    return {
        key: said
        for key, said in edits.items()
        if key not in known or _content(said.regions) != _content(known[key].regions)
    }


def _review(product: str, source: str, key: str, said: _Said, changed: datetime) -> Review:
    return Review(
        product=product,
        image=key,
        source=source,
        id=hashlib.sha256(f"{source}\n{key}".encode()).hexdigest()[:24],
        state="submitted",
        annotator=ANNOTATOR,
        updated=changed.replace(tzinfo=UTC),
        verdict=said.verdict,
        words=said.words,
        lead_seconds=None,
        run=said.shown.run,
        bundle=said.shown.bundle,
        aided=True,
        regions=said.regions,
    )


def _content(regions: Sequence[RegionReview]) -> list[tuple[str, str, str]]:
    """What is left of the regions, in any order."""
    left = [region.reviewed for region in regions if region.reviewed is not None]
    return sorted((region.label, to_string(region.mask), region.words) for region in left)
