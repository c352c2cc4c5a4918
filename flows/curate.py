"""The `curate` flow: FiftyOne gets what is new, gives back what was said there, and figures say what to look at.

One step, under one lock: between its parts nobody else may write.
"""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import events
from integrations.fiftyone.workspace import Curated
from tasks.curate import curate_fiftyone
from tasks.report import link_fiftyone, publish_lines


@flow(name="curate", flow_run_name="curate-{product}")
def curate_flow(product: str, workspace: str, run: str | None = None) -> State[Curated]:
    """Curate a product in FiftyOne.

    Ends as `Curated`, or as `CuratedInPart` when images or reviews had to be left out; the account is the state's data.

    Args:
        product: What the images show.
        workspace: Folder of runs and catalog.
        run: Id of the run to bring there, or the beginning of it; None is the product's latest.
    """
    curated = curate_fiftyone(product, run, workspace)
    publish_lines("curate", curated.lines())
    link_fiftyone(product, workspace)
    events.reviewed(product, curated.published.intake.states.total(), workspace)
    name = "CuratedInPart" if curated.published.refused else "Curated"
    return Completed(name=name, message=curated.lines()[0], data=curated)
