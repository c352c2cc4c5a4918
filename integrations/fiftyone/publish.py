"""A finished run in FiftyOne: samples, regions, maps, order of review. What is there already is not written again.

Every step compares what is there with what should be and writes the difference. So publishing twice changes nothing,
and a publish that was cut off anywhere is finished by the next one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from integrations.fiftyone.columns import Cell, database_errors, put, put_plain
from integrations.fiftyone.media import CroppedMask, Media
from integrations.fiftyone.schema import BundleFields, bundle_fields, declare_bundle, keep_notes, notes_of
from integrations.finished_run import FinishedRun
from integrations.label_studio.payload import PushItem, push_item
from integrations.outputs import ImageRecord, RegionRecord
from saa_core.errors import ImageError
from saa_core.types import ImageRef

Advance = Callable[[str, int, int], None]
_BATCH = 500


@dataclass(slots=True)
class PublishReport:
    """What a publish did.

    Attributes:
        dataset: Name of the data set: the product.
        bundle: Key of the bundle's fields in it.
        added: Samples that are new.
        present: Samples of the run that were there.
        written: By field, how many samples it was written in; fields in which nothing changed are left out.
        refused: (image, reason) of those that cannot be shown.
        notes: What a person should know.
    """

    dataset: str
    bundle: str
    added: int = 0
    present: int = 0
    written: dict[str, int] = field(default_factory=dict)
    refused: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def count(self, name: str, written: int) -> None:
        """Note how many samples a field was written in."""
        if written:
            self.written[name] = self.written.get(name, 0) + written

    def sentence(self) -> str:
        """The publish in one sentence."""
        changes = ", ".join(f"{name} in {number}" for name, number in self.written.items())
        refused = f", {len(self.refused)} refused" if self.refused else ""
        return f"{self.added} new images, {self.present} there before{refused}; written: {changes or 'nothing'}"

    def as_dict(self) -> dict[str, Any]:
        """Every field, as JSON can hold it."""
        return asdict(self)


def publish_run(
    fiftyone: Any, dataset: Any, run: FinishedRun, descriptors: NDArray[np.float32], media: Media, advance: Advance
) -> PublishReport:
    """Bring a run into its product's data set.

    Args:
        fiftyone: The package, connected.
        dataset: From `make_dataset`; nobody else writes to it now.
        run: The run.
        descriptors: float32 (n, C), its images as vectors.
        media: Where its masks go.
        advance: Told of the progress.

    Raises:
        ServiceError: mongod does not answer.
        StoreError: A file cannot be written.
    """
    fields = bundle_fields(run.bundle.id, run.record.models)
    report = PublishReport(dataset.name, fields.key)
    with database_errors():
        declare_bundle(fiftyone, dataset, fields, f"bundle {run.bundle.id[:8]} with {run.models}")
        _samples(fiftyone, dataset, run, media, report, advance)
    order = run.priorities(descriptors)
    items = [push_item(*image, run.record.id, run.bundle) for image in zip(run.images, run.refs, order, strict=True)]
    regions = {
        item.ref.key: Cell(*_regions(fiftyone, fields, item, record, run.record.id, media))
        for item, record in _told(zip(items, run.images, strict=True), len(items), advance)
    }
    tokens = ("run", "detections.id", "detections.mask_path")
    report.count(fields.predictions, put(dataset, fields.predictions, regions, tokens))
    maps = {record["key"]: _map(fiftyone, run.folder / record["maps"][0]) for record in run.images}
    report.count(fields.map, put(dataset, fields.map, maps, ("map_path",)))
    report.count(fields.score, put_plain(dataset, fields.score, {i["key"]: i["score"] for i in run.images}))
    priorities = {item.ref.key: item.priority for item in items}
    report.count("review_priority", put_plain(dataset, "review_priority", priorities))
    _features(dataset, run, descriptors, report)
    _note(dataset, run, fields)
    return report


def bundles_in(dataset: Any) -> dict[BundleFields, str]:
    """The bundles that a data set holds, by when they were last published, the newest last, each with its last run."""
    return {BundleFields(each["key"]): each["run"] for each in notes_of(dataset)["bundles"]}


def newest_in(dataset: Any) -> BundleFields | None:
    """The bundle that was published last: whose regions people judge; None if the data set holds none."""
    return next(reversed(bundles_in(dataset)), None)


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


def _features(dataset: Any, run: FinishedRun, descriptors: NDArray[np.float32], report: PublishReport) -> None:
    """Features of those that have none; of all, once another network makes them."""
    notes, network = notes_of(dataset), run.record.models.get("features", "")
    if notes.get("features") != network:
        with database_errors():
            dataset.clear_sample_field("features")
            dataset.clear_sample_field("uniqueness")
            keep_notes(dataset, {**notes, "features": network})
    with database_errors():
        missing = set(dataset.match(~_there("features")).values("key"))
        rows = {ref.key: row for ref, row in zip(run.refs, descriptors, strict=True) if ref.key in missing}
        if rows:
            dataset.set_values("features", rows, key_field="key", dynamic=False)
    report.count("features", len(rows))


def _there(name: str) -> Any:
    from fiftyone import ViewField

    return ViewField(name).exists()


def _note(dataset: Any, run: FinishedRun, fields: BundleFields) -> None:
    """Which bundle is the newest; it moves to the end."""
    notes = notes_of(dataset)
    entry = {"key": fields.key, "bundle": run.bundle.id, "run": run.record.id, "models": run.models}
    notes["bundles"] = [*(each for each in notes["bundles"] if each["key"] != fields.key), entry]
    with database_errors():
        keep_notes(dataset, notes)
