"""The typer application: verbs are registered here, errors become one line and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from flows.cli import (
    bundle,
    champion,
    curate,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    gc,
    label,
    pull,
    push,
    refine,
    relabel,
    report,
    serve,
    services,
    settings,
    status,
)
from flows.cli.common import Exit, print_json, say
from saa_core import __version__
from saa_core.errors import SaaError

app = typer.Typer(
    name="saa",
    help="Find defects in product photographs without training: text-prompted, zero-shot anomaly masks (SAA++).\n\n"
    "Start with `saa demo`, then `saa label PHOTOS --product NAME`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"saa-labeling {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Find defects in product photographs without training."""


app.command("label")(label.label)
app.command("evaluate")(evaluate.evaluate)
app.command("demo")(demo.demo)
app.command("relabel")(relabel.relabel)
app.command("refine")(refine.refine)
app.command("report")(report.report)
app.command("explain")(explain.explain)
app.command("export")(export.export)
app.command("curate")(curate.curate)
app.command("promote")(champion.promote)
app.command("rollback")(champion.rollback)
app.command("audit")(champion.audit)
app.command("serve")(serve.serve)
app.command("gc")(gc.gc)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.add_typer(bundle.app, name="bundle")
app.add_typer(push.app, name="push")
app.add_typer(pull.app, name="pull")
app.add_typer(services.app, name="services")
app.add_typer(settings.app, name="config")


def main() -> None:
    """Run `saa` and end the process with one of `Exit`'s codes."""
    try:
        # Not standalone, in which wrong usage would end with 2: for us that is work done in part.
        code = app(standalone_mode=False) or Exit.DONE
    except SaaError as error:
        code = _failed(str(error))
    except typer.TyperException as error:
        # A command group without a verb has printed its help, and says nothing more.
        code = _failed(f"{error.format_message()} (see --help)" if str(error) else "")
    if code == Exit.INTERRUPTED:
        say("interrupted: the same command goes on where this one stopped")
    sys.exit(code)


def _failed(message: str) -> Exit:
    """What went wrong is one line on stderr, and an object under --json."""
    if message:
        say(f"error: {message}", style="red")
        if "--json" in sys.argv:
            print_json({"error": message})
    return Exit.FAILED
