"""`saa pull`: what experts said comes back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from integrations.intake import Intake

app = typer.Typer(no_args_is_help=True, help="Bring experts' corrections back into the workspace.")


@app.command("label-studio")
def label_studio(product: ProductOption, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Pull what experts did in Label Studio since the last time: each region accepted, adjusted, rejected, added.

    Example: `saa pull label-studio --product bottle`

    Skipped tasks are no evidence, an empty submitted one means "good". Reviews are only ever added to the catalog.
    """
    from flows.start import collect
    from integrations.settings import Settings

    with progress():
        report = collect(product, Settings.load(workspace=workspace).workspace)
    _tell(product, report, as_json)


@app.command("fiftyone")
def fiftyone(product: ProductOption, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Pull what people said in FiftyOne's App: regions tagged accepted or rejected, images tagged good, edited masks.

    Example: `saa pull fiftyone --product bottle`

    An image counts once all regions on it are tagged, or the image itself is tagged good. Masks painted in the App are
    as coarse as its canvas; for exact ones send the images to Label Studio. Reviews are only ever added to the catalog.
    """
    from flows.start import collect_fiftyone
    from integrations.settings import Settings

    with progress():
        report = collect_fiftyone(product, Settings.load(workspace=workspace).workspace)
    _tell(product, report, as_json)


@app.command("masks")
def masks(
    folder: Annotated[
        Path, typer.Argument(help="Folder of mask files with the images' names; 0 is good, anything else defect.")
    ],
    product: ProductOption,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take reviews from mask files made elsewhere; an empty mask says that the image is good.

    Example: `saa pull masks corrected/ --product bottle`

    A mask has the name of its image in the product's latest run, with any suffix, and the image's size. It is compared
    with what that run found. The same files again change nothing.
    """
    from flows.start import collect_masks
    from integrations.settings import Settings

    with progress():
        report = collect_masks(folder, product, Settings.load(workspace=workspace).workspace)
    _tell(product, report, as_json)


def _tell(product: str, report: Intake, as_json: bool) -> None:
    """Print what came in and end with its exit code."""
    say_refused("refused", report.refused)
    if as_json:
        print_json({"product": product, **report.as_dict()})
    else:
        answer(report.sentence())
        for line in report.remarks():
            answer(f"note: {line}")
    if report.refused:
        raise typer.Exit(Exit.PARTLY)
