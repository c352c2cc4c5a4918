"""mongod, FiftyOne's database: found or installed, and started on the loopback interface."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from integrations import environments
from integrations.daemons import Program, listens
from integrations.files import cannot_write
from integrations.launching import spawn, wait_until
from integrations.settings import Settings
from saa_core.errors import ServiceError, StoreError

VERSION = "6.0.5"
NAME = f"mongod-{VERSION}"

_REQUIREMENTS = Path(__file__).with_name("mongod-requirements.txt")
_OLDEST = 6
"""Major version that FiftyOne still takes."""
_WAYS_OUT = (
    "`saa services install mongod` gets one, SAA_MONGOD=/path/to/mongod names one, "
    "SAA_FIFTYONE_URI=mongodb://host:port a server that runs"
)
_FRUGAL = (
    *("--wiredTigerCacheSizeGB", "0.25"),
    *("--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=8MB)"),  # 9 MB on disk for a start, not 300
    *("--setParameter", "diagnosticDataCollectionEnabled=false"),
)
_PATIENCE = 120.0
"""Seconds that a start may take; one after a crash replays the journal."""


def find(settings: Settings) -> Program:
    """A mongod that runs on this machine.

    The one that is set and no other, if one is; else that of FiftyOne's package, one that `install` made, one on PATH.

    Raises:
        ServiceError: There is none; says where was looked, and what each has.
    """
    tried = []
    for place, path in _places(settings):
        try:
            return Program(path, _version(path))
        except StoreError as error:
            tried.append(f"{place} ({error.name}) {error.reason}")
    raise ServiceError("mongod", f"no usable one was found: {'; '.join(tried)}; {_WAYS_OUT}")


def install(services: Path, progress: environments.Progress = lambda *step: None) -> Program:
    """A mongod of a known version, apart from all else, installed now if it is not there; about 200 MB.

    Args:
        services: Folder of all services' environments.
        progress: Hears of the packages that were fetched.

    Raises:
        StoreError: It cannot be installed, or it does not run on this machine.
    """
    system = f"{platform.system()} {platform.machine()}"
    if system != "Linux x86_64":
        raise StoreError(NAME, f"is packaged for Linux on x86_64, not for {system}; {_elsewhere()}")
    path = _inside(environments.install(NAME, _REQUIREMENTS, services, progress))
    try:
        return Program(path, _version(path))
    except StoreError as error:
        raise StoreError(error.name, f"does not run on this machine: {error.reason}; {_elsewhere()}") from error


def launch(program: Path, folder: Path, port: int, inherited: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start a mongod that outlives this process; `wait` says when it answers.

    It asks for no password: every user of this machine can reach it, and nobody else.

    Args:
        program: From `find` or `install`.
        folder: Of its data and its log, made if need be; nobody else can read it.
        port: On 127.0.0.1.
        inherited: Open descriptors that it keeps open.

    Raises:
        StoreError: The folder cannot be written.
    """
    data = folder / "data"
    where = ["--dbpath", str(data), "--bind_ip", "127.0.0.1", "--port", str(port), "--nounixsocket"]
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(str(folder), error) from error
    environment = {"PATH": os.defpath, "LC_ALL": "C"}  # a locale that the machine lacks would end it
    return spawn([str(program), *where, *_FRUGAL], folder, environment, inherited=inherited, cwd=folder)


def wait(folder: Path, port: int, pid: int, alive: Callable[[], bool]) -> None:
    """Wait until it takes connections, which it does when its data are whole.

    Args:
        folder: As it was launched with.
        port: As it was launched with.
        pid: Of its process.
        alive: Whether that still runs.

    Raises:
        ServiceError: It ended, or took too long.
    """
    address = f"mongod on port {port}"
    wait_until(lambda: listens(pid, port), alive, folder, address, _PATIENCE, complaint=_complaint)


def _places(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Where a mongod may be, and what to call that."""
    if settings.mongod is not None:
        yield "setting mongod", settings.mongod.absolute()
        return
    package = importlib.util.find_spec("fiftyone")
    if package is not None and package.origin is not None:
        yield "FiftyOne's package", Path(package.origin).parent / "db" / "bin" / "mongod"
    yield "installed service", _inside(environments.folder_of(NAME, _REQUIREMENTS, settings.services))
    yield "PATH", Path(shutil.which("mongod") or "mongod")


def _inside(environment: Path) -> Path:
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return environment / "lib" / python / "site-packages" / "fiftyone" / "db" / "bin" / "mongod"


def _version(path: Path) -> str:
    """What it says of itself.

    Raises:
        StoreError: It cannot be run, is no mongod, or is too old.
    """
    if not path.is_file():
        raise StoreError(str(path), _why_absent(path))
    try:
        said = subprocess.run([path, "--version"], capture_output=True, timeout=30, text=True, errors="replace")
    except (OSError, subprocess.SubprocessError) as error:
        raise StoreError(str(path), f"cannot be run: {getattr(error, 'strerror', None) or error}") from error
    if said.returncode:
        raise StoreError(str(path), f"cannot be run: {_last_line(said.stderr)}")
    version = re.search(r"db version v((\d+)\.[\w.+-]+)", said.stdout)
    if version is None:
        raise StoreError(str(path), "is no mongod")
    if int(version[2]) < _OLDEST:
        raise StoreError(str(path), f"is version {version[1]}, and FiftyOne wants {_OLDEST}.0 or newer")
    return version[1]


def _why_absent(path: Path) -> str:
    try:
        return f"could not be fetched: {_last_line((path.parent / 'exception.txt').read_text('utf-8'))}"
    except OSError:
        return "is not there"


def _elsewhere() -> str:
    return f"install MongoDB {_OLDEST}.0 or newer and set SAA_MONGOD=/path/to/mongod, or SAA_FIFTYONE_URI"


def _complaint(text: str) -> str:
    """Why it ended, in its own words."""
    errors = [line for line in text.splitlines() if '"s":"E"' in line]
    told = re.findall(r'"(?:error|errmsg|msg)":"([^"]*)"', errors[-1] if errors else "")
    return told[-1] if told else _last_line(text)


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "it said nothing")[:300]
