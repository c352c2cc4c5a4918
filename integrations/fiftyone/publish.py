"""A finished run in FiftyOne: samples, regions, maps, order of review. What is there already is not written again.

Every step compares what is there with what should be and writes the difference. So publishing twice changes nothing,
and a publish that was cut off anywhere is finished by the next one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from integrations.fiftyone.bundles import bundles_in, judged_in, note_bundle
from integrations.fiftyone.columns import Cell, database_errors, put, put_plain
from integrations.fiftyone.media import CroppedMask, Media
from integrations.fiftyone.report import PublishReport
from integrations.fiftyone.schema import BundleFields, bundle_fields, declare_bundle, keep_notes, notes_of
from integrations.fiftyone.tagging import unread
from integrations.finished_run import FinishedRun
from integrations.intake import Intake
from integrations.outputs import ImageRecord, RegionRecord
from integrations.push_items import PushItem, push_item
from saa_core.errors import ImageError
from saa_core.types import ImageRef

Advance = Callable[[str, int, int], None]
_BATCH = 500


def publish_run(
    fiftyone: Any,
    dataset: Any,
    run: FinishedRun,
    descriptors: Mapping[str, NDArray[np.float32]],
    media: Media,
    intake: Intake,
    hidden: Set[str],
    advance: Advance,
) -> PublishReport:
    """Bring a run into its product's data set.

    Args:
        fiftyone: The package, connected.
        dataset: From `make_dataset`; nobody else writes to it now.
        run: The run.
        descriptors: By key, float32 (C,), its images as vectors.
        media: Where its masks go.
        intake: What was said in the App, pulled just now: regions are replaced.
        hidden: Keys of images that experts are to judge without masks: nothing of what was found is shown on them.
        advance: Told of the progress.

    Raises:
        ServiceError: mongod does not answer.
        StoreError: A file cannot be written.
    """
    fields = bundle_fields(run.bundle.id, run.record.models)
    report = PublishReport(dataset.name, fields.key, intake, refused=list(intake.refused))
    with database_errors():
        declare_bundle(fiftyone, dataset, fields, f"bundle {run.bundle.id[:8]} with {run.models}")
        _samples(fiftyone, dataset, run, media, report, advance)
    order = run.priorities(descriptors)
    items = [push_item(*image, run.record.id, run.bundle) for image in zip(run.images, run.refs, order, strict=True)]
    regions = {
        item.ref.key: Cell(*_regions(fiftyone, fields, item, record, run.record.id, media))
        for item, record in _told(zip(items, run.images, strict=True), len(items), advance)
    }
    maps = {record["key"]: _map(fiftyone, run.folder / record["maps"][0]) for record in run.images}
    scores = {record["key"]: record["score"] for record in run.images}
    for key in _kept(dataset, fields, report) | hidden:
        for cells in (regions, maps, scores):
            cells.pop(key, None)
    tokens = ("run", "detections.id", "detections.mask_path")
    report.count(fields.predictions, put(dataset, fields.predictions, regions, tokens))
    report.count(fields.map, put(dataset, fields.map, maps, ("map_path",)))
    report.count(fields.score, put_plain(dataset, fields.score, scores))
    note_bundle(dataset, fields, run.record, run.models)
    _hide(dataset, hidden, report)
    judged = {key for key, held in judged_in(dataset).items() if held == (fields, run.record.id)}
    priorities = {item.ref.key: item.priority for item in items if item.ref.key in judged}
    report.count("review_priority", put_plain(dataset, "review_priority", priorities))
    _features(dataset, run, descriptors, report)
    return report


def _kept(dataset: Any, fields: BundleFields, report: PublishReport) -> set[str]:
    """Images whose regions stay as they are, for the sake of tags that would go with them."""
    kept = unread(dataset, fields)
    if kept:
        report.notes.append(f"{len(kept)} images keep the regions that they have: a pull could not use all their tags")
    return kept


def _hide(dataset: Any, hidden: Set[str], report: PublishReport) -> None:
    """Take away what any bundle shows on these images, tags that no pull could use aside."""
    nothing = Cell((None,), lambda: None)
    for fields in bundles_in(dataset):
        cells = dict.fromkeys(hidden - unread(dataset, fields), nothing)
        for name, token in ((fields.predictions, "run"), (fields.map, "map_path"), (fields.score, "")):
            report.count(name, put(dataset, name, cells, (token,)))


def _samples(
    fiftyone: Any, dataset: Any, run: FinishedRun, media: Media, report: PublishReport, advance: Advance
) -> None:
    """Add the samples that are not there, and find again those whose files have gone."""
    known = dict(zip(*dataset.values(["key", "filepath"]), strict=True))
    _count_again(dataset, len(known))
    report.present = sum(ref.key in known for ref in run.refs)
    fresh = [pair for pair in zip(run.refs, run.images, strict=True) if pair[0].key not in known]
    moved = [ref for ref in run.refs if ref.key in known and not Path(known[ref.key]).is_file()]
    report.count("filepath", put_plain(dataset, "filepath", dict(_shown(moved, media, report))))
    for start in range(0, len(fresh), _BATCH):
        part = fresh[start : start + _BATCH]
        paths = dict(_shown([ref for ref, _ in part], media, report))
        samples = [_sample(fiftyone, ref, paths[ref.key], record) for ref, record in part if ref.key in paths]
        dataset.add_samples(samples, dynamic=False)
        report.added += len(samples)
        advance("adding images", start + len(part), len(fresh))
    # Bulk writes would reload every sample that this process still holds, one by one.
    dataset.clear_cache()


def _count_again(dataset: Any, number: int) -> None:
    """Correct a count that a mongod which was killed has lost: it keeps one beside the documents, written now and then.

    The samples are all there, but the App and `len` would show too few.
    """
    from fiftyone.core.odm import get_db_conn

    if len(dataset) != number:
        get_db_conn().command("validate", dataset._sample_collection_name)


def _shown(refs: Sequence[ImageRef], media: Media, report: PublishReport) -> Iterator[tuple[str, str]]:
    """Key and path of the images that can be shown; the others are refused."""
    for ref in refs:
        try:
            yield ref.key, media.image(ref)
        except ImageError as error:
            report.refused.append((error.name, error.reason))


def _sample(fiftyone: Any, ref: ImageRef, path: str, record: ImageRecord) -> Any:
    height, width = record["size"]
    return fiftyone.Sample(
        filepath=path,
        metadata=fiftyone.ImageMetadata(width=width, height=height, num_channels=3),
        key=ref.key,
        name=ref.names[0],
        names=list(ref.names),
        lot=ref.lot,
    )


def _told(pairs: Any, total: int, advance: Advance) -> Iterator[tuple[PushItem, ImageRecord]]:
    for done, pair in enumerate(pairs, start=1):
        yield pair
        if done % _BATCH == 0 or done == total:
            advance("cutting masks", done, total)


def _regions(
    fiftyone: Any, fields: BundleFields, item: PushItem, record: ImageRecord, run: str, media: Media
) -> tuple[tuple[Any, ...], Callable[[], Any]]:
    """What tells an image's regions from others, and how the label is made."""
    masks = [media.mask(fields.predictions, region.mask) for region in item.regions]
    ids = [label_id(fields.predictions, region.id) for region in item.regions]
    token = run, ids, [mask.path for mask in masks]
    return token, partial(_detections, fiftyone, item, record, run, masks, ids)


