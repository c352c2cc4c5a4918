"""What must be set before Prefect is imported: a quiet, private, short-lived API unless the user runs a server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # The first start on a machine migrates a fresh database, which takes longer than the default of 20 s when busy.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_LEVEL": "WARNING",
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
"""Services of a Prefect server that watch deployments; a server that lives for one run has none."""


def prepare_prefect(results: Path) -> None:
    """Set Prefect's environment for this process; what the user has set stays.

    Args:
        results: Folder for the cached results of tasks.
    """
    own_server = not {"PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILE"} & os.environ.keys()
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_LOCAL_STORAGE_PATH", str(results))
    if own_server:
        # A database of our own: another Prefect version of the same user may have migrated ~/.prefect beyond ours.
        home = _state_home() / "saa" / "prefect"
        home.mkdir(parents=True, exist_ok=True)  # Prefect's database does not make it
        os.environ["PREFECT_HOME"] = str(home)
        for service in _IDLE_SERVICES:
            os.environ.setdefault(f"PREFECT_SERVER_SERVICES_{service}_ENABLED", "false")


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


def _state_home() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
