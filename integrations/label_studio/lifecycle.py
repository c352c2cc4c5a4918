"""The workspace's own Label Studio: started, found again, stopped."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from integrations import daemons
from integrations.daemons import Daemon, Place, Program
from integrations.environments import Progress
from integrations.label_studio import server
from integrations.label_studio.server import Home, url_of
from integrations.launching import silent
from saa_core.errors import ServiceError

NAME = "label-studio"

FIRST_PORT = 8080
_STARTING = f"starting {NAME}"


@dataclass(frozen=True, slots=True)
class Running:
    """A server of ours whose process lives.

    Attributes:
        home: Its folder, with its log and its secrets.
        url: Where it answers.
        pid: Its process, which leads its process group.
        version: Of Label Studio.
        token: That it was started with.
    """

    home: Home
    url: str
    pid: int
    version: str
    token: SecretStr

    def prove(self) -> None:
        """Show that what answers at the URL is this server.

        Raises:
            ServiceError: Nothing answers there, or what answers does not take our token.
        """
        accepted = server.accepts(self.url, self.token)
        if accepted is None:
            raise silent(self.url, self.pid, self.home.folder)
        if not accepted:
            raise ServiceError(self.url, f"what answers there refuses the token in {self.home.token_file}")


def home_in(workspace: Path) -> Home:
    """Folder of the workspace's own server; absolute, since the server works elsewhere."""
    return Home(workspace.resolve() / "services" / "label-studio")


def up(
    home: Home, services: Path, port: int | None = None, progress: Progress = lambda *step: None
) -> tuple[Running, bool]:
    """Start the server and wait until it answers, unless it runs; install it first if need be.

    Args:
        home: Its folder.
        services: Folder of all services' environments.
        port: On 127.0.0.1; None is the one it had last time, the first time one that is free.
        progress: Hears how far it is.

    Returns:
        The running server, and whether it was started now.

    Raises:
        ServiceError: The port is taken, the server runs on another, or it does not come up.
        StoreError: It cannot be installed, or its folder cannot be written.
    """
    found, started = daemons.up(_place(home), _Server(home, services, progress), port)
    if started:
        progress(_STARTING, 1, 1)
    return _known(home, found), started


def running(home: Home) -> Running | None:
    """The server of this folder if its process lives; nothing is sent to it.

    Raises:
        ServiceError: It lives, but the command that started it was killed before it could write down where.
        StoreError: Its token cannot be read.
    """
    found = daemons.running(_place(home))
    return None if found is None else _known(home, found)


def down(home: Home) -> bool:
    """Stop the server and wait until it has ended.

    Returns:
        Whether one was running.

    Raises:
        ServiceError: It does not end.
    """
    return daemons.down(_place(home))


@dataclass(frozen=True, slots=True)
class _Server:
    """How it is started, see `daemons.Server`."""

    home: Home
    services: Path
    progress: Progress

    def program(self) -> Program:
        path = server.install(self.services, self.progress)
        self.progress(_STARTING, 0, 1)
        return Program(path, server.VERSION)

    def launch(self, program: Program, port: int, inherited: Sequence[int]) -> subprocess.Popen[bytes]:
        return server.launch(program.path, self.home, port, inherited=inherited)

    def wait(self, port: int, pid: int, alive: Callable[[], bool]) -> None:
        server.wait(self.home, port, alive)


def _place(home: Home) -> Place:
    return Place(NAME, home.folder, FIRST_PORT)


def _known(home: Home, found: Daemon) -> Running:
    return Running(home, url_of(found.port), found.pid, found.version, home.token())
