"""`saa doctor`: what is installed, which models can run, and what to do about the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.common import (
    DetectorOption,
    Exit,
    FeaturesOption,
    JsonOption,
    SamOption,
    WeightsOption,
    WorkspaceOption,
    answer,
    named_setup,
    print_json,
    progress,
)

if TYPE_CHECKING:
    from flows.doctor import Check


def doctor(
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the foundation models' files that are not here, about 3.5 GB.")
    ] = False,
    detector: DetectorOption = "swint",
    sam: SamOption = "vit_h",
    features: FeaturesOption = None,
    weights_dir: WeightsOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is installed, which models can run, and what to do about the rest.

    Examples: `saa doctor`, `saa doctor --download --sam vit_b --weights-dir weights/`

    Files are downloaded only by --download, from their publishers, and compared with their known hashes; a download
    that was cut off goes on where it stopped. Exit code 1 when something that the main job needs is broken.
    """
    from flows.doctor import WEIGHTS, checks, fetch
    from integrations.settings import Settings

    settings = Settings.load(workspace=workspace)
    setup = named_setup(
        models="foundation",
        detector=detector,
        sam=sam,
        features=features,
        weights=weights_dir or settings.weights_dir,
        device=settings.device,
    )
    if download:
        with progress():
            fetch(settings, setup)
    found = checks(settings, setup)
    if as_json:
        print_json({"checks": [check._asdict() for check in found]})
    else:
        _table(found)
    if any(check.state == "broken" and not check.name.startswith(WEIGHTS) for check in found):
        raise typer.Exit(Exit.FAILED)


def _table(found: list[Check]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("what", "state")
    table.add_column("detail", overflow="fold")
    table.add_column("to do", overflow="fold")
    colours = {"ok": "green", "absent": "yellow", "broken": "red"}
    for check in found:
        table.add_row(check.name, Text(check.state, colours[check.state]), Text(check.detail), Text(check.advice))
    answer(table)
