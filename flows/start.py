"""Start a run: answer from a finished one with the same content, or run the Prefect flow in this process."""

from __future__ import annotations

import time

from flows.progress import advance
from flows.runs import LabelRequest, RunSummary, finished_summary, run_id
from flows.runtime import prepare_prefect
from integrations.catalog import Catalog
from integrations.image_sets import scan
from integrations.settings import Settings


def start(request: LabelRequest, settings: Settings) -> RunSummary:
    """Label an image set, or say what the finished run of the same content says.

    A repeated command needs no Prefect: its run's id, made of the images' bytes, the bundle and the models, is in the
    catalog as done, and its files are there.

    Raises:
        SaaError: The set, the bundle or the workspace cannot be used.
    """
    started = time.monotonic()
    images = scan(request.source, limit=request.limit, lot=request.lot, exclude=[settings.workspace])
    with Catalog(settings.catalog_url) as catalog:
        run = run_id(request, images, settings.max_pixels)
        summary = finished_summary(request, settings, run, catalog)
    if summary is not None:
        return _timed(summary, started)
    advance("starting Prefect", 0, 1)
    wait_for_api = prepare_prefect(settings.workspace.absolute() / "prefect")
    from flows.label import run_label_flow

    wait_for_api()
    advance("starting Prefect", 1, 1)
    return _timed(run_label_flow(request, settings.workers), started)


def _timed(summary: RunSummary, started: float) -> RunSummary:
    return summary.model_copy(update={"seconds": round(time.monotonic() - started, 3)})
