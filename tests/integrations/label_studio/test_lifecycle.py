"""The workspace's own server, a real one: started, found again, lost, stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer

import httpx
import pytest

from integrations.environments import is_held
from integrations.label_studio import lifecycle, server
from integrations.label_studio.lifecycle import Running, down, running, up
from integrations.label_studio.server import Home
from saa_core.errors import ServiceError, StoreError
from tests.label_studio_server import SERVICES, free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def home(label_studio_template: Home, tmp_path: Path) -> Iterator[Home]:
    """A workspace's server that was used before, on a port of its own, and does not run."""
    home = lifecycle.home_in(tmp_path / "workspace")
    shutil.copytree(label_studio_template.folder, home.folder)
    home.token_file.unlink()
    write_state(home, port=free_port())
    yield home
    down(home)


def write_state(home: Home, **state: object) -> None:
    (home.folder / "server.json").write_text(json.dumps(state))


def state_of(home: Home) -> dict[str, object]:
    return dict(json.loads((home.folder / "server.json").read_text()))


def start(home: Home, port: int | None = None) -> Running:
    found, started = up(home, SERVICES, port)
    assert started
    return found


@contextmanager
def squatter(status: int = 200) -> Iterator[int]:
    """Another program on a port, which answers every request with a page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>another program</html>")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        yield other.server_port
        other.shutdown()


@contextmanager
def silent_squatter() -> Iterator[int]:
    """Another program on a port, which takes connections and ends them without a word."""

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            pass

    with TCPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        yield int(other.server_address[1])
        other.shutdown()


class TestUp:
    def test_a_second_one_changes_nothing(self, home: Home) -> None:
        first = start(home)
        first.prove()
        with ThreadPoolExecutor() as pool:
            again = list(pool.map(lambda _: up(home, SERVICES), range(2)))
        assert again == [(first, False)] * 2
        with pytest.raises(ServiceError, match=r"runs there already; `saa services down label-studio` first"):
            up(home, SERVICES, free_port())
        check_secrets(first)

    def test_two_at_the_same_time_start_one(self, home: Home) -> None:
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(lambda _: up(home, SERVICES), range(2)))
        assert {started for _, started in found} == {True, False}
        assert found[0][0] == found[1][0]

    def test_the_first_time_any_free_port_will_do(self, home: Home) -> None:
        (home.folder / "server.json").unlink()
        port = int(start(home).url.rpartition(":")[2])
        assert port >= 8080

    def test_a_port_of_another_program(self, home: Home) -> None:
        with squatter() as port, pytest.raises(ServiceError, match=f"{port}: another program has this port") as caught:
            up(home, SERVICES, port)
        assert "--port" in str(caught.value)
        assert running(home) is None

    def test_a_server_that_cannot_start_says_why(self, home: Home) -> None:
        with closing(sqlite3.connect(home.data / "label_studio.sqlite3")) as database, database:
            database.execute("DROP TABLE django_migrations")
        with pytest.raises(ServiceError, match=r"ended while it started: .*already exists \(see .*server\.log\)"):
            up(home, SERVICES)
        assert running(home) is None

    def test_a_damaged_database_is_named(self, home: Home) -> None:
        (home.data / "label_studio.sqlite3").write_bytes(b"no database" * 100)
        with pytest.raises(StoreError, match=r"label_studio\.sqlite3: cannot be used: file is not a database"):
            up(home, SERVICES)
        assert running(home) is None

    def test_one_whose_command_was_killed_is_found(self, home: Home) -> None:
        code = "import sys; from pathlib import Path; from integrations.label_studio.lifecycle import *\n"
        code += "up(home_in(Path(sys.argv[1])), Path(sys.argv[2]))"
        workspace = home.folder.parents[1]
        command = subprocess.Popen([sys.executable, "-c", code, str(workspace), str(SERVICES)])
        while "pid" not in state_of(home):
            time.sleep(0.01)
        command.kill()
        command.wait()
        found, started = up(home, SERVICES)
        assert not started
        found.prove()


class TestLostAndStopped:
    def test_down_ends_it_and_only_once(self, home: Home) -> None:
        found = start(home)
        assert down(home)
        assert not is_held(home.folder / "server.lock")
        with pytest.raises(httpx.ConnectError):
            httpx.get(found.url, trust_env=False)
        assert not down(home)
        assert start(home).url == found.url

    def test_down_leaves_no_trace_where_there_was_none(self, tmp_path: Path) -> None:
        assert not down(lifecycle.home_in(tmp_path / "workspace"))
        assert list(tmp_path.iterdir()) == []

    def test_a_killed_server_is_known_as_stopped_and_comes_back(self, home: Home) -> None:
        found = start(home)
        os.killpg(found.pid, signal.SIGKILL)
        while is_held(home.folder / "server.lock"):
            time.sleep(0.01)
        assert running(home) is None
        assert start(home).url == found.url

    def test_one_that_hangs_is_ended(self, home: Home) -> None:
        found = start(home)
        os.killpg(found.pid, signal.SIGSTOP)  # as deaf to SIGTERM as can be
        assert down(home)
        assert running(home) is None

    def test_a_number_of_another_process_is_not_believed(self, home: Home) -> None:
        """After the machine was restarted, say: the process with the noted number is somebody else's."""
        port = free_port()
        with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
            write_state(home, port=port, pid=other.pid, version="1.0")
            assert running(home) is None
            assert not down(home)
            assert other.poll() is None
            assert start(home).url == server.url_of(port)
            assert down(home)
            assert other.poll() is None
            other.kill()

    def test_a_start_that_was_cut_off_before_its_number_was_noted(self, home: Home) -> None:
        found = start(home)
        noted = state_of(home)
        write_state(home, port=noted["port"])
        with pytest.raises(ServiceError, match=r"its process is unknown; end what holds .*server\.lock"):
            down(home)
        write_state(home, **noted)
        assert running(home) == found


