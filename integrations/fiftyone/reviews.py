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
from integrations.fiftyone.publish import PublishReport, label_id, object_id
from saa_core.masks import Rle, iou, union
from saa_core.reviews import Review, disagreements, evidence

FIELD = "expert"


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
    changed = edited(dataset)
    if changed:
        report.notes.append(
            f"{len(changed)} images have regions that were changed in the App and are left as they are; "
            f"`saa pull fiftyone --product {product}` fetches them"
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


def edited(dataset: Any) -> set[str]:
    """Keys of the images whose expert's regions are not as we wrote them: drawn, deleted, relabelled in the App."""
    paths = ["key", *(f"{FIELD}.{name}" for name in ("written", "detections.id", "detections.label"))]
    with database_errors():
        rows = zip(*dataset.values([*paths, f"{FIELD}.detections.mask_path"]), strict=True)
        return {
            key
            for key, written, ids, labels, masks in rows
            if None in (masks or ()) or (written or _written([], [])) != _written(ids or [], labels or [])
        }


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
    ids, labels = [str(each.id) for each in detections], [each.label for each in detections]
    return fiftyone.Detections(detections=detections, review=token, written=_written(ids, labels))


def _written(ids: Sequence[str], labels: Sequence[str]) -> str:
    """What tells regions from the same ones after somebody changed them in the App, their masks aside."""
    return hashlib.sha256(json.dumps(sorted(zip(ids, labels, strict=True))).encode()).hexdigest()[:24]
