"""`saa doctor`: what is installed, which models can run, and what to do about the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from flows.cli.common import Exit, JsonOption, WorkspaceOption, answer, print_json

if TYPE_CHECKING:
    from flows.doctor import Check


def doctor(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Say what is installed, which models can run, and what to do about the rest.

    Example: `saa doctor`

    Exit code 1 when something that the main job needs is broken.
    """
    from flows.doctor import checks
    from integrations.settings import Settings

    found = checks(Settings.load(workspace=workspace))
    if as_json:
        print_json({"checks": [check._asdict() for check in found]})
    else:
        _table(found)
    if any(check.state == "broken" for check in found):
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