def _detections(
    fiftyone: Any, item: PushItem, record: ImageRecord, run: str, masks: list[CroppedMask], ids: list[str]
) -> Any:
    detections = [
        fiftyone.Detection(
            id=object_id(ids[rank]),
            label=region.label,
            bounding_box=masks[rank].box,
            mask_path=masks[rank].path,
            confidence=region.score,
            rank=float(rank),
            region=region.id,
            **_attributes(record["regions"][rank]),
        )
        for rank, region in enumerate(item.regions)
    ]
    return fiftyone.Detections(detections=detections, run=run)


def _attributes(region: RegionRecord) -> dict[str, Any]:
    return {
        "phrase": region["label"],
        "phrase_scores": dict(region["phrase_scores"]),
        "saliency": region["saliency"],
        "needs_review": region["needs_review"],
    }


def label_id(field_name: str, region: str) -> str:
    """Id of a label, 24 hexadecimal digits: the same region of the same field always has the same."""
    return hashlib.sha256(f"{field_name}\n{region}".encode()).hexdigest()[:24]


def object_id(digits: str) -> Any:
    """As MongoDB keeps it."""
    from bson import ObjectId

    return ObjectId(digits)


def _map(fiftyone: Any, path: Path) -> Cell:
    text = str(path.absolute())
    return Cell((text,), partial(fiftyone.Heatmap, map_path=text, range=[0, 255]))


def _features(
    dataset: Any, run: FinishedRun, descriptors: Mapping[str, NDArray[np.float32]], report: PublishReport
) -> None:
    """Features of those that have none; of all, once another network makes them."""
    notes, network = notes_of(dataset), run.record.models.get("features", "")
    if notes.get("features") != network:
        with database_errors():
            dataset.clear_sample_field("features")
            dataset.clear_sample_field("uniqueness")
            keep_notes(dataset, {**notes, "features": network})
    with database_errors():
        missing = set(dataset.match(~_there("features")).values("key"))
        rows = {key: vector for key, vector in descriptors.items() if key in missing}
        if rows:
            dataset.set_values("features", rows, key_field="key", dynamic=False)
    report.count("features", len(rows))


def _there(name: str) -> Any:
    from fiftyone import ViewField

    return ViewField(name).exists()
