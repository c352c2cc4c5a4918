"""The demo: the whole loop twice on a made product, measured against the masks that made it.

Monday's photographs are labelled with general words and the published numbers, an expert reviews them, the corrections
become a better bundle, and Tuesday's photographs, which neither the expert nor the refinement saw, show what it is
worth. The published numbers were made for GroundingDINO and SAM, so a loop that works has much to gain on other models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.evaluate import BundleFor, evaluate
from flows.runs import LabelRequest, RunSummary
from flows.start import refine, start
from integrations.blobs import BlobStore
from integrations.candidate_store import CandidateStore
from integrations.catalog import Catalog
from integrations.demo import MONDAY, SURFACES, TUESDAY, Day, make_demo
from integrations.formats.mvtec import read_mask, read_mvtec
from integrations.intake import Intake
from integrations.outputs import read_records
from integrations.refinery import RefineRequest, report_folder
from integrations.run_report import report_run
from integrations.settings import Settings
from integrations.simulated_expert import SOURCE, Defect, SimulatedExpert, review_run
from saa_core import library
from saa_core.metrics import regions
from saa_core.models import build
from saa_core.prompts import ConfidencePrompt, PromptBundle, SaliencyPrompt

_NEW_WORDS = ("brick",)
"""Surfaces whose experts' words are tried as phrases: that asks the models again, so one has to do here."""


def run_demo(out: Path) -> dict[str, Any]:
    """Make the sets, label Monday's, review it, refine, label Tuesday's, measure before and after.

    Args:
        out: Folder for all of it, absolute; a second call there finds everything done.

    Returns:
        `models`; `before`, `after` and, for comparison, `default`, the default profile without any correction:
        `classes` and `mean` of Tuesday's photographs as `evaluate` gives them; `reviews`: what the expert said, by
        surface; `refinements`: `outcome`, `reason`, `bundle` and `report` of each; `runs` as `label` reports them, and
        the paths of the `reports` of Tuesday's.
    """
    settings = Settings.load(workspace=out / "workspace")
    data = make_demo(out)
    monday = [_label(data, MONDAY, surface, _published(surface), settings) for surface in SURFACES]
    with Catalog(settings.catalog_url) as catalog:
        reviews = {run.product: _review(run, data, catalog, settings) for run in monday}
    refinements = {surface: _refine(surface, settings) for surface in SURFACES}
    with Catalog(settings.catalog_url) as catalog:
        refined = {surface: catalog.champion(surface) or _published(surface) for surface in SURFACES}
    tuesday = [_label(data, TUESDAY, surface, refined[surface], settings) for surface in SURFACES]
    store = CandidateStore(BlobStore(settings.blobs_url), build(), settings.max_pixels)
    before = _figures(data, _published, store, settings)
    after = _figures(data, refined.__getitem__, store, settings)
    return {
        "models": store.method.models,
        "before": before,
        "after": after,
        "default": _figures(data, lambda _: library.load("generic"), store, settings),
        "reviews": reviews,
        "refinements": refinements,
        "runs": [run.model_dump() for run in (*monday, *tuesday)],
        "reports": _reports(tuesday, data, before, after, settings),
    }


def _published(surface: str) -> PromptBundle:
    """General words, published equations and numbers; but the set is the context, and each thing is shown once."""
    return PromptBundle(
        product=surface,
        profile="paper",
        origin="saa demo",
        saliency=SaliencyPrompt(source="batch"),
        confidence=ConfidencePrompt(suppression=0.5),
    )


def _label(data: Path, day: Day, surface: str, bundle: PromptBundle, settings: Settings) -> RunSummary:
    source, workspace = str(data / day.name / surface / "test"), str(settings.workspace)
    return start(LabelRequest(source=source, product=surface, bundle=bundle, workspace=workspace), settings)


def _review(run: RunSummary, data: Path, catalog: Catalog, settings: Settings) -> dict[str, int]:
    """Let the expert review a run; of one that was reviewed before, nothing is new."""
    record = catalog.run(run.run)
    truth = {name: _defects(name, mask) for name, mask in _masks(data, MONDAY, run.product).items()}
    reviews = review_run(
        SimulatedExpert(),
        read_records(settings.runs / run.run),
        truth,
        product=run.product,
        run=run.run,
        bundle=catalog.bundle(run.bundle),
        at=record.finished or record.created,
    )
    Intake().store(catalog, SOURCE, reviews)
    found = [review.finding for review in reviews]
    return {"good": found.count("good"), "defective": found.count("defective"), "undecided": found.count(None)}


def _masks(data: Path, day: Day, surface: str) -> dict[str, Path]:
    """Files of the known masks, by the names that the images have in the run."""
    (found,) = read_mvtec(data / day.name, [surface])
    return {f"{item.defect}/{item.image.name}": item.mask for item in found.items if item.mask is not None}


def _defects(name: str, mask: Path) -> list[Defect]:
    return [(region, name.partition("/")[0]) for region in regions(read_mask(mask))]


def _refine(surface: str, settings: Settings) -> dict[str, Any]:
    """Refine a surface's bundle; what an earlier call found stays."""
    with Catalog(settings.catalog_url) as catalog:
        earlier = catalog.refinements(surface)
    if earlier:
        known = earlier[-1]
        report = report_folder(settings, surface, known.evidence, known.champion, known.bundle) / "report.html"
        return _told(known.outcome, known.content["reasons"][0], known.bundle, str(report))
    found = refine(RefineRequest(product=surface, new_phrases=surface in _NEW_WORDS), settings.workspace)
    refinement = found.refinement
    bundle = refinement.proposed or refinement.champion
    return _told(refinement.outcome, refinement.reasons[0], bundle.id, found.report)


def _told(outcome: str, reason: str, bundle: str, report: str) -> dict[str, Any]:
    return {"outcome": outcome, "reason": reason, "bundle": bundle, "report": report}


def _figures(data: Path, bundle_for: BundleFor, store: CandidateStore, settings: Settings) -> dict[str, Any]:
    found = evaluate(data / TUESDAY.name, [], bundle_for, store, settings.workers)
    return {"classes": found["classes"], "mean": found["mean"]}


def _reports(
    runs: list[RunSummary], data: Path, before: dict[str, Any], after: dict[str, Any], settings: Settings
) -> list[str]:
    """Write the reports of Tuesday's runs again, with the figures in them and the known masks beside what was found."""
    reports = []
    with Catalog(settings.catalog_url) as catalog:
        for run in runs:
            figures = {"before": before["classes"][run.product], "after": after["classes"][run.product]}
            truth = _masks(data, TUESDAY, run.product)
            reports.append(str(report_run(run.run, catalog, settings, figures, truth)))
    return reports
