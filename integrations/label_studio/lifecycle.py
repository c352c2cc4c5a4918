"""The workspace's own Label Studio: started, found again, stopped.

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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from integrations.environments import Progress, held, is_held
from integrations.files import write_atomic
from integrations.label_studio import server
from integrations.label_studio.server import Home, url_of
from saa_core.errors import ServiceError

NAME = "label-studio"

_FIRST_PORT = 8080
_SECONDS_TO_STOP = 10.0


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
            raise ServiceError(
                self.url,
                f"our server runs (pid {self.pid}) but does not answer; it may be starting, see {self.home.log}",
            )
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
    with held(_commands(home)):
        found = running(home)
        if found is not None:
            return _still_running(found, port), False
        program = server.install(services, progress)
        progress("starting label-studio", 0, 1)
        started = _start(program, home, port)
        progress("starting label-studio", 1, 1)
        return started, True


def running(home: Home) -> Running | None:
    """The server of this folder if its process lives; nothing is sent to it.

    Raises:
        ServiceError: It lives, but the command that started it was killed before it could write down where.
        StoreError: Its token cannot be read.
    """
    if not is_held(_life(home)):
        return None
    state = _state(home)
    if "pid" not in state:
        raise ServiceError(NAME, f"a start was cut off and its process is unknown; end what holds {_life(home)}")
    return Running(home, url_of(state["port"]), state["pid"], state["version"], home.token())


def down(home: Home) -> bool:
    """Stop the server and wait until it has ended.

    Returns:
        Whether one was running.

    Raises:
        ServiceError: It does not end.
    """
    if not home.folder.exists():
        return False
    with held(_commands(home)):
        found = running(home)
        if found is None:
            return False
        for number in (signal.SIGTERM, signal.SIGKILL):
            # Its group and no other: the number stays taken while a process of the group lives and holds the lock.
            with suppress(ProcessLookupError):
                os.killpg(found.pid, number)
            if _ends(home):
                return True
    raise ServiceError(found.url, f"process group {found.pid} does not end")


def _start(program: Path, home: Home, port: int | None) -> Running:
    port = _port(home, port)
    # Without a pid until there is one, so that nobody takes an old one for the new server's.
    write_atomic(_state_file(home), json.dumps({"port": port}).encode())
    with held(_life(home)) as life:
        process = server.launch(program, home, port, inherited=[life])
    try:
        state = {"port": port, "pid": process.pid, "version": server.VERSION}
        write_atomic(_state_file(home), json.dumps(state).encode())
        server.wait(home, port, alive=lambda: process.poll() is None)
    except BaseException:
        _kill(process)
        raise
    # It outlives us; without a word of its end Popen would warn that it still runs.
    process.returncode = 0
    return Running(home, url_of(port), process.pid, server.VERSION, home.token())


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _still_running(found: Running, port: int | None) -> Running:
    if port is not None and url_of(port) != found.url:
        raise ServiceError(
            found.url, f"our server runs there already; `saa services down {NAME}` first, to start it on port {port}"
        )
    # It may have been left while it started.
    server.wait(found.home, int(found.url.rpartition(":")[2]), alive=lambda: is_held(_life(found.home)))
    return found


def _port(home: Home, port: int | None) -> int:
    chosen: int | None = port or _state(home).get("port")
    if chosen is None:
        return next(number for number in range(_FIRST_PORT, 65536) if _is_free(number))
    if not _is_free(chosen):
        raise ServiceError(url_of(chosen), "another program has this port; end it, or choose another with --port")
    return chosen


def _is_free(port: int) -> bool:
    # As the server itself looks, which silently goes to the next port if one is taken.
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _ends(home: Home) -> bool:
    end = time.monotonic() + _SECONDS_TO_STOP
    while is_held(_life(home)):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _commands(home: Home) -> Path:
    """Held by a command that starts or stops the server, for as long as it works."""
    return home.folder / "commands.lock"


def _life(home: Home) -> Path:
    """Held by the server."""
    return home.folder / "server.lock"


def _state_file(home: Home) -> Path:
    return home.folder / "server.json"


def _state(home: Home) -> dict[str, Any]:
    try:
        return dict(json.loads(_state_file(home).read_text("utf-8")))
    except (FileNotFoundError, ValueError):
        return {}
