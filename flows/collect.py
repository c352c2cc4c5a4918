"""The `collect` flow: what experts said comes back into the catalog."""

from __future__ import annotations

from typing import TypeVar

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import events
from integrations.intake import Intake
from integrations.label_studio.pull import PullReport
from tasks.collect import pull_fiftyone, pull_label_studio, pull_masks
from tasks.report import publish_lines

_Intake = TypeVar("_Intake", bound=Intake)


@flow(name="collect", flow_run_name="collect-{product}")
def collect_flow(product: str, workspace: str) -> State[PullReport]:
    """Pull a product's reviews from Label Studio.

    Ends as `Collected`, or as `CollectedInPart` when reviews could not be used; the report is the state's data.

    Args:
        product: What the images show.
        workspace: Folder of runs and catalog.
    """
    report = pull_label_studio(product, workspace)
    return _collected(f"collect-{report.project}", report, product, workspace)


@flow(name="collect-fiftyone", flow_run_name="collect-fiftyone-{product}")
def collect_fiftyone_flow(product: str, workspace: str) -> State[Intake]:
    """Take a product's reviews from tags and masks made in FiftyOne's App; ends as `collect` does.

    Args:
        product: What the images show.
        workspace: Folder of runs and catalog.
    """
    return _collected("collect-fiftyone", pull_fiftyone(product, workspace), product, workspace)


@flow(name="collect-masks", flow_run_name="collect-masks-{product}")
def collect_masks_flow(folder: str, product: str, workspace: str) -> State[Intake]:
    """Take a product's reviews from mask files; ends as `collect` does.

    Args:
        folder: Of the masks.
        product: What the images show.
        workspace: Folder of runs and catalog.
    """
    return _collected("collect-masks", pull_masks(folder, product, workspace), product, workspace)


def _collected(key: str, intake: _Intake, product: str, workspace: str) -> State[_Intake]:
    publish_lines(key, [intake.sentence(), *intake.remarks()])
    events.reviewed(product, intake.states.total(), workspace)
    name = "CollectedInPart" if intake.refused else "Collected"
    return Completed(name=name, message=intake.sentence(), data=intake)
