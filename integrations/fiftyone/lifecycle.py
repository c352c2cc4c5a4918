"""The workspace's own FiftyOne, a mongod and a server of the App: started, found again, stopped."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import psutil

from integrations import daemons
from integrations.daemons import Daemon, Place, Program
from integrations.environments import Progress
from integrations.fiftyone import app, mongod
from integrations.fiftyone.environment import check_answers, variables
from integrations.launching import silent
from integrations.settings import Settings
from saa_core.errors import ServiceError

NAME = "fiftyone"

# Apart from 27017 and 5151, which a mongod or an App of somebody else's takes.
_FIRST_MONGOD_PORT = 27117
FIRST_APP_PORT = 5161
_DATABASE = ("FIFTYONE_DATABASE_URI", "FIFTYONE_DATABASE_NAME")


@dataclass(frozen=True, slots=True)
class Running:
    """What runs of a workspace's FiftyOne.

    Attributes:
        mongod: None if it does not run, or if a server of the user's has its part.
        app: None if it does not run.
        folder: Of both.
    """

    mongod: Daemon | None
    app: Daemon | None
    folder: Path

    @property
    def uri(self) -> str | None:
        """Where its own mongod answers."""
        return None if self.mongod is None else _mongod_place(self.folder).url(self.mongod.port)

    @property
    def url(self) -> str | None:
        """Where its App answers."""
        return None if self.app is None else _app_place(self.folder).url(self.app.port)

    def prove(self) -> None:
        """Show that what answers is what was started.

        Raises:
            ServiceError: One of them does not answer.
        """
        if self.mongod is not None and not daemons.listens(self.mongod.pid, self.mongod.port):
            raise silent(str(self.uri), self.mongod.pid, self.folder / "mongod")
        if self.app is not None and not app.answers(self.app.port, self.app.pid):
            raise silent(str(self.url), self.app.pid, self.folder / "app")


def folder_in(workspace: Path) -> Path:
    """Folder of the workspace's own FiftyOne."""
    return workspace.resolve() / "services" / "fiftyone"


def up(
    settings: Settings, plugins: Path, port: int | None = None, progress: Progress = lambda *step: None
) -> tuple[Running, bool]:
    """Start what does not run: the mongod, unless the settings name a server, then the App.

    Args:
        settings: Of the workspace.
        plugins: Folder of the App's plugins.
        port: Of the App on 127.0.0.1; None is the one it had last time, the first time one that is free.
        progress: Hears how far it is.

    Returns:
        What runs, and whether any of it was started now.

    Raises:
        ServiceError: There is no mongod, a port is taken, the App runs on another port or database, or one of the two
            does not come up.
        StoreError: A folder cannot be written.
    """
    folder, started = folder_in(settings.workspace), False
    progress("starting fiftyone", 0, 2)
    if settings.fiftyone_uri is None:
        _, started = daemons.up(_mongod_place(folder), _Mongod(settings, folder / "mongod"))
    uri = uri_of(settings)
    check_answers(uri)
    progress("starting fiftyone", 1, 2)
    wanted = variables(uri, settings.fiftyone_database, folder / "app") | _for_operators(settings, plugins)
    found, app_started = daemons.up(_app_place(folder), _App(folder / "app", wanted), port)
    _check_database(_app_place(folder).url(found.port), found, wanted)
    progress("starting fiftyone", 2, 2)
    return running(settings), started or app_started


def running(settings: Settings) -> Running:
    """What runs of the workspace's own; nothing is sent to it.

    Raises:
        ServiceError: A part lives, but the command that started it was killed before it could write down where.
    """
    folder = folder_in(settings.workspace)
    return Running(daemons.running(_mongod_place(folder)), daemons.running(_app_place(folder)), folder)


def down(settings: Settings) -> bool:
    """Stop the App, then the mongod, and wait until both have ended.

    Returns:
        Whether any was running.

    Raises:
        ServiceError: One does not end.
    """
    folder = folder_in(settings.workspace)
    return any([daemons.down(_app_place(folder)), daemons.down(_mongod_place(folder))])


def uri_of(settings: Settings) -> str:
    """Where FiftyOne's data of this workspace are: on the server that the settings name, else on its own mongod.

    Raises:
        ServiceError: No server is named, and its own does not run.
    """
    uri = settings.fiftyone_uri or running(settings).uri
    if uri is None:
        ways = "`saa services up fiftyone` starts it; SAA_FIFTYONE_URI names a mongod of yours"
        raise ServiceError(NAME, f"the mongod of this workspace does not run; {ways}")
    return uri


def dataset_url(settings: Settings, product: str) -> str | None:
    """The page of a product's data set; None if the workspace's App does not run.

    Raises:
        ServiceError: As `running`.
    """
    url = running(settings).url
    return None if url is None else f"{url}/datasets/{quote(product, safe='')}"


@dataclass(frozen=True, slots=True)
class _Mongod:
    """How the mongod is started, see `daemons.Server`."""

    settings: Settings
    folder: Path

    def program(self) -> Program:
        return mongod.find(self.settings)

    def launch(self, program: Program, port: int, inherited: Sequence[int]) -> subprocess.Popen[bytes]:
        return mongod.launch(program.path, self.folder, port, inherited)

    def wait(self, port: int, pid: int, alive: Callable[[], bool]) -> None:
        mongod.wait(self.folder, port, pid, alive)


@dataclass(frozen=True, slots=True)
class _App:
    """How the App's server is started, see `daemons.Server`."""

    folder: Path
    variables: Mapping[str, str]

    def program(self) -> Program:
        return app.program()

    def launch(self, program: Program, port: int, inherited: Sequence[int]) -> subprocess.Popen[bytes]:
        return app.launch(self.folder, port, self.variables, inherited)

    def wait(self, port: int, pid: int, alive: Callable[[], bool]) -> None:
        app.wait(self.folder, port, pid, alive)


def _mongod_place(folder: Path) -> Place:
    place = Place(NAME, folder / "mongod", _FIRST_MONGOD_PORT, "mongodb")
    return replace(place, other_port=f"delete {place.note}, and the next start takes a free one")


def _app_place(folder: Path) -> Place:
    return Place(NAME, folder / "app", FIRST_APP_PORT)


def _for_operators(settings: Settings, plugins: Path) -> dict[str, str]:
    """What the App's operators find the workspace by, whatever directory they work in."""
    return {"FIFTYONE_PLUGINS_DIR": str(plugins), "SAA_WORKSPACE": str(settings.workspace.resolve())}


def _check_database(url: str, found: Daemon, wanted: Mapping[str, str]) -> None:
    """An App goes on with the database that it was started on, whatever the settings have become."""
    has = psutil.Process(found.pid).environ()
    if any(has.get(name) != wanted[name] for name in _DATABASE):
        raise ServiceError(url, f"the App runs on another database; `saa services down {NAME}` first")
