"""`saa report`: the report of a run, written again."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.common import JsonOption, WorkspaceOption, answer, print_json
from saa_core.errors import StoreError


def report(
    run: Annotated[str | None, typer.Option("--run", help="A run's id or its beginning. [default: the latest]")] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the report and the contact sheet of a run again, and say where they are.

    Example: `saa report --run 3f2a`
    """
    from flows.bundles import catalog_to_read
    from integrations.run_report import report_run
    from integrations.settings import Settings

    settings = Settings.load(workspace=workspace)
    with catalog_to_read(settings) as catalog:
        record = catalog.latest_run() if run is None else catalog.run(run)
        if record is None:
            raise StoreError(str(settings.workspace), "holds no run yet; `saa label IMAGES --product P` makes one")
        path = report_run(record.id, catalog, settings)
    if as_json:
        print_json({"run": record.id, "report": str(path), "contact_sheet": str(path.with_name("contact_sheet.png"))})
    else:
        answer(f"report: {path}")
