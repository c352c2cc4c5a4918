"""`saa export`: what experts said, or what a run found, as a data set for others' programs."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
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
from saa_core.errors import SettingsError

if TYPE_CHECKING:
    from integrations.export_sources import What


class Format(StrEnum):
    """Formats of data sets."""

    COCO = "coco"
    YOLO = "yolo"
    MVTEC = "mvtec"
    MASKS = "masks"


def export(
    format: Annotated[
        Format,
        typer.Argument(
            help="coco: run-lengths, loses nothing. yolo: outlines, fills holes. mvtec: good and defective images "
            "apart, all defective ones in the test. masks: PNG files of 0 and 255."
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="Where to: a new or empty folder.")],
    product: ProductOption,
    predictions: Annotated[
        bool,
        typer.Option(
            "--predictions/--reviews", help="What a run found, or what experts said: the newest word on each image."
        ),
    ] = False,
    run: Annotated[
        str | None, typer.Option("--run", help="Of --predictions: the run's id. [default: the product's latest]")
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Percent of the lots for train/val/test; 100/0/0 is no split.")
    ] = "80/10/10",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a data set to train on: images, masks, and where all of it comes from.

    Example: `saa export coco bottles/ --product bottle`

    All images of a lot are in the same part of the split, and stay in it when images are added (`saa label --lot`).
    Images that no expert has a finding on are left out and counted. provenance.json says which runs, bundles and models
    the masks come from and what the format cannot hold; where it is, the export is whole. Pictures are copied.
    """
    from flows.bundles import catalog_to_read
    from integrations.export import ExportRequest
    from integrations.export import export as write
    from integrations.settings import Settings
    from integrations.splits import Split
    from tasks.progress import advance

    if run is not None and not predictions:
        raise SettingsError("--run", "is for --predictions: reviews are of a product, whatever run they corrected")
    settings = Settings.load(workspace=workspace)
    what: What = "predictions" if predictions else "reviews"
    request = ExportRequest(format.value, folder, product, what, run, Split.parse(split))
    with progress(), catalog_to_read(settings) as catalog:
        report = write(catalog, settings, request, advance)
    say_refused("refused", report.refused)
    if as_json:
        print_json({"product": product, "format": format.value, "what": what, "folder": str(folder), **asdict(report)})
    else:
        answer(f"{what} of {product}: {report.sentence()}")
        for note in report.notes:
            answer(f"note: {note}")
        answer(f"export: {folder}")
    if report.refused:
        raise typer.Exit(Exit.PARTLY)
