"""`saa config`: every setting, its value and where it came from."""

from __future__ import annotations

import typer

from flows.cli.common import JsonOption, WorkspaceOption, answer, print_json

app = typer.Typer(no_args_is_help=True, help="Settings.")


@app.callback()
def root() -> None:
    """Settings: defaults, then saa.yaml, then SAA_* variables, then options."""


@app.command()
def show(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Show every setting with its value and its source; passwords in URLs are masked.

    Example: `SAA_BATCH_SIZE=32 saa config show`
    """
    from integrations.settings import Settings

    values = Settings.load(workspace=workspace).describe()
    if as_json:
        print_json({item.name: {"value": item.value, "source": item.source} for item in values})
        return
    from rich.table import Table

    table = Table("setting", "value", "source")
    for item in values:
        table.add_row(item.name, item.value, item.source)
    answer(table)
