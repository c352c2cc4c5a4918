"""Real servers of FiftyOne for the tests, its mongod and its App, started by the code that users start theirs with.

The mongod is installed once, under .venv/services. The tests share one, each with a database of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from integrations.fiftyone import app, environment
from integrations.fiftyone import mongod as mongod_server
from saa_core.errors import SaaError
from tests.label_studio_server import SERVICES, free_port


@dataclass(slots=True)
class Mongod:
    """A running mongod with its data in `folder`."""

    program: Path
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def relaunch(self) -> None:
        """Start on the same port with the same data, and wait until it answers."""
        process = self.process = mongod_server.launch(self.program, self.folder, self.port)
        mongod_server.wait(self.folder, self.port, process.pid, lambda: process.poll() is None)

    def kill(self) -> None:
        """End it as `kill -9` does, in the middle of whatever it does."""
        end(self.process)
        self.process = None

    def drop(self, database: str) -> None:
        from pymongo import MongoClient

        with closing(MongoClient[Any](environment.durable(self.uri))) as client:
            client.drop_database(database)


@dataclass(frozen=True, slots=True)
class Database:
    """A database that is empty at a test's start, and `fiftyone`, connected to it."""

    uri: str
    name: str
    folder: Path
    fiftyone: Any

    @property
    def variables(self) -> dict[str, str]:
        """The environment of another process that is to use it."""
        return environment.variables(self.uri, self.name, self.folder)


_FETCH_FAILED = "Traceback ...\nurllib.error.URLError: <urlopen error no network>\n"

AppFactory = Callable[..., str]


def end(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def mongod_program() -> Path:
    """The installed mongod; without a package registry there is none."""
    try:
        return mongod_server.install(SERVICES).path
    except SaaError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(f"needs a mongod: {error}")


@pytest.fixture
def unfetched_mongod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of binaries of a package fiftyone that could not fetch its mongod; nothing else is installed."""
    folder = tmp_path / "site" / "fiftyone"
    (folder / "db" / "bin").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "db" / "bin" / "exception.txt").write_text(_FETCH_FAILED)
    monkeypatch.delitem(sys.modules, "fiftyone", raising=False)
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setenv("PATH", str(tmp_path))
    return folder / "db" / "bin"


@pytest.fixture(scope="session")
def mongod(mongod_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """The mongod that all tests share: none of them ends it."""
    shared = Mongod(mongod_program, tmp_path_factory.mktemp("mongod"), free_port())
    shared.relaunch()
    yield shared
    shared.kill()


@pytest.fixture
def own_mongod(mongod_program: Path, tmp_path: Path) -> Iterator[Mongod]:
    """A mongod for this test alone, which may kill() and relaunch() it."""
    own = Mongod(mongod_program, tmp_path / "mongod", free_port())
    own.relaunch()
    yield own
    own.kill()


@pytest.fixture
def fiftyone_database(mongod: Mongod, tmp_path: Path) -> Iterator[Database]:
    """A new database on the shared mongod, gone after the test."""
    before = dict(os.environ)
    name = f"test-{uuid.uuid4().hex[:12]}"
    folder = tmp_path / "fiftyone"
    yield Database(mongod.uri, name, folder, environment.connect(mongod.uri, name, folder))
    disconnect()
    mongod.drop(name)
    os.environ.clear()
    os.environ.update(before)


def disconnect() -> None:
    """Leave the database: FiftyOne would otherwise look for it once more when Python ends."""
    from fiftyone.core.odm import database as connection

    connection._disconnect()


@pytest.fixture
def app_server(fiftyone_database: Database) -> Iterator[AppFactory]:
    """Starts servers of the App on the test's database: app_server(SAA_WORKSPACE=...) gives a URL. All end with it."""
    started: list[subprocess.Popen[bytes]] = []

    def start(**variables: str) -> str:
        folder, port = fiftyone_database.folder / f"app-{len(started)}", free_port()
        process = app.launch(folder, port, fiftyone_database.variables | variables)
        started.append(process)
        app.wait(folder, port, process.pid, lambda: process.poll() is None)
        return f"http://127.0.0.1:{port}"

    yield start
    for process in started:
        end(process)
