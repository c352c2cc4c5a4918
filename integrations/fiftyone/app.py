"""The server of FiftyOne's App, the pages on which a product is curated: on the loopback interface only."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import httpx

from integrations.daemons import Program, listens
from integrations.files import cannot_write
from saa_core.errors import ServiceError

_PATIENCE = 180.0
"""Seconds that a start may take, on a machine that does much else."""


def program() -> Program:
    """The interpreter that runs the App's server, and FiftyOne's version."""
    return Program(Path(sys.executable), version("fiftyone"))


def launch(
    folder: Path, port: int, variables: Mapping[str, str], inherited: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a server that outlives this process; `wait` says when it answers.

    It asks for no password, and shows every file that this user can read to whoever can reach it.

    Args:
        folder: Of what FiftyOne writes of its own and of the log, made if need be; nobody else can read it.
        port: On 127.0.0.1.
        variables: Of its environment, over ours: from `environment.variables`, and what the operators want.
        inherited: Open descriptors that it keeps open.

    Raises:
        StoreError: The folder cannot be written.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith("FIFTYONE_")}
    # -P: no file beside the user is taken for a module. Never --clean_start, which deletes every data set.
    command = [sys.executable, "-P", "-m", "fiftyone.server.main", "--address", "127.0.0.1", "--port", str(port)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        with log_of(folder).open("wb") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=ours | dict(variables),
                pass_fds=inherited,
                start_new_session=True,
            )
    except OSError as error:
        raise cannot_write(str(folder), error) from error


def wait(folder: Path, port: int, pid: int, alive: Callable[[], bool]) -> None:
    """Wait until it answers.

    Args:
        folder: As it was launched with.
        port: As it was launched with.
        pid: Of its process.
        alive: Whether that still runs.

    Raises:
        ServiceError: It ended, or took too long.
    """
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + _PATIENCE
    while alive():
        if answers(port, pid):
            return
        if time.monotonic() > end:
            raise ServiceError(url, f"the App did not answer for {_PATIENCE:.0f} s; see {log_of(folder)}")
        time.sleep(0.1)
    said = log_of(folder).read_text("utf-8", errors="replace").strip().splitlines() or ["it printed nothing"]
    raise ServiceError(url, f"the App ended while it started: {said[-1][:200]} (see {log_of(folder)})")


def answers(port: int, pid: int) -> bool:
    """Whether this process answers there as FiftyOne's App does."""
    if not listens(pid, port):
        return False
    try:
        # No proxy of the user's stands between us and the loopback interface.
        answer = httpx.get(f"http://127.0.0.1:{port}/fiftyone", timeout=10, trust_env=False)
        return answer.is_success and "version" in answer.json()
    except (httpx.TransportError, ValueError):
        return False


def log_of(folder: Path) -> Path:
    """What the server of this folder printed since its last start."""
    return folder / "server.log"
