"""Real Label Studio servers for the tests, started by the code that users start theirs with.

The environment and a filled database of the server's version are made once, under .venv/services. A test's server is
a copy of that database with a token of its own.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from integrations.environments import held
from integrations.label_studio import server
from integrations.label_studio.server import Home
from saa_core.errors import SaaError

SERVICES = Path(__file__).resolve().parents[1] / ".venv" / "services"


@dataclass(slots=True)
class Server:
    """A running server; `files` is its LOCAL_FILES_DOCUMENT_ROOT, `strict` whether it validates predictions."""

    program: Path
    home: Home
    port: int
    strict: bool
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return server.url_of(self.port)

    @property
    def token(self) -> str:
        return self.home.token().get_secret_value()

    @property
    def email(self) -> str:
        return server.USERNAME

    @property
    def password(self) -> str:
        return self.home.password().get_secret_value()

    @property
    def files(self) -> Path:
        return self.home.files

    def relaunch(self) -> None:
        """Start on the same port with the same data, and wait until it answers."""
        flags = {server.STRICT: "true"} if self.strict else {}
        process = self.process = server.launch(self.program, self.home, self.port, extra=flags)
        server.wait(self.home, self.port, lambda: process.poll() is None)

    def kill(self) -> None:
        """End it as `kill -9` does, in the middle of whatever it does."""
        if self.process is not None:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def http(self) -> httpx.Client:
        """A plain client with the server's token."""
        headers = {"Authorization": f"Token {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=60)


ServerFactory = Callable[..., Server]


@pytest.fixture(scope="session")
def label_studio_program() -> Path:
    """The installed server; without a package registry there is none."""
    try:
        return server.install(SERVICES)
    except SaaError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(f"needs a Label Studio server: {error}")


@pytest.fixture(scope="session")
def label_studio_template(label_studio_program: Path) -> Home:
    """A stopped server whose database is made."""
    home = Home(SERVICES / f"template-{label_studio_program.parents[1].name}")
    with held(home.folder.with_name(f"{home.folder.name}.lock")):
        if not home.folder.exists():
            making = Server(label_studio_program, Home(home.folder.with_suffix(".part")), free_port(), strict=False)
            shutil.rmtree(making.home.folder, ignore_errors=True)
            try:
                making.relaunch()
            finally:
                stop(making)
            making.home.folder.rename(home.folder)
    return home


@pytest.fixture(scope="session")
def new_label_studio(
    label_studio_program: Path, label_studio_template: Home, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerFactory]:
    """Makes running servers of one's own: new_label_studio(strict=False). All end with the tests."""
    made: list[Server] = []

    def make(*, strict: bool = False) -> Server:
        home = Home(tmp_path_factory.mktemp("label-studio") / "home")
        shutil.copytree(label_studio_template.folder, home.folder)
        home.token_file.write_text(secrets.token_hex(20))
        made.append(Server(label_studio_program, home, free_port(), strict))
        made[-1].relaunch()
        return made[-1]

    yield make
    for server_ in made:
        server_.kill()


@pytest.fixture(scope="session")
def label_studio(new_label_studio: ServerFactory) -> Server:
    """The server that operators have: it takes predictions that do not fit, and drops or scrambles them."""
    return new_label_studio()


@pytest.fixture(scope="session")
def label_studio_strict(new_label_studio: ServerFactory) -> Server:
    """A server that refuses predictions that do not fit."""
    return new_label_studio(strict=True)


@pytest.fixture
def own_label_studio(new_label_studio: ServerFactory) -> Iterator[Server]:
    """A server for this test alone, which may kill() and relaunch() it."""
    own = new_label_studio()
    yield own
    own.kill()


@pytest.fixture
def project_cleanup(request: pytest.FixtureRequest) -> Iterator[None]:
    """Deletes the projects that a test leaves on the shared servers."""
    yield
    for name in ("label_studio", "label_studio_strict"):
        if name in request.fixturenames:
            delete_projects(request.getfixturevalue(name))


def delete_projects(shared: Server) -> None:
    with shared.http() as http:
        for project in http.get("/api/projects/", params={"page_size": 1000}).raise_for_status().json()["results"]:
            http.delete(f"/api/projects/{project['id']}/").raise_for_status()


def stop(started: Server) -> None:
    """End it in good order: its database is whole in one file."""
    if started.process is not None:
        started.process.terminate()
        started.process.wait(timeout=30)
        started.process = None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
