"""A server's process: started so that it outlives us, with a log of its own, and waited for."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from integrations.files import cannot_write
from saa_core.errors import ServiceError

_PAUSE = 0.05


def spawn(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    *,
    inherited: Sequence[int] = (),
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server as the leader of a process group; `wait_until` says when it answers.

    Args:
        command: Program and arguments.
        folder: Of the server, made if need be; nobody else can read it. Its log is there.
        environment: All variables.
        inherited: Open descriptors that it keeps open.
        cwd: Where it works; None is where we do.

    Raises:
        StoreError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        if log_of(folder).exists():  # of one that was killed it is all that tells why
            log_of(folder).replace(folder / "server.log.1")
        with log_of(folder).open("wb") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=cwd,
                pass_fds=inherited,
                start_new_session=True,
            )
    except OSError as error:
        raise cannot_write(str(folder), error) from error


def log_of(folder: Path) -> Path:
    """What the server of this folder printed since its last start; that of the start before is in server.log.1."""
    return folder / "server.log"


def printed(folder: Path) -> str:
    """The text of its log."""
    return log_of(folder).read_text("utf-8", errors="replace")


def last_line(text: str) -> str:
    """The last line of what a server printed that speaks of an error, else the last, shortened."""
    lines = text.strip().splitlines() or ["it printed nothing"]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1])[:200]


def wait_until(
    answers: Callable[[], bool],
    alive: Callable[[], bool],
    folder: Path,
    address: str,
    patience: float,
    *,
    who: str = "it",
    complaint: Callable[[str], str] = last_line,
) -> None:
    """Wait until a server answers.

    Args:
        answers: Whether it does; may raise where it never will.
        alive: Whether its process still runs.
        folder: Of the server.
        address: Of the server, for messages.
        patience: Seconds that it may take.
        who: What it is called in messages.
        complaint: Why it ended, of what it printed.

    Raises:
        ServiceError: It ended, or took too long.
    """
    end = time.monotonic() + patience
    while alive():
        if answers():
            return
        if time.monotonic() > end:
            raise ServiceError(address, f"{who} did not answer for {patience:.0f} s; see {log_of(folder)}")
        time.sleep(_PAUSE)
    reason = f"{who} ended while it started: {complaint(printed(folder))} (see {log_of(folder)})"
    raise ServiceError(address, reason)


def silent(address: str, pid: int, folder: Path) -> ServiceError:
    """The error for a server whose process lives and which does not answer."""
    reason = f"our server runs (pid {pid}) but does not answer; it may be starting, see {log_of(folder)}"
    return ServiceError(address, reason)
