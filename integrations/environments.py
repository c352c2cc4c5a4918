"""Environments of services that cannot share ours: each in a folder of its own, made from a file of hashed pins."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from integrations.files import cannot_write
from integrations.urls import masked_url
from saa_core.errors import StoreError

Progress = Callable[[str, int, int], None]
"""Called with the step's name, how many of its parts are done, and how many there are."""

_FINISHED = ".installed"

_FETCHED = ("Collecting ", "Processing ")
"""How pip begins the line of a package from a registry, and of one from a folder."""

_REASONS = (
    (
        r"No space left on device|Disk quota exceeded|File too large",
        "the disk is full; free some space or choose another folder with SAA_SERVICES, then run again",
    ),
    (
        r"DO NOT MATCH THE HASHES",
        "a package came that is not the one this version of saa was proven with: its registry or mirror changed it",
    ),
    (
        r"No matching distribution|Max retries|Connection(?:Error| refused| broken)|Read timed out|Could not fetch",
        "no package registry was reached that has what it needs; check the network and `pip config list`, then run "
        "again",
    ),
)
"""What pip prints when it fails, and what that means to the user; the first that is found counts."""


def install(name: str, requirements: Path, services: Path, progress: Progress = lambda *step: None) -> Path:
    """The folder of an environment, made now if it is not there; its programs are in `bin`.

    It is known by its pins and by the version of Python: other pins make another one. Only one process makes it, the
    others wait. Whatever an interrupted install left is thrown away.

    Args:
        name: Of the service and its version, for the folder and for messages.
        requirements: pip's requirements, each an exact version with its hashes.
        services: Folder that holds one folder per environment.
        progress: Hears of the packages that were fetched.

    Raises:
        StoreError: Nothing was installed: the disk is full, no registry answers, a hash differs.
    """
    folder = folder_of(name, requirements, services)
    if _is_finished(folder):
        return folder
    try:
        with held(folder.with_name(f"{folder.name}.lock")) as lock:
            if not _is_finished(folder):
                _make(folder, requirements, lock, name, progress)
    except OSError as error:
        raise cannot_write(str(folder), error) from error
    return folder


def folder_of(name: str, requirements: Path, services: Path) -> Path:
    """Where `install` makes an environment, or made it; arguments as there."""
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:8]
    return services.absolute() / f"{name}-py{sys.version_info.major}.{sys.version_info.minor}-{digest}"


@contextmanager
def held(path: Path) -> Iterator[int]:
    """Hold an exclusive lock on a file, made with its folder; waits for whoever else holds it.

    The lock belongs to the descriptor that is given: a child process that inherits it holds the lock as well.

    Raises:
        StoreError: The file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise cannot_write(str(path), error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether any process holds the lock on this file.

    Raises:
        StoreError: The file is there and cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StoreError(str(path), f"cannot be read: {error.strerror}") from error
    try:
        # Shared, so that two who look do not see each other.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return True
        raise
    finally:
        os.close(descriptor)
    return False


def _is_finished(folder: Path) -> bool:
    # The interpreter is a link to the one it was made with, which may have gone since.
    return (folder / _FINISHED).exists() and (folder / "bin" / "python").exists()


def _make(folder: Path, requirements: Path, lock: int, name: str, progress: Progress) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    _run([sys.executable, "-Im", "venv", "--without-pip", str(folder)], name)
    _run([str(folder / "bin" / "python"), "-Im", "ensurepip", "--default-pip"], name)
    _install_packages(folder, requirements, lock, name, progress)
    (folder / _FINISHED).touch()


def _run(command: list[str], name: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        said = done.stdout.strip().splitlines()
        raise StoreError(name, _reason(said, "no environment can be made (Debian: apt-get install python3-venv)"))


def _install_packages(folder: Path, requirements: Path, lock: int, name: str, progress: Progress) -> None:
    # Isolated: a PYTHONPATH of ours would make pip think that our packages are there.
    pip = [str(folder / "bin" / "python"), "-Iu", "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    options = ["--require-hashes", "--no-compile", "--progress-bar", "off", "--requirement", str(requirements)]
    total = len(re.findall(r"(?m)^[a-z0-9].*==", requirements.read_text("utf-8")))
    said: list[str] = []
    # pip holds the lock too: should this process be killed, the next one waits until pip has ended.
    with subprocess.Popen(
        [*pip, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=(lock,)
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.strip())
            _tell(line, said, name, total, progress)
    if process.returncode:
        raise StoreError(name, _reason(said, "could not be installed"))
    progress(f"installing {name}", total, total)


def _tell(line: str, said: list[str], name: str, total: int, progress: Progress) -> None:
    if line.startswith(_FETCHED):
        done = sum(text.startswith(_FETCHED) for text in said)
        if done % 10 == 0:
            progress(f"fetching {name}", min(done, total), total)
    elif line.startswith("Installing collected packages"):
        progress(f"fetching {name}", total, total)
        progress(f"installing {name}", 0, total)


def _reason(said: list[str], otherwise: str) -> str:
    """One line of what pip said in many."""
    text = "\n".join(said)
    for pattern, meaning in _REASONS:
        if re.search(pattern, text):
            return meaning
    last = next((line for line in reversed(said) if line.startswith("ERROR")), said[-1] if said else "it said nothing")
    return f"{otherwise}: {masked_url(last)[:300]}"
