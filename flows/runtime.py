"""Prefect as `saa` uses it: the user's server where there is one, else a quiet one that ends with the process."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from integrations import prefect_server
from saa_core.errors import StoreError
from saa_core.models import ModelSetup

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

_T = TypeVar("_T")

_CLIENT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # What a task raises ends the command with one line; Prefect would print it as well, three times with its stack.
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    # Task logs go to the terminal; sending each line to a server that ends with the run only costs time.
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
}

_IDLE_SERVICES = (
    "CANCELLATION_CLEANUP",
    "EVENT_LOGGER",
    "FOREMAN",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "REPOSSESSOR",
    "SCHEDULER",
    "TRIGGERS",
)
"""Services of a Prefect server that watch deployments; a server that lives for one command has none."""

_SERVER = {
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
    **{f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false" for service in _IDLE_SERVICES},
}

_PATIENCE = 120.0
"""Seconds that a server may take: the first start on a machine migrates a fresh database."""


def use_server(workspace: Path) -> bool:
    """Set Prefect's environment, for the user's server or else the workspace's own. Before Prefect's import.

    Args:
        workspace: Absolute; results of tasks are cached in it.

    Returns:
        Whether there is one.

    Raises:
        StoreError: Prefect's own folder cannot be written.
        ServiceError: It is not known where the workspace's own server runs.
    """
    for name, value in _CLIENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_LOCAL_STORAGE_PATH", str(workspace / "prefect"))
    if {"PREFECT_API_URL", "PREFECT_PROFILE"} & os.environ.keys():
        return True
    # A home of our own: another Prefect version of the same user may have migrated ~/.prefect beyond ours.
    home = Path(os.environ.setdefault("PREFECT_HOME", str(_state_home() / "saa" / "prefect")))
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(home, error) from error
    own = prefect_server.running(workspace)
    if own is not None:
        os.environ["PREFECT_API_URL"] = prefect_server.api_url(own)
    return own is not None


def prepare_prefect(workspace: Path) -> Callable[[], None]:
    """Set Prefect's environment as `use_server` does, and start an API where there is no server.

    Args:
        workspace: Absolute; results of tasks are cached in it.

    Returns:
        Waits until the API answers; raises StoreError if it does not. So its start can go on beside other work.

    Raises:
        StoreError: The API's folder cannot be written.
        ServiceError: It is not known where the workspace's own server runs.
    """
    if use_server(workspace):
        return lambda: None
    home = Path(os.environ["PREFECT_HOME"])
    port, log = _free_port(), home / "server.log"
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    try:
        server = _start_server(port, log)
    except OSError as error:
        raise _unwritable(home, error) from error
    return lambda: _wait_for(server, os.environ["PREFECT_API_URL"], log)


def result_of(run: Callable[[], State[Any]]) -> Any:
    """Run a flow in this process.

    Args:
        run: Calls the flow and returns its final state.

    Raises:
        SaaError: What the flow raised, or that Prefect's API does not answer.
    """
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    # Heartbeats tell a server of flows that died with their worker; they cost the end of a flow a second, and whoever
    # started this one sees it end.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        try:
            state = run()
        except RuntimeError as error:  # what the flow itself raises is in its state; this is Prefect without an API
            raise StoreError("Prefect's API", str(error)) from error
    return state.result()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Limit BLAS and OpenCV to one thread while batches run side by side: more would only wait for each other."""
    import cv2
    from threadpoolctl import threadpool_limits

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        cv2.setNumThreads(before)


def limit_threads() -> None:
    """As `one_thread_each`, for good: of a process that does nothing but work on batches."""
    import cv2
    from threadpoolctl import threadpool_limits

    cv2.setNumThreads(1)
    threadpool_limits(1)


def threads_for(setup: ModelSetup) -> AbstractContextManager[None]:
    """The limit for work with some models: networks run one at a time and use all processors themselves."""
    return one_thread_each() if setup.weight_free else nullcontext()


def _start_server(port: int, log: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    for name, value in _SERVER.items():
        environment.setdefault(name, value)
    command = [sys.executable, "-m", "flows.api_server", str(port)]
    with log.open("ab") as written:
        # The pipe is never written to: it closes when this process ends, however it ends, and the server with it.
        # In a session of its own, or the terminal's Ctrl-C would end it before the flow that still talks to it.
        server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=written, stderr=written, env=environment, start_new_session=True
        )
    atexit.register(_stop, server)
    return server


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.communicate()


def _wait_for(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    server.kill()
    del os.environ["PREFECT_API_URL"]  # the next flow of this process tries again
    raise StoreError("Prefect's API", f"did not start on this machine; its last words are in {log}")


def _unwritable(home: Path, error: OSError) -> StoreError:
    return StoreError(str(home), f"cannot be written ({error.strerror}); PREFECT_HOME names another")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _state_home() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")


def as_is(value: _T) -> _T:
    """A parameter that Prefect hands on untouched; else it looks for futures in every part of it."""
    from prefect.utilities.annotations import quote

    return cast(_T, quote(value))
