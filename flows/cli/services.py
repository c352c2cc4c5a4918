"""`saa services`: servers that saa can run for you, each installed apart from it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.common import JsonOption, WorkspaceOption, answer, print_json, progress, say

if TYPE_CHECKING:
    from integrations.label_studio.lifecycle import Running
    from integrations.settings import Settings

app = typer.Typer(
    no_args_is_help=True, help="Servers that saa runs for you: Label Studio, where experts correct masks."
)


class Service(StrEnum):
    """Servers that can be run."""

    LABEL_STUDIO = "label-studio"


ServiceArgument = Annotated[Service, typer.Argument(help="The screen where experts correct masks.")]


@app.command()
def up(
    service: ServiceArgument = Service.LABEL_STUDIO,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=1, max=65535, help="On 127.0.0.1; kept. [default: the last one, first a free one from 8080]"
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a server for this workspace; the first time, install it (about 1 GB, a minute or two).

    Example: `saa services up label-studio`

    It goes on after this command until `saa services down`, listens on this machine only, and sends nothing outside.
    """
    from integrations.label_studio import lifecycle
    from tasks.progress import advance

    settings = _settings(workspace)
    with progress():
        found, started = lifecycle.up(lifecycle.home_in(settings.workspace), settings.services, port, advance)
    if as_json:
        print_json(_described(service, found) | {"started": started})
        return
    say("started" if started else "it runs already, nothing was changed")
    _tell(found)


@app.command()
def status(
    service: ServiceArgument = Service.LABEL_STUDIO, workspace: WorkspaceOption = None, as_json: JsonOption = False
) -> None:
    """Say whether the workspace's server runs, where, and prove that it is ours: it takes the workspace's token.

    Example: `saa services status label-studio`
    """
    from integrations.label_studio import lifecycle

    found = lifecycle.running(lifecycle.home_in(_settings(workspace).workspace))
    if found is not None:
        found.prove()
    if as_json:
        print_json({"service": service, "state": "stopped"} if found is None else _described(service, found))
    elif found is None:
        answer(f"{service}: stopped; `saa services up {service}` starts it")
    else:
        _tell(found)


@app.command()
def down(
    service: ServiceArgument = Service.LABEL_STUDIO, workspace: WorkspaceOption = None, as_json: JsonOption = False
) -> None:
    """Stop the workspace's server; what it keeps stays in the workspace.

    Example: `saa services down label-studio`
    """
    from integrations.label_studio import lifecycle

    stopped = lifecycle.down(lifecycle.home_in(_settings(workspace).workspace))
    if as_json:
        print_json({"service": service, "state": "stopped", "stopped": stopped})
    else:
        say("stopped" if stopped else "it does not run, nothing was changed")


def _settings(workspace: Path | None) -> Settings:
    from integrations.settings import Settings

    return Settings.load(workspace=workspace)


def _described(service: Service, found: Running) -> dict[str, Any]:
    from integrations.label_studio.server import USERNAME

    return {
        "service": service,
        "state": "running",
        "url": found.url,
        "version": found.version,
        "pid": found.pid,
        "user": USERNAME,
        "password_file": str(found.home.password_file),
        "log": str(found.home.log),
    }


def _tell(found: Running) -> None:
    from integrations.label_studio.server import USERNAME

    answer(f"Label Studio {found.version}: {found.url} (pid {found.pid}), it takes this workspace's token")
    answer(f"  log in as {USERNAME}, the password is in {found.home.password_file}")