class TestProof:
    def test_a_server_in_its_place_is_not_ours(self, home: Home) -> None:
        found = start(home)
        home.token_file.write_text("0" * 40)
        changed = running(home)
        assert changed is not None
        with pytest.raises(ServiceError, match=f"{found.url}: what answers there refuses the token in"):
            changed.prove()

    def test_one_that_does_not_answer(self, home: Home) -> None:
        absent = Running(home, server.url_of(free_port()), os.getpid(), "1.0", home.token())
        with pytest.raises(ServiceError, match=r"runs .* but does not answer"):
            absent.prove()

    @pytest.mark.parametrize("status", [200, 401, 404])
    def test_another_program_is_not_taken_for_it(self, home: Home, status: int) -> None:
        with squatter(status) as port:
            assert server.accepts(server.url_of(port), home.token()) is False
            with pytest.raises(ServiceError, match="another program has the port"):
                server.wait(home, port, lambda: True)

    def test_a_server_that_moved_to_another_port_is_noticed(self, home: Home, label_studio_program: Path) -> None:
        with silent_squatter() as port:
            process = server.launch(label_studio_program, home, port)
            try:
                with pytest.raises(ServiceError, match="another program has the port"):
                    server.wait(home, port, lambda: process.poll() is None)
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def check_secrets(found: Running) -> None:
    """Nobody else can read them, and nothing repeats them."""
    home = found.home
    for path in (home.token_file, home.password_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.folder.stat().st_mode) == 0o700  # the database in it holds the token, too
    for secret in (home.token(), home.password()):
        assert secret.get_secret_value() not in repr(found) + home.log.read_text()


def test_deleted_secrets_are_made_anew(home: Home, label_studio_template: Home) -> None:
    home.password_file.unlink()
    home.token_file.unlink(missing_ok=True)
    found = start(home)
    old, new = label_studio_template, home
    assert not can_log_in(found.url, old.password().get_secret_value())
    assert can_log_in(found.url, new.password().get_secret_value())
    assert server.accepts(found.url, old.token()) is False
    assert server.accepts(found.url, new.token())


def can_log_in(url: str, password: str) -> bool:
    with httpx.Client(base_url=url, trust_env=False) as browser:
        browser.get("/user/login/")
        form = {"email": server.USERNAME, "password": password, "csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        return browser.post("/user/login/", data=form).is_redirect


def test_the_server_gets_no_variable_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "DEBUG", "DATABASE_NAME", "LABEL_STUDIO_SENTRY_DSN", "SAA_LABEL_STUDIO_TOKEN"):
        monkeypatch.setenv(name, "stray")
    variables = server.environment(Home(tmp_path), 8080)
    assert "stray" not in variables.values()
    assert variables["LABEL_STUDIO_COLLECT_ANALYTICS"] == "false"
    assert variables["LABEL_STUDIO_SENTRY_DSN"] == variables["LABEL_STUDIO_FRONTEND_SENTRY_DSN"] == ""


def test_the_pins_are_whole_and_name_no_registry() -> None:
    text = Path(server.__file__).with_name("server-requirements.txt").read_text()
    assert f"label-studio=={server.VERSION} " in text
    assert "://" not in text
    packages = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert all(" \\" in line and "==" in line for line in packages)
    assert text.count("--hash=sha256:") >= len(packages)
