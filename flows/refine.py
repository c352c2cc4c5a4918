"""The `refine` flow: experts' corrections become a better bundle, guarded.

collect (on request) -> evidence, search, guard -> settle -> report -> conclude

What a promotion changes comes last: a program that ended before has changed nothing, and the same command again finds
the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.runtime import as_is, one_thread_each
from integrations.refinery import RefineRequest
from integrations.report.refinement import lines
from saa_core.refinement.outcome import Refinement
from tasks.collect import pull_label_studio
from tasks.refine import conclude_refinement, report_refinement, search_bundle, settle_refinement
from tasks.report import publish_lines

_STATES = {"promoted": "Promoted", "proposed": "Proposed", "kept": "Kept", "collect-more": "CollectMore"}


@dataclass(frozen=True, slots=True)
class Refined:
    """What a refinement came to.

    Attributes:
        refinement: What was found and what became of it.
        report: Path of its report.
    """

    refinement: Refinement
    report: str


@flow(name="refine", flow_run_name="refine-{request.product}", validate_parameters=False)
def refine_flow(request: RefineRequest, workspace: str, collect: bool = False) -> State[Refined]:
    """Refine a product's bundle.

    Ends as `Promoted`, `Proposed`, `Kept` or `CollectMore`.

    Args:
        request: What to refine.
        workspace: Folder of runs and catalog.
        collect: Whether to pull the product's reviews from Label Studio first.
    """
    if collect:
        pull_label_studio(request.product, workspace)
    with one_thread_each():
        found = search_bundle(request, workspace)
    refinement = settle_refinement(as_is(found), workspace)
    report = report_refinement(as_is(refinement), workspace)
    conclude_refinement(as_is(refinement), workspace)
    said = lines(refinement)
    publish_lines(f"refine-{refinement.evidence.hash}", [*said, report])
    return Completed(name=_STATES[refinement.outcome], message=said[0], data=Refined(refinement, report))
