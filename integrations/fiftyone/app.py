"""The server of FiftyOne's App, the pages on which a product is curated: on the loopback interface only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from integrations.daemons import Program, listens
from integrations.launching import spawn, wait_until

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
    return spawn(command, folder, ours | dict(variables), inherited=inherited)


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
    address = f"http://127.0.0.1:{port}"
    wait_until(lambda: answers(port, pid), alive, folder, address, _PATIENCE, who="the App")


def answers(port: int, pid: int) -> bool:
    """Whether this process answers there as FiftyOne's App does."""
    if not listens(pid, port):
        return False
    import httpx

    try:
        # No proxy of the user's stands between us and the loopback interface.
        answer = httpx.get(f"http://127.0.0.1:{port}/fiftyone", timeout=10, trust_env=False)
        return answer.is_success and "version" in answer.json()
    except (httpx.TransportError, ValueError):
        return False
