"""Servers that outlive the command that starts them: started, found again, stopped.

What is running is known by a lock that the server inherits and holds for as long as it lives. Unlike a number in a
file, the lock ends with the server, however it ends, and no other program can come to hold it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from integrations.environments import held, is_held
from integrations.files import write_atomic
from integrations.launching import log_of
from saa_core.errors import ServiceError

_SECONDS_TO_STOP = 10.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where one server of a workspace is kept.

    Attributes:
        service: As `saa services` calls it.
        folder: Of all that is the server's.
        first_port: The first start takes a free one from here on.
        scheme: Of its address.
        other_port: What to do when another program has its port.
    """

    service: str
    folder: Path
    first_port: int
    scheme: str = "http"
    other_port: str = "choose another with --port"

    @property
    def life(self) -> Path:
        """Held by the server."""
        return self.folder / "server.lock"

    @property
    def commands(self) -> Path:
        """Held by a command that starts or stops the server, for as long as it works."""
        return self.folder / "commands.lock"

    @property
    def note(self) -> Path:
        """Says where the server runs, or ran last."""
        return self.folder / "server.json"

    @property
    def log(self) -> Path:
        """What the server printed since its last start."""
        return log_of(self.folder)

    def url(self, port: int) -> str:
        """Where a server on this port answers."""
        return f"{self.scheme}://127.0.0.1:{port}"


@dataclass(frozen=True, slots=True)
class Daemon:
    """A server whose process lives.

    Attributes:
        port: On 127.0.0.1.
        pid: Its process, which leads its process group.
        version: Of its program.
    """

    port: int
    pid: int
    version: str


@dataclass(frozen=True, slots=True)
class Program:
    """What a server is started with."""

    path: Path
    version: str


class Server(Protocol):
    """How servers of one kind are started."""

    def program(self) -> Program:
        """The program, installed if need be."""

    def launch(self, program: Program, port: int, inherited: Sequence[int]) -> subprocess.Popen[bytes]:
        """Start it as the leader of a process group; it keeps the inherited descriptors open."""

    def wait(self, port: int, pid: int, alive: Callable[[], bool]) -> None:
        """Wait until it answers, and is proven to be the one that was started.

        Raises:
            ServiceError: It ended, another program has its port, or it took too long.
        """


def up(place: Place, server: Server, port: int | None = None) -> tuple[Daemon, bool]:
    """Start a server and wait until it answers, unless it runs.

    Args:
        place: Its place.
        server: How it is started.
        port: On 127.0.0.1; None is the one it had last time, the first time one that is free.

    Returns:
        The running server, and whether it was started now.

    Raises:
        ServiceError: The port is taken, the server runs on another, or it does not come up.
        StoreError: It cannot be installed, or its folder cannot be written.
    """
    with held(place.commands):
        found = running(place)
        if found is None:
            return _start(place, server, server.program(), port), True
        if port not in (None, found.port):
            first = f"`saa services down {place.service}` first, to start it on port {port}"
            raise ServiceError(place.url(found.port), f"our server runs there already; {first}")
        # It may have been left while it started.
        server.wait(found.port, found.pid, alive=lambda: is_held(place.life))
        return found, False


def running(place: Place) -> Daemon | None:
    """The server of this place if its process lives; nothing is sent to it.

    Raises:
        ServiceError: It lives, but the command that started it was killed before it could write down where.
    """
    if not is_held(place.life):
        return None
    note = _noted(place)
    if "pid" not in note:
        reason = f"a start was cut off and its process is unknown; end what holds {place.life}"
        raise ServiceError(place.service, reason)
    return Daemon(note["port"], note["pid"], note["version"])


def down(place: Place) -> bool:
    """Stop the server of this place and wait until it has ended.

    Returns:
        Whether one was running.

    Raises:
        ServiceError: It does not end.
    """
    if not place.folder.exists():
        return False
    with held(place.commands):
        found = running(place)
        if found is None:
            return False
        for number in (signal.SIGTERM, signal.SIGKILL):
            # Its group and no other: the number stays taken while a process of the group lives and holds the lock.
            with suppress(ProcessLookupError):
                os.killpg(found.pid, number)
            if _ends(place):
                return True
    raise ServiceError(place.url(found.port), f"process group {found.pid} does not end")


def listens(pid: int, port: int) -> bool:
    """Whether this process, and no other, is what answers on a port of ours."""
    try:
        return any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            for connection in psutil.Process(pid).net_connections("tcp")
        )
    except psutil.Error:
        return False


def _start(place: Place, server: Server, program: Program, port: int | None) -> Daemon:
    started_before, port = place.note.exists(), _port(place, port)
    # Without a pid until there is one, so that nobody takes an old one for the new server's.
    write_atomic(place.note, json.dumps({"port": port}).encode())
    with held(place.life) as life:
        process = server.launch(program, port, [life])
    try:
        note = {"port": port, "pid": process.pid, "version": program.version}
        write_atomic(place.note, json.dumps(note).encode())
        server.wait(port, process.pid, alive=lambda: process.poll() is None)
    except BaseException:
        _kill(process)
        if not started_before:  # a port that it never answered on is no address that others may have noted
            place.note.unlink(missing_ok=True)
        raise
    # It outlives us; without a word of its end Popen would warn that it still runs.
    process.returncode = 0
    return Daemon(port, process.pid, program.version)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _port(place: Place, port: int | None) -> int:
    chosen: int | None = port or _noted(place).get("port")
    if chosen is None:
        return next(number for number in range(place.first_port, 65536) if _is_free(number))
    if not _is_free(chosen):
        raise ServiceError(place.url(chosen), f"another program has this port; end it, or {place.other_port}")
    return chosen


def _is_free(port: int) -> bool:
    # As Label Studio itself looks, which silently goes to the next port if one is taken.
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _ends(place: Place) -> bool:
    end = time.monotonic() + _SECONDS_TO_STOP
    while is_held(place.life):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _noted(place: Place) -> dict[str, Any]:
    try:
        return dict(json.loads(place.note.read_text("utf-8")))
    except (FileNotFoundError, ValueError):
        return {}
