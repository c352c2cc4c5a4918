"""The `refine` flow: experts' corrections become a better bundle, guarded.

collect (on request) -> evidence, search, guard -> settle -> report -> conclude

What a promotion changes comes last: a program that ended before has changed nothing, and the same command again finds
the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import events
from flows.label import run_label_flow
from flows.runs import again
from flows.runtime import as_is, one_thread_each
from integrations.catalog import Catalog
from integrations.finished_run import run_of
from integrations.label_studio.planning import PushReport
from integrations.refinery import RefineRequest, current_bundle
from integrations.report.refinement import lines
from integrations.settings import Settings
from saa_core.refinement.outcome import Refinement
from tasks.collect import pull_label_studio
from tasks.publish import push_label_studio
from tasks.refine import conclude_refinement, count_reviews, report_refinement, search_bundle, settle_refinement
from tasks.report import publish_lines

_STATES = {"promoted": "Promoted", "proposed": "Proposed", "kept": "Kept", "collect-more": "CollectMore"}


@dataclass(frozen=True, slots=True)
class Refined:
    """What a refinement came to.

    Attributes:
        refinement: What was found and what became of it.
        report: Path of its report.
        run: Id of the run that the new bundle decided, where that was asked for and there is a new one.
        pushed: What became of it in Label Studio.
    """

    refinement: Refinement
    report: str
    run: str | None = None
    pushed: PushReport | None = None


@flow(name="refine", flow_run_name="refine-{request.product}", validate_parameters=False)
def refine_flow(request: RefineRequest, workspace: str, collect: bool = False, publish: bool = False) -> State[Refined]:
    """Refine a product's bundle.

    Ends as `Promoted`, `Proposed`, `Kept` or `CollectMore`.

    Args:
        request: What to refine.
        workspace: Folder of runs and catalog.
        collect: Whether to pull the product's reviews from Label Studio first.
        publish: Whether to label the images of the latest run again with a promoted bundle, and push them.
    """
    if collect:
        pull_label_studio(request.product, workspace)
    reviews = count_reviews(request.product, workspace)
    with one_thread_each():
        found = search_bundle(request, workspace)
    refinement = settle_refinement(as_is(found), workspace)
    report = report_refinement(as_is(refinement), workspace)
    conclude_refinement(as_is(refinement), reviews, workspace)
    said = lines(refinement)
    publish_lines(Path(report).parent.name, [*said, report])
    refined = Refined(refinement, report)
    if refinement.outcome == "promoted" and publish:
        refined = _published(refined, workspace)
    elif refinement.outcome == "promoted" and refinement.proposed is not None:
        events.promoted(request.product, refinement.proposed.id)
    return Completed(name=_STATES[refinement.outcome], message=said[0], data=refined)


def _published(refined: Refined, workspace: str) -> Refined:
    """Label the images of the product's latest run again, with what its champion is now, and push them."""
    settings, product = Settings.load(workspace=Path(workspace)), refined.refinement.product
    with Catalog(settings.catalog_url) as catalog:
        request = again(run_of(catalog, product, None), current_bundle(catalog, product), settings)
    labelled = run_label_flow(request).run
    return replace(refined, run=labelled, pushed=push_label_studio(product, labelled, workspace))
