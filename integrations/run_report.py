"""The report of a run, from what the run left on disk and in the catalog; it can be written again at any time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from integrations.catalog import Catalog, RunImage, RunRecord
from integrations.catalog.records import now
from integrations.formats.mvtec import read_mask
from integrations.image_sets import read_bytes
from integrations.outputs import ImageRecord, RegionRecord, read_records, read_run
from integrations.report import ReportEntry, RunReport, write_contact_sheet, write_report
from integrations.settings import Settings
from saa_core.errors import ImageError
from saa_core.images import load_image
from saa_core.masks import from_coco
from saa_core.types import FloatMap, ImageRef, Region

Figures = Mapping[str, Mapping[str, float | None]]


def report_run(
    run_id: str,
    catalog: Catalog,
    settings: Settings,
    figures: Figures | None = None,
    truth: Mapping[str, Path] | None = None,
) -> Path:
    """Write report.html and contact_sheet.png into the folder of a finished run.

    Args:
        run_id: The run.
        catalog: Knows where its images are.
        settings: Where its files are.
        figures: Metrics by class, where the truth is known.
        truth: Files of the known masks by image name, drawn beside what was found.

    Returns:
        Path of report.html.

    Raises:
        StoreError: The run's files are gone or damaged.
    """
    folder = settings.runs / run_id
    record, said = catalog.run(run_id), read_run(folder)
    rows = {row.name: row for row in catalog.images_of(run_id)}
    write_contact_sheet(_entries(folder, rows, settings, truth or {}), folder / "contact_sheet.png")
    report = _report(record, said, catalog, figures or {}, folder)
    return write_report(report, _entries(folder, rows, settings, truth or {}), folder)


def _report(record: RunRecord, said: Mapping[str, Any], catalog: Catalog, figures: Figures, folder: Path) -> RunReport:
    bundle = catalog.bundle(record.bundle)
    return RunReport(
        title=f"Anomaly masks of {record.product}",
        run=record.id,
        product=record.product,
        bundle=record.bundle,
        phrases=bundle.texts,
        profile=record.profile,
        models=said["models"],
        weight_free=said["models"].get("generator") == "lexical",
        model_calls=said["model_calls"],
        seconds=said["seconds"],
        reused=said["images"]["reused"],
        accept=bundle.decision.accept,
        accepted=_accepted(folder),
        quarantined=tuple((name, reason) for name, reason in said["refused"]),
        unknown_words=tuple(said["unknown_words"]),
        notes=tuple(said["notes"]),
        figures=figures,
        finished=record.finished or now(),
    )


def _accepted(folder: Path) -> int:
    return sum(not region["needs_review"] for record in read_records(folder) for region in record["regions"])


def _entries(
    folder: Path, rows: Mapping[str, RunImage], settings: Settings, truth: Mapping[str, Path]
) -> Iterator[ReportEntry]:
    for record in read_records(folder):
        name = record["names"][0]
        yield ReportEntry(
            name=name,
            score=record["score"],
            image=partial(_pixels, rows.get(name), record, settings.max_pixels),
            map=partial(_map, folder / record["maps"][0]),
            regions=tuple(_region(number, region) for number, region in enumerate(record["regions"])),
            truth=partial(read_mask, truth[name]) if name in truth else None,
        )


def _pixels(row: RunImage | None, record: ImageRecord, max_pixels: int) -> NDArray[np.uint8]:
    if row is None:
        raise ImageError(record["names"][0], "the catalog does not know where it is")
    ref = ImageRef(record["key"], row.uri, tuple(record["names"]))
    return load_image(read_bytes(ref), ref.names[0], max_pixels=max_pixels).pixels


def _map(path: Path) -> FloatMap:
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise ImageError(str(path), "the map is gone or damaged; run the same command again")
    return grey.astype(np.float32) / np.float32(255)


def _region(number: int, record: RegionRecord) -> Region:
    x0, y0, x1, y1 = record["box"]
    return Region(
        mask=from_coco(record["segmentation"]),
        box=(x0, y0, x1, y1),
        label=record["label"],
        score=record["score"],
        confidence=record["confidence"],
        phrase_scores=record["phrase_scores"],
        saliency=record["saliency"],
        area=record["area"],
        candidate=number,
    )
