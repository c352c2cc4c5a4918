"""The demo: a made product set, labelled as a user would, then measured against the masks that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.evaluate import evaluate
from flows.runs import LabelRequest
from flows.start import start
from integrations.blobs import BlobStore
from integrations.candidate_store import CandidateStore
from integrations.catalog import Catalog
from integrations.demo import DEFECTS, SURFACES, make_demo
from integrations.formats.mvtec import MvtecClass, read_mvtec
from integrations.run_report import report_run
from integrations.settings import Settings
from saa_core.models import build
from saa_core.prompts import LanguagePrompt, Phrase, PromptBundle


def run_demo(out: Path) -> dict[str, Any]:
    """Make the set, run `label` on each surface, measure, and write the reports with the figures in them.

    Args:
        out: Folder for all of it, absolute; a second call there finds everything done.

    Returns:
        `classes` and `mean` as `evaluate` gives them, `models`, `runs` as `label` reports them, and the paths of the
        `reports`.
    """
    settings = Settings.load(workspace=out / "workspace")
    data = make_demo(out)
    runs = [start(_request(data, surface, settings), settings) for surface in SURFACES]
    store = CandidateStore(BlobStore(settings.blobs_url), build(), settings.max_pixels)
    figures = evaluate(data, [], lambda name: _bundle(name.rpartition("/")[2]), store, settings.workers)
    truth = {found.name.rpartition("/")[2]: _truth(found) for found in read_mvtec(data)}
    by_surface = {name.rpartition("/")[2]: row for name, row in figures["classes"].items()}
    with Catalog(settings.catalog_url) as catalog:
        reports = [
            str(report_run(run.run, catalog, settings, {run.product: by_surface[run.product]}, truth[run.product]))
            for run in runs
        ]
    return {
        "models": store.method.models,
        "classes": by_surface,
        "mean": figures["mean"],
        "runs": [run.model_dump() for run in runs],
        "reports": [str(report) for report in reports],
    }


def _request(data: Path, surface: str, settings: Settings) -> LabelRequest:
    return LabelRequest(
        source=str(data / surface / "test"),
        product=surface,
        bundle=_bundle(surface),
        workspace=str(settings.workspace),
    )


def _truth(surface: MvtecClass) -> dict[str, Path]:
    """Files of the known masks, by the names that the images have in the run."""
    return {f"{item.defect}/{item.image.name}": item.mask for item in surface.items if item.mask is not None}


def _bundle(surface: str) -> PromptBundle:
    phrases = tuple(Phrase(text=defect) for defect in DEFECTS)
    return PromptBundle(product=surface, language=LanguagePrompt(object=surface, specific=phrases), origin="saa demo")
