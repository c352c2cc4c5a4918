"""Export: a product's reviews or predictions as a data set that others' programs train on.

<folder>/...               what the format wants, see `integrations.formats`
<folder>/images.jsonl      a line an image: its file there, its names and SHA-256 here, lot, part of the split
<folder>/provenance.json   where all of it comes from, put there last: where it is, the export is whole
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from integrations.catalog import Catalog
from integrations.catalog.records import now
from integrations.environments import held
from integrations.export_folder import PROVENANCE, built
from integrations.export_images import ImageStream, survey
from integrations.export_sources import Source, What, predictions, reviews
from integrations.files import atomic, write_atomic
from integrations.finished_run import run_of
from integrations.formats.coco import write_coco
from integrations.formats.exported import PARTS, WriteFormat
from integrations.formats.masks import write_masks
from integrations.formats.mvtec_writer import write_mvtec
from integrations.formats.yolo import write_yolo
from integrations.settings import Settings
from integrations.splits import Split
from saa_core import __version__
from saa_core.errors import StoreError

if TYPE_CHECKING:
    from integrations.evidence_store import Advance

FORMATS: Mapping[str, WriteFormat] = {
    "coco": write_coco,
    "yolo": write_yolo,
    "mvtec": write_mvtec,
    "masks": write_masks,
}
"""How each format is written, by its name."""

_CAUTION: Mapping[What, tuple[str, ...]] = {
    "reviews": (),
    "predictions": ("nobody has looked at these images: good is one on which the run found nothing",),
}


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export.

    Attributes:
        format: One of `FORMATS`.
        folder: Where to; new or empty.
        product: What the images show.
        what: Experts' reviews, or what a run found.
        run: Of predictions the run's id, or the beginning of it; None is the product's latest.
        split: Shares of the parts.
    """

    format: str
    folder: Path
    product: str
    what: What = "reviews"
    run: str | None = None
    split: Split = field(default_factory=Split)


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was exported.

    Attributes:
        images: Written images of each part of the split.
        good: How many of them are good.
        regions: Regions of the others.
        labels: Every label, in the order of the format's classes.
        left_out: How many images were left out on purpose, by reason.
        refused: (image, reason) of those that cannot be exported.
        notes: What whoever trains on it has to know, such as what the format cannot hold, a sentence each.
        runs: Ids of the runs that the regions are from, or were corrected from.
    """

    images: Mapping[str, int]
    good: int
    regions: int
    labels: tuple[str, ...]
    left_out: Mapping[str, int]
    refused: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    runs: tuple[str, ...]

    def sentence(self) -> str:
        """What was exported, in one sentence."""
        parts = ", ".join(f"{count} {part}" for part, count in self.images.items())
        total = sum(self.images.values())
        left = "".join(f", {count} {reason}" for reason, count in self.left_out.items())
        return (
            f"{total} images ({parts}): {self.good} good, {total - self.good} defective with {self.regions} regions"
            f"{'; left out:' + left[1:] if left else ''}"
        )


def export(catalog: Catalog, settings: Settings, request: ExportRequest, advance: Advance) -> ExportReport:
    """Write a data set. An image that cannot be read any more is refused by name, and the others go on.

    Args:
        catalog: Of the workspace.
        settings: Where the runs are.
        request: What to export, and where to.
        advance: Told of the progress.

    Raises:
        StoreError: There is nothing to export, the folder holds something, or a file cannot be written. Then nothing
            is left in the folder.
    """
    source = _source(catalog, settings, request)
    with held(settings.workspace / "export.lock"), built(request.folder) as folder:
        with atomic(folder / "images.jsonl") as lines:
            images = ImageStream(source, survey(source), request.split, partial(_note, lines), advance)
            losses = FORMATS[request.format](folder, images.survey.labels, images)
        report = _report(images, (*_CAUTION[request.what], *losses))
        content = json.dumps(_provenance(catalog, request, report), indent=2, ensure_ascii=False)
        write_atomic(folder / PROVENANCE, content.encode())
    return report


def _note(lines: BinaryIO, image: Mapping[str, Any]) -> None:
    lines.write(json.dumps(image, ensure_ascii=False).encode() + b"\n")


def _source(catalog: Catalog, settings: Settings, request: ExportRequest) -> Source:
    if request.what == "reviews":
        return reviews(catalog, request.product)
    run = run_of(catalog, request.product, request.run)
    return predictions(catalog, run, settings.runs / run.id)


def _report(images: ImageStream, notes: tuple[str, ...]) -> ExportReport:
    source, seen = images.source, images.survey
    refused = tuple(sorted([*seen.refused, *images.refused]))
    if not images.parts:
        reason = ": ".join(refused[0]) if refused else f"{seen.undrawn} are called defective with nothing drawn"
        raise StoreError(source.product, f"has no image that can be exported; {reason}")
    unsaid = source.known - len(seen.stems) - len(seen.refused) - seen.undrawn
    left_out = {"without a finding": unsaid, "called defective with nothing drawn": seen.undrawn}
    return ExportReport(
        images={part: images.parts[part] for part in PARTS},
        good=images.good,
        regions=images.regions,
        labels=seen.labels,
        left_out={reason: count for reason, count in left_out.items() if count},
        refused=refused,
        notes=notes,
        runs=seen.runs,
    )


def _provenance(catalog: Catalog, request: ExportRequest, report: ExportReport) -> Mapping[str, Any]:
    records = [record for record in map(catalog.find_run, report.runs) if record is not None]
    runs = [
        {"id": run.id, "bundle": run.bundle, "profile": run.profile, "models": dict(run.models), "code": run.code}
        for run in records
    ]
    return {
        "product": request.product,
        "format": request.format,
        "what": request.what,
        "code": __version__,
        "created": now().isoformat(),
        "split": {"shares": str(request.split), "rule": request.split.rule()},
        **asdict(report),
        "runs": runs,
    }
