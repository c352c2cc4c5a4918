"""`saa services`: servers that saa can run for you, each installed apart from it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.common import JsonOption, WorkspaceOption, answer, print_json, progress, say

if TYPE_CHECKING:
    from integrations.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    help="Servers that saa runs for you: Label Studio, where experts correct masks, and FiftyOne, where sets of images "
    "are curated.",
)


class Service(StrEnum):
    """Servers that can be run."""

    LABEL_STUDIO = "label-studio"
    FIFTYONE = "fiftyone"


class Installable(StrEnum):
    """Programs that can be installed apart from saa."""

    LABEL_STUDIO = "label-studio"
    MONGOD = "mongod"


ServiceArgument = Annotated[
    Service, typer.Argument(help="Where experts correct masks, or where sets of images are curated.")
]


@app.command()
def up(
    service: ServiceArgument = Service.LABEL_STUDIO,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            min=1,
            max=65535,
            help="On 127.0.0.1; kept. [default: the last one, first a free one from 8080, for FiftyOne from 5161]",
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a server for this workspace; Label Studio is installed the first time (about 1 GB, a minute or two).

    Examples: `saa services up label-studio`, `saa services up fiftyone`

    It goes on after this command until `saa services down`, listens on this machine only, and sends nothing outside.
    FiftyOne is two servers, a mongod and the App. Neither asks for a password: every user of this machine can reach
    the data, and by the App whatever files you can read.
    """
    from flows.services import VERBS

    with progress():
        told, started = VERBS[service].up(_settings(workspace), port)
    if as_json:
        print_json(told.facts | {"started": started})
        return
    say("started" if started else "it runs already, nothing was changed")
    for line in told.lines:
        answer(line)


@app.command()
def status(
    service: ServiceArgument = Service.LABEL_STUDIO, workspace: WorkspaceOption = None, as_json: JsonOption = False
) -> None:
    """Say whether the workspace's server runs, where, and prove that what answers there is it.

    Examples: `saa services status label-studio`, `saa services status fiftyone`
    """
    from flows.services import VERBS

    told = VERBS[service].status(_settings(workspace))
    if as_json:
        print_json({"service": service, "state": "stopped"} if told is None else told.facts)
        return
    for line in told.lines if told else (f"{service}: stopped; `saa services up {service}` starts it",):
        answer(line)


@app.command()
def down(
    service: ServiceArgument = Service.LABEL_STUDIO, workspace: WorkspaceOption = None, as_json: JsonOption = False
) -> None:
    """Stop the workspace's server; what it keeps stays in the workspace.

    Examples: `saa services down label-studio`, `saa services down fiftyone`
    """
    from flows.services import VERBS

    stopped = VERBS[service].down(_settings(workspace))
    if as_json:
        print_json({"service": service, "state": "stopped", "stopped": stopped})
    else:
        say("stopped" if stopped else "it does not run, nothing was changed")


@app.command()
def install(
    what: Annotated[Installable, typer.Argument(help="mongod is FiftyOne's database.")], as_json: JsonOption = False
) -> None:
    """Install a server's program apart from saa, in the folder of the setting services; nothing is started.

    Examples: `saa services install mongod` (for FiftyOne, about 200 MB), `saa services install label-studio`
    """
    from flows.services import install as install_program

    with progress():
        program = install_program(what, _settings(None))
    if as_json:
        print_json({"program": what, "version": program.version, "path": str(program.path)})
    else:
        answer(f"{what} {program.version}: {program.path}")


def _settings(workspace: Path | None) -> Settings:
    from integrations.settings import Settings

    return Settings.load(workspace=workspace)
