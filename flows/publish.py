"""The `publish` flows: a finished run goes to Label Studio, where experts correct it, and to FiftyOne."""

from __future__ import annotations

from dataclasses import replace

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import events
from integrations.fiftyone.report import PublishReport
from integrations.label_studio.planning import PushReport
from tasks.publish import push_fiftyone, push_label_studio, register_webhook
from tasks.report import link_fiftyone, publish_lines, publish_link


@flow(name="publish", flow_run_name="publish-{product}")
def publish_flow(
    product: str,
    workspace: str,
    run: str | None = None,
    webhook: str | None = None,
    only: tuple[str, ...] = (),
) -> State[PushReport]:
    """Push a run to Label Studio.

    Ends as `Published`, or as `PublishedInPart` when images had to be left out; the report is the state's data.

    Args:
        product: What the images show.
        workspace: Folder of runs and catalog.
        run: Id of the run, or the beginning of it; None is the product's latest.
        webhook: Address of a doorbell that Label Studio is to ring.
        only: Names or keys of the images that may get a new task; none is all.
    """
    report = push_label_studio(product, run, workspace, only)
    if webhook and report.project is not None:
        written, note = register_webhook(product, report.project, webhook, workspace)
        report = replace(report, writes=report.writes + written, notes=[*report.notes, note])
    publish_lines(f"publish-{report.project}", [report.sentence(), report.url, *report.notes])
    publish_link(f"label-studio-{report.project}", report.url, f"{product} in Label Studio")
    name = "PublishedInPart" if report.refused else "Published"
    return Completed(name=name, message=report.sentence(), data=report)


@flow(name="publish-fiftyone", flow_run_name="publish-fiftyone-{product}")
def publish_fiftyone_flow(product: str, workspace: str, run: str | None = None) -> State[PublishReport]:
    """Pull what was said in FiftyOne's App, then bring a run and all reviews there; ends as `publish` does.

    Args:
        product: What the images show.
        workspace: Folder of runs and catalog.
        run: Id of the run, or the beginning of it; None is the product's latest.
    """
    report = push_fiftyone(product, run, workspace)
    publish_lines("publish-fiftyone", report.lines())
    link_fiftyone(product, workspace)
    events.reviewed(product, report.intake.states.total(), workspace)
    name = "PublishedInPart" if report.refused else "Published"
    return Completed(name=name, message=report.sentence(), data=report)
