"""`saa services`: servers that saa can run for you, each installed apart from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.common import Exit, JsonOption, WorkspaceOption, answer, print_json, progress, say
from saa_core.errors import SaaError, SettingsError

if TYPE_CHECKING:
    from flows.services import Told, Verbs
    from integrations.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    help="Servers that saa runs for you: Prefect, whose pages show every run; Label Studio, where experts correct "
    "masks; FiftyOne, where sets of images are curated; and serve, which lets each step follow from the one before.",
)


class Service(StrEnum):
    """Servers that can be run."""

    PREFECT = "prefect"
    LABEL_STUDIO = "label-studio"
    FIFTYONE = "fiftyone"
    SERVE = "serve"


class Installable(StrEnum):
    """Programs that can be installed apart from saa."""

    LABEL_STUDIO = "label-studio"
    MONGOD = "mongod"


ServiceArgument = Annotated[Service | None, typer.Argument(help="Only this one. [default: all of them]")]


@app.command()
def up(
    service: ServiceArgument = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            min=1,
            max=65535,
            help="Of this one service, on 127.0.0.1; kept. [default: the last one, first a free one: Prefect from "
            "4300, Label Studio 8080, FiftyOne 5161, serve 8765]",
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start the servers of this workspace; what is not there is installed first (about 1 GB, a minute or two).

    Examples: `saa services up label-studio`, `saa services up fiftyone`

    Without a name it is all of them. They go on after this command until `saa services down`, listen on this machine
    only, and send nothing outside. Label Studio has a login, and the doorbell a secret. The others ask for no password:
    every user of this machine can reach Prefect's runs, FiftyOne's data, and by its App whatever files you can read.
    """
    from flows.services import VERBS, prepare, wanted

    settings = _settings(workspace)
    if service is None:
        if port is not None:
            raise SettingsError("--port", "is for one service; name it")
        with progress():
            _all(wanted(settings), lambda name: _up(VERBS[name], settings, name, prepare), as_json)
        return
    with progress():
        told, started = VERBS[service].up(settings, port)
    if as_json:
        print_json(told.facts | {"started": started})
        return
    say("started" if started else "it runs already, nothing was changed")
    for line in told.lines:
        answer(line)


@app.command()
def status(service: ServiceArgument = None, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Say which of the workspace's servers run, where, and prove that what answers there is it.

    Examples: `saa services status label-studio`, `saa services status fiftyone`
    """
    from flows.services import VERBS

    settings = _settings(workspace)
    if service is None:
        _all(list(VERBS), lambda name: VERBS[name].status(settings) or _stopped(name), as_json)
        return
    told = VERBS[service].status(settings) or _stopped(service)
    if as_json:
        print_json(told.facts)
        return
    for line in told.lines:
        answer(line)


@app.command()
def down(service: ServiceArgument = None, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Stop the workspace's servers; what they keep stays in the workspace.

    Examples: `saa services down label-studio`, `saa services down fiftyone`
    """
    from flows.services import VERBS

    settings = _settings(workspace)
    if service is None:
        _all(list(VERBS)[::-1], lambda name: _down(VERBS[name], settings, name), as_json)
        return
    stopped = VERBS[service].down(settings)
    if as_json:
        print_json({"service": service, "state": "stopped", "stopped": stopped})
    else:
        say("stopped" if stopped else "it does not run, nothing was changed")


def _all(names: list[str], verb: Callable[[str], Told], as_json: bool) -> None:
    """Do it for each, also after one has failed, and tell what became of them."""
    told, failed = [], False
    for name in names:
        try:
            told.append(verb(name))
        except SaaError as error:
            failed = True
            told.append(_service_told(name, "failed", f"{name}: {error}", error=str(error)))
    if as_json:
        print_json({"services": [each.facts for each in told]})
    else:
        for line in (line for each in told for line in each.lines):
            answer(line)
    if failed:
        raise typer.Exit(Exit.PARTLY)


def _up(verbs: Verbs, settings: Settings, name: str, prepare: Callable[[Settings], None]) -> Told:
    if name == Service.FIFTYONE:
        prepare(settings)
    told, started = verbs.up(settings, None)
    return replace(told, facts=told.facts | {"started": started})


def _down(verbs: Verbs, settings: Settings, name: str) -> Told:
    stopped = verbs.down(settings)
    return _service_told(name, "stopped", f"{name}: {'stopped' if stopped else 'did not run'}", stopped=stopped)


def _stopped(name: str) -> Told:
    return _service_told(name, "stopped", f"{name}: stopped; `saa services up {name}` starts it")


def _service_told(name: str, state: str, line: str, **facts: Any) -> Told:
    from flows.services import Told

    return Told({"service": name, "state": state, **facts}, (line,))


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
