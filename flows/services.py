"""The servers that saa runs for a workspace, each started, described and stopped in the same words."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from integrations import daemons, prefect_server
from integrations.daemons import Daemon, Place, Program
from integrations.fiftyone import lifecycle as fiftyone
from integrations.fiftyone import mongod
from integrations.http_daemon import HttpDaemon
from integrations.label_studio import lifecycle as label_studio
from integrations.label_studio import server
from integrations.settings import Settings
from integrations.urls import masked_url
from saa_core import __version__
from saa_core.errors import ServiceError
from tasks.progress import advance

SERVE = "serve"
"""The service of `saa serve`."""
FIRST_DOORBELL_PORT = 8765

PLUGINS = Path(__file__).with_name("app")
"""What FiftyOne's App can do beyond showing."""


@dataclass(frozen=True, slots=True)
class Told:
    """What is said of a service that runs.

    Attributes:
        facts: To a program.
        lines: To a person.
    """

    facts: dict[str, Any]
    lines: tuple[str, ...]


class Verbs(Protocol):
    """What can be done with a service of a workspace; errors as of its `lifecycle`."""

    def up(self, settings: Settings, port: int | None) -> tuple[Told, bool]:
        """Start it unless it runs; says whether it was started now."""

    def status(self, settings: Settings) -> Told | None:
        """What runs of it, proven to be the workspace's own; None if nothing does."""

    def down(self, settings: Settings) -> bool:
        """Stop it and wait until it has ended; says whether it was running."""


def install(what: str, settings: Settings) -> Program:
    """A program apart from saa, installed now if it is not there.

    Args:
        what: "label-studio" or "mongod".
        settings: Say where.

    Raises:
        StoreError: It cannot be installed, or does not run on this machine.
    """
    if what == "mongod":
        return mongod.install(settings.services, advance)
    return Program(server.install(settings.services, advance), server.VERSION)


class _Own:
    """One of our own programs: a single daemon."""

    def __init__(self, called: str, daemon: Callable[[Path], HttpDaemon]) -> None:
        self._called = called
        self._daemon = daemon

    def up(self, settings: Settings, port: int | None) -> tuple[Told, bool]:
        daemon = self._daemon(settings.workspace)
        advance(f"starting {daemon.place.service}", 0, 1)
        found, started = daemons.up(daemon.place, daemon, port)
        advance(f"starting {daemon.place.service}", 1, 1)
        return self._told(daemon.place, found), started

    def status(self, settings: Settings) -> Told | None:
        daemon = self._daemon(settings.workspace)
        found = daemons.running(daemon.place)
        if found is None:
            return None
        daemon.prove(found.port, found.pid)
        return self._told(daemon.place, found)

    def down(self, settings: Settings) -> bool:
        return daemons.down(self._daemon(settings.workspace).place)

    def _told(self, place: Place, found: Daemon) -> Told:
        facts = {
            "service": place.service,
            "state": "running",
            "url": place.url(found.port),
            "version": found.version,
            "pid": found.pid,
            "log": str(place.log),
        }
        return Told(facts, (f"{self._called} {found.version}: {facts['url']} (pid {found.pid}), log {place.log}",))


def serve_in(workspace: Path) -> HttpDaemon:
    """How `saa serve` is started for a workspace."""
    folder = workspace.resolve()
    place = Place(SERVE, folder / "services" / SERVE, FIRST_DOORBELL_PORT)
    words = ("serve", "--port", "{port}", "--workspace", str(folder))
    return HttpDaemon(place, __version__, "flows.cli", words, {}, "/health")


class _LabelStudio:
    def up(self, settings: Settings, port: int | None) -> tuple[Told, bool]:
        home = label_studio.home_in(settings.workspace)
        found, started = label_studio.up(home, settings.services, port, advance)
        return _of_label_studio(found), started

    def status(self, settings: Settings) -> Told | None:
        found = label_studio.running(label_studio.home_in(settings.workspace))
        if found is None:
            return None
        found.prove()
        return _of_label_studio(found)

    def down(self, settings: Settings) -> bool:
        return label_studio.down(label_studio.home_in(settings.workspace))


class _FiftyOne:
    def up(self, settings: Settings, port: int | None) -> tuple[Told, bool]:
        found, started = fiftyone.up(settings, PLUGINS, port, advance)
        return _of_fiftyone(found, settings), started

    def status(self, settings: Settings) -> Told | None:
        found = fiftyone.running(settings)
        if found.mongod is None and found.app is None:
            return None
        found.prove()
        return _of_fiftyone(found, settings)

    def down(self, settings: Settings) -> bool:
        return fiftyone.down(settings)


VERBS: Mapping[str, Verbs] = {
    prefect_server.NAME: _Own("Prefect", prefect_server.server_in),
    label_studio.NAME: _LabelStudio(),
    fiftyone.NAME: _FiftyOne(),
    SERVE: _Own("the doorbell and the deployments of saa", serve_in),
}
"""By the service's name, in the order in which they are started: each finds those before it."""


def wanted(settings: Settings) -> list[str]:
    """The services that a workspace needs of its own: those for which the user has named no server."""
    yours = set()
    if {"PREFECT_API_URL", "PREFECT_PROFILE"} & os.environ.keys():
        yours.add(prefect_server.NAME)
    if settings.label_studio_url is not None:
        yours.add(label_studio.NAME)
    return [name for name in VERBS if name not in yours]


def prepare(settings: Settings) -> None:
    """Install what a newcomer lacks and `up` does not install by itself.

    Raises:
        StoreError: It cannot be installed.
    """
    if settings.fiftyone_uri is None and settings.mongod is None:
        try:
            mongod.find(settings)
        except ServiceError:
            install("mongod", settings)


def _of_label_studio(found: label_studio.Running) -> Told:
    facts = {
        "service": label_studio.NAME,
        "state": "running",
        "url": found.url,
        "version": found.version,
        "pid": found.pid,
        "user": server.USERNAME,
        "password_file": str(found.home.password_file),
        "log": str(found.home.log),
    }
    where = f"Label Studio {found.version}: {found.url} (pid {found.pid}), it takes this workspace's token"
    return Told(facts, (where, f"  log in as {server.USERNAME}, the password is in {found.home.password_file}"))


def _of_fiftyone(found: fiftyone.Running, settings: Settings) -> Told:
    uri = settings.fiftyone_uri or found.uri
    whole = uri is not None and found.app is not None
    facts = {
        "service": fiftyone.NAME,
        "state": "running" if whole else "partly",
        "url": found.url,
        "version": found.app and found.app.version,
        "pid": found.app and found.app.pid,
        "database": settings.fiftyone_database,
        "uri": uri and masked_url(uri),
        "mongod": found.mongod and {"version": found.mongod.version, "pid": found.mongod.pid},
        "folder": str(found.folder),
    }
    return Told(facts, (_app_line(found), _mongod_line(found, settings)))


def _app_line(found: fiftyone.Running) -> str:
    if found.app is None:
        return "FiftyOne's App: stopped; `saa services up fiftyone` starts it"
    return f"FiftyOne {found.app.version}: {found.url} (pid {found.app.pid})"


def _mongod_line(found: fiftyone.Running, settings: Settings) -> str:
    if settings.fiftyone_uri is not None:
        where = f"on the mongod of yours, {masked_url(settings.fiftyone_uri)}"
    elif found.mongod is not None:
        where = f"on mongod {found.mongod.version}: {found.uri} (pid {found.mongod.pid})"
    else:
        where = "on a mongod that is stopped; `saa services up fiftyone` starts it"
    return f"  database {settings.fiftyone_database} {where}"
