"""`saa push`: what a run found goes to where experts look at it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from flows.cli.common import (
    Exit,
    JsonOption,
    ProductOption,
    WorkspaceOption,
    answer,
    print_json,
    progress,
    say_refused,
)

app = typer.Typer(no_args_is_help=True, help="Send a run's regions to where people correct and compare them.")


@app.callback()
def root() -> None:
    """Send a run's regions to where people correct and compare them."""


@app.command("label-studio")
def label_studio(
    product: ProductOption,
    run: Annotated[str | None, typer.Option("--run", help="The run's id. [default: the product's latest]")] = None,
    webhook: Annotated[
        str | None, typer.Option("--webhook", help="Address of `saa serve`, which Label Studio is to ring.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Make a task for this image alone, by name or key; may be given several times."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Push a run to Label Studio: images as tasks, regions as brush masks that experts correct.

    Example: `saa push label-studio --product bottle`

    What is there already is not sent again: the same command twice writes nothing, and one that was interrupted goes
    on where it stopped. A random tenth of the images (setting unaided_share) is shown without masks, so that there are
    reviews that no mask has influenced. With --only, tasks of other images that are there are still brought up to
    date: a project shows one version of the masks. `saa services up label-studio` starts a server, if you have none.
    """
    from flows.start import plan_publish, publish
    from integrations.settings import Settings

    folder = Settings.load(workspace=workspace).workspace
    with progress():
        if dry_run:
            report = plan_publish(product, folder, run, only or ())
        else:
            report = publish(product, folder, run, webhook, only or ())
    say_refused("refused", report.refused)
    if as_json:
        print_json({"product": product, "dry_run": dry_run, **asdict(report)})
    else:
        answer(f"{'would be: ' if dry_run else ''}{report.sentence()}")
        for note in report.notes:
            answer(f"note: {note}")
        note = " - weight-free, not GroundingDINO or SAM" if report.version.startswith("lexical") else ""
        answer(f"masks by: {report.version}{note}")
        answer(f"project: {report.url if report.project is not None else 'is made by the push'}")
    if report.refused:
        raise typer.Exit(Exit.PARTLY)


@app.command("fiftyone")
def fiftyone(
    product: ProductOption,
    run: Annotated[str | None, typer.Option("--run", help="The run's id. [default: the product's latest]")] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a run into FiftyOne: masks, anomaly maps and scores beside those of earlier bundles, and all reviews.

    Example: `saa push fiftyone --product bottle`

    Each product is one data set. What was said in the App is pulled first. What is there already is not written again,
    so the same command twice writes nothing. `saa services up fiftyone` starts the database and the App; `saa curate`
    also evaluates and compares.
    """
    from flows.start import publish_fiftyone
    from integrations.settings import Settings

    with progress():
        report = publish_fiftyone(product, Settings.load(workspace=workspace).workspace, run)
    say_refused("refused", report.refused)
    if as_json:
        print_json({"product": product, **report.as_dict()})
    else:
        for line in report.lines():
            answer(line)
    if report.refused:
        raise typer.Exit(Exit.PARTLY)
