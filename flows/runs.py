"""What a run is: its request, its identity by content, and what it says of itself at the end."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from integrations.catalog import Catalog, RunImage, RunRecord
from integrations.image_sets import ImageSet
from integrations.outputs import read_run, verify
from integrations.settings import RunnerName, Settings
from integrations.urls import masked_url
from saa_core import __version__
from saa_core.errors import StoreError
from saa_core.models import WEIGHT_FREE, ModelSetup, build
from saa_core.prompts import PromptBundle
from tasks.workbench import setup_of

SMALL_SET = "Fewer than 3 usable images: there is no set to compare with, so each image was its own context."


class LabelRequest(BaseModel):
    """What `saa label` was asked for.

    Prefect keeps the parameters of a flow, so credentials belong in the environment and not into `source`.

    Attributes:
        source: A folder, a glob, a list file or an fsspec URL.
        product: What the images show.
        bundle: The prompts.
        setup: The models.
        lot: Production lot of the images.
        limit: At most so many images.
        workspace: Folder of runs, catalog and candidates.
        runner: Where batches are worked on; None is the setting's. Like `address`, no part of what a run is.
        address: Of a cluster; None is the setting's.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    product: str
    bundle: PromptBundle
    setup: ModelSetup = WEIGHT_FREE
    lot: str | None = None
    limit: int | None = None
    workspace: str
    runner: RunnerName | None = None
    address: str | None = None


class ImageCounts(BaseModel):
    """Every image of the set, once: models ran for it, stored candidates answered for it, or it could not be used."""

    labelled: int
    reused: int
    quarantined: int


class RunSummary(BaseModel):
    """What `saa label --json` prints."""

    run: str
    product: str
    lot: str | None = None
    bundle: str
    profile: str
    models: dict[str, str]
    model_ids: dict[str, str] = {}
    images: ImageCounts
    model_calls: int
    regions: int
    seconds: float
    report: str
    unknown_words: list[str] = []
    notes: list[str] = []
    refused: list[tuple[str, str]] = []

    @property
    def whole(self) -> bool:
        """Whether every image got its masks."""
        return not self.images.quarantined

    def sentence(self) -> str:
        """The run in one sentence."""
        done = self.images.labelled + self.images.reused
        return f"{done} images with {self.regions} regions, {self.images.quarantined} quarantined"


def run_id(request: LabelRequest, images: ImageSet, max_pixels: int) -> str:
    """The run's id by content: the same images, names, words, numbers, models and size limit are the same run.

    16 hexadecimal digits of a SHA-256.
    """
    content: list[Any] = [
        request.product,
        request.bundle.id,
        request.lot,
        build(request.setup, request.bundle).id,
        __version__,
        max_pixels,
        sorted((ref.key, list(ref.names)) for ref in images.refs),
        sorted((refused.name, refused.reason) for refused in images.quarantined),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def again(run: RunRecord, bundle: PromptBundle, settings: Settings) -> LabelRequest:
    """The photographs of a finished run, decided by another bundle with the same models.

    Raises:
        StoreError: Its source holds a secret, and those are not kept.
    """
    if "***" in run.source:
        raise StoreError(run.source, f"holds a secret that was not kept; `saa label` it with --bundle {bundle.id}")
    folder = str(settings.workspace.absolute())
    setup = setup_of(run, settings)
    return LabelRequest(source=run.source, product=run.product, bundle=bundle, setup=setup, workspace=folder)


def begin(catalog: Catalog, request: LabelRequest, run: str) -> None:
    """Note the run; one that an interrupted attempt noted stays."""
    catalog.add_bundle(request.bundle, "library")
    catalog.begin_run(
        RunRecord(
            id=run,
            product=request.product,
            bundle=request.bundle.id,
            profile=request.bundle.profile,
            models=build(request.setup, request.bundle).ids,
            setup=request.setup.model_dump(mode="json", exclude={"device", "weights"}),
            code=__version__,
            source=masked_url(request.source),
        )
    )


def report_path(runs: Path, run: str) -> Path:
    """Where the report of a run lies."""
    return runs / run / "report.html"


def summarise(
    request: LabelRequest,
    settings: Settings,
    run: str,
    rows: Sequence[RunImage],
    calls: int,
    unknown_words: Sequence[str] = (),
) -> RunSummary:
    """The summary of a run from its catalog rows; `seconds` is the caller's to fill in."""
    states = Counter(row.state for row in rows)
    usable = len(rows) - states["quarantined"]
    notes = [SMALL_SET] if request.bundle.saliency.source == "batch" and 0 < usable < 3 else []
    if request.setup.tile is not None:
        notes.append(f"Larger images were looked at in tiles of {request.setup.tile} pixels too.")
    return RunSummary(
        run=run,
        product=request.product,
        lot=request.lot,
        bundle=request.bundle.id,
        profile=request.bundle.profile,
        models=build(request.setup, request.bundle).models,
        model_ids=build(request.setup, request.bundle).ids,
        images=ImageCounts(**{state: states[state] for state in ("labelled", "reused", "quarantined")}),
        model_calls=calls,
        regions=sum(row.regions for row in rows),
        seconds=0.0,
        report=str(report_path(settings.runs, run)),
        unknown_words=list(unknown_words),
        notes=notes,
        refused=[(row.name, row.reason) for row in rows if row.state == "quarantined"],
    )


def finished_summary(request: LabelRequest, settings: Settings, run: str, catalog: Catalog) -> RunSummary | None:
    """What a finished run says when asked for again: every image reused, no model called. None if not finished."""
    record = catalog.find_run(run)
    if record is None or record.state != "done":
        return None
    folder = settings.runs / run
    if not verify(folder) or not report_path(settings.runs, run).is_file():
        return None
    summary = RunSummary.model_validate(read_run(folder))
    images = summary.images
    again = ImageCounts(labelled=0, reused=images.labelled + images.reused, quarantined=images.quarantined)
    return summary.model_copy(update={"images": again, "model_calls": 0})
