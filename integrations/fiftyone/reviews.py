"""What experts said of a product, in FiftyOne: masks, verdict, state of review, on what they differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from integrations.catalog import Catalog
from integrations.fiftyone.columns import Cell, database_errors, put, put_plain
from integrations.fiftyone.media import CroppedMask, Media
from integrations.fiftyone.publish import label_id, object_id
from integrations.fiftyone.report import PublishReport
from saa_core.masks import Rle, iou, union
from saa_core.reviews import Review, disagreements, evidence

FIELD = "expert"
_NAMED = 5
"""So many images are named where all would be too many."""


def publish_reviews(fiftyone: Any, dataset: Any, catalog: Catalog, media: Media, report: PublishReport) -> None:
    """Bring every review of a product into its data set.

    Regions that somebody changed in the App since they were written are left as they are, and told of.

    Raises:
        ServiceError: mongod does not answer.
        StoreError: A mask cannot be written.
    """
    product = dataset.name
    with database_errors():
        keys = dataset.values("key")
    reviews = catalog.reviews(product, keys)
    counted, sent = evidence(reviews), catalog.sent(product)
    states = _states(reviews, counted)
    _tell_absent(catalog, product, keys, report)
    changed = edited(dataset)
    if changed:
        report.notes.append(
            f"{len(changed)} images keep regions that were changed in the App: they could not be pulled"
        )
    cells = {key: _cell(fiftyone, counted.get(key), media) for key in keys if key not in changed}
    report.count(FIELD, put(dataset, FIELD, cells, ("review", "detections.mask_path")))
    verdicts = {key: _verdict(fiftyone, counted.get(key)) for key in keys}
    report.count("verdict", put(dataset, "verdict", verdicts, ("label",)))
    differing = {each.image: each.reason for each in disagreements(reviews)}
    waiting = dict.fromkeys(sent, "waiting")
    columns: Mapping[str, Mapping[str, Any]] = {
        "review_state": {key: states.get(key) or waiting.get(key, "new") for key in keys},
        "blind": {key: not sent.get(key, True) for key in keys},
        "dispute": {key: differing.get(key) for key in keys},
        "expert_change": {key: _change(counted.get(key)) for key in keys},
    }
    for name, values in columns.items():
        report.count(name, put_plain(dataset, name, values))


def _tell_absent(catalog: Catalog, product: str, keys: Sequence[str], report: PublishReport) -> None:
    """Reviews of images that no run brought here cannot be shown."""
    absent = set(catalog.reviewed(product)) - set(keys)
    if absent:
        names = ", ".join(sorted(catalog.names(product, absent).values())[:_NAMED])
        report.notes.append(f"{len(absent)} reviewed images are in no run that was pushed: {names}")


def edited(dataset: Any) -> dict[str, str]:
    """The images whose expert's regions are not as we wrote them: drawn, deleted or changed in the App.

    Returns:
        By key, what tells the regions that are there now, see `note_taken`.

    Raises:
        ServiceError: mongod does not answer.
    """
    paths = ["key", f"{FIELD}.written", *(f"{FIELD}.detections.{name}" for name in _SHOWN)]
    with database_errors():
        rows = zip(*dataset.values(paths), strict=True)
        found = {key: (written or _NOTHING, _written(parts)) for key, written, *parts in rows}
    return {key: now for key, (written, now) in found.items() if now != written}


def note_taken(dataset: Any, taken: Mapping[str, str]) -> None:
    """Note that regions that were changed in the App are in the catalog, from where the next publish brings them back.

    Args:
        dataset: The product's.
        taken: From `edited`; regions that were changed again since then still count as edited.

    Raises:
        ServiceError: mongod does not answer.
    """
    with database_errors():
        dataset.set_values(f"{FIELD}.written", dict(taken), key_field="key", dynamic=False)


def dissimilarity(a: Sequence[Rle], b: Sequence[Rle]) -> float:
    """1 - IoU of the unions of two lists of masks, in [0, 1]; 0 if both are empty, 1 if one of them is."""
    if not a or not b:
        return float(bool(a) != bool(b))
    return 1 - float(iou([union(a)], [union(b)])[0, 0])


def _states(reviews: Sequence[Review], counted: Mapping[str, Review]) -> dict[str, str]:
    """Where the review of each image stands; images without a review that is in force are left out."""
    newest = {review.image: review for review in reviews}  # oldest first, as the catalog gives them
    found = {key: _state(review) for key, review in newest.items()}
    return {key: state for key, state in found.items() if state} | dict.fromkeys(counted, "reviewed")


def _state(review: Review) -> str | None:
    if review.contradictory:
        return "contradictory"
    if review.state == "submitted":
        return "unsure"
    return "skipped" if review.state == "skipped" else None


def _change(review: Review | None) -> float | None:
    if review is None:
        return None
    return dissimilarity([region.predicted.mask for region in review.regions if region.predicted], review.masks)


def _verdict(fiftyone: Any, review: Review | None) -> Cell:
    finding = review.finding if review else None
    return Cell((finding,), lambda: fiftyone.Classification(label=finding) if finding else None)


def _cell(fiftyone: Any, review: Review | None, media: Media) -> Cell:
    if review is None:
        return Cell((None, None), lambda: None)
    masks = [media.mask(FIELD, mask) for mask in review.masks]
    return Cell((_token(review), [mask.path for mask in masks]), partial(_detections, fiftyone, review, masks))


def _token(review: Review) -> str:
    known_by = "\n".join((review.source, review.id, review.updated.isoformat(), review.state))
    return hashlib.sha256(known_by.encode()).hexdigest()[:24]


def _detections(fiftyone: Any, review: Review, masks: Sequence[CroppedMask]) -> Any:
    token = _token(review)
    kept = [region for region in review.regions if region.reviewed is not None]
    detections = []
    for number, (region, mask) in enumerate(zip(kept, masks, strict=True)):
        assert region.reviewed is not None
        detections.append(
            fiftyone.Detection(
                id=object_id(label_id(FIELD, f"{token}\n{number}")),
                label=region.reviewed.label,
                bounding_box=mask.box,
                mask_path=mask.path,
                region=region.predicted.id if region.predicted else "",
                outcome=region.outcome,
                words=region.reviewed.words,
            )
        )
    parts = [[str(each.id) for each in detections], *([each[name] for each in detections] for name in _SHOWN[1:])]
    return fiftyone.Detections(detections=detections, review=token, written=_written(parts))


_SHOWN = ("id", "label", "bounding_box", "mask_path", "words")
"""What of a region somebody can change in the App. A mask that is painted there has no path any more."""


def _written(parts: Sequence[Sequence[Any] | None]) -> str:
    """What tells regions from the same ones after somebody changed them in the App, by the columns of `_SHOWN`."""
    regions = zip(*(part or () for part in parts), strict=True)
    return hashlib.sha256(json.dumps(sorted(map(json.dumps, regions))).encode()).hexdigest()[:24]


_NOTHING = _written([()] * len(_SHOWN))
