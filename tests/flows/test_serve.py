"""`saa serve` as a process: what it says, who hears the secret, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.cli.serve import address_of, is_loopback, listen, run
from integrations.label_studio.doorbell import HEADER, Metrics, address
from saa_core.errors import SettingsError

SERVE = "import sys; from flows.cli import main; sys.argv[0:1] = ['saa', 'serve']; main()"

# A doorbell whose pulls are told by what is in a folder: NAME is there when a pull began, and may-end lets it end.
DOUBLE = """
import pathlib, sys, time
from flows.cli.serve import listen, run
from integrations.label_studio.doorbell import Metrics

folder = pathlib.Path(sys.argv[1])

def pull(product):
    if product == "exit":
        raise SystemExit
    if product == "broken":
        raise RuntimeError("the server is away")
    (folder / product).touch()
    while not (folder / "may-end").exists():
        time.sleep(0.01)
    (folder / f"{product}-done").touch()
    return "3 reviews"

with listen("127.0.0.1", 0) as listener:
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    run(listener, "s3cret", pull, Metrics(bytes, "text/plain", False), lambda: print(url, flush=True), pause=0.2)
"""


class Service:
    """A running service; `first` is the first line of its standard output."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        assert process.stdout is not None
        self.process = process
        self.first = process.stdout.readline()
        self._errors = errors

    @property
    def said(self) -> str:
        return self._errors.read_text()

    def ring(self, url: str, product: str, secret: str = "s3cret") -> int:
        return httpx.post(address(url, product), headers={HEADER: secret}, json={"token": "payload"}).status_code

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=20)


@contextmanager
def started(code: str, arguments: Sequence[str | Path], folder: Path) -> Iterator[Service]:
    errors = folder / "stderr"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with errors.open("w") as written:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=written, text=True)
    with process:
        try:
            yield Service(process, errors)
        finally:
            process.kill()


def settled(holds: Callable[[], bool]) -> bool:
    """Whether it comes to hold within a minute, in which Prefect can be imported on a busy machine."""
    end = time.monotonic() + 60
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


def test_help_teaches_by_example() -> None:
    assert "saa serve" in CliRunner().invoke(app, ["serve", "--help"]).output


def test_a_visit(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    said: list[str] = []

    def visit() -> None:
        try:
            httpx.post(address(url, "cap"), headers={HEADER: "s3cret"})
            settled(lambda: "cap: 3 reviews" in said_so_far())
        finally:
            signal.raise_signal(signal.SIGTERM)

    def said_so_far() -> str:
        said.append(capsys.readouterr().err)
        return "".join(said)

    with listen("127.0.0.1", 0) as listener:
        url = address_of("127.0.0.1", listener)
        metrics = Metrics(bytes, "text/plain", False)
        run(listener, "s3cret", lambda product: "3 reviews", metrics, threading.Thread(target=visit).start, pause=0)
    assert said_so_far().splitlines() == ["cap: 3 reviews", "stopping; a pull that runs is finished first"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_the_address_is_one_that_others_can_use() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert address_of("127.0.0.1", listener) == f"http://127.0.0.1:{port}"
        assert address_of("0.0.0.0", listener) == f"http://{socket.gethostname()}:{port}"
        assert address_of("::1", listener) == f"http://[::1]:{port}"


@pytest.mark.parametrize(("host", "only_here"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False)])
def test_who_reaches_it(host: str, only_here: bool) -> None:
    with listen(host, 0) as listener:
        assert is_loopback(listener) == only_here


@pytest.mark.usefixtures("prefect_api")
def test_it_prints_where_it_is_and_never_the_secret(tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    with started(SERVE, ["--port", "0", "--workspace", workspace, "--json"], tmp_path) as service:
        url = json.loads(service.first + "".join(service.process.stdout.readline() for _ in range(2)))["url"]
        assert url.startswith("http://127.0.0.1:")
        path = workspace / "secrets" / "webhook"
        assert path.stat().st_mode & 0o777 == 0o600
        secret = path.read_text().strip()
        assert service.ring(url, "no such product", "wrong") == 401
        assert service.ring(url, "no such product", secret) == 204
        # Its pull fails; that is said, and the service goes on.
        assert settled(lambda: "error: no such product: " in service.said)
        assert httpx.get(f"{url}/health").status_code == 200
        assert "# TYPE saa_images gauge" in httpx.get(f"{url}/metrics").text
        assert service.end() == 0
        assert secret not in service.said
        assert "payload" not in service.said
        assert "POST" not in service.said


def test_it_says_what_to_push_with(tmp_path: Path) -> None:
    with started(SERVE, ["--port", "0", "--workspace", tmp_path / "w"], tmp_path) as service:
        assert "--webhook http://127.0.0.1:" in service.first
        assert service.end(signal.SIGINT) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_running_pull_end(tmp_path: Path, number: int) -> None:
    with started(DOUBLE, [tmp_path], tmp_path) as service:
        url = service.first.strip()
        assert service.ring(url, "cap") == 204
        assert settled((tmp_path / "cap").exists)
        assert service.ring(url, "nut") == 204
        service.process.send_signal(number)
        assert settled(lambda: "a pull that runs is finished first" in service.said)
        time.sleep(0.1)
        assert service.process.poll() is None
        (tmp_path / "may-end").touch()
        assert service.process.wait(timeout=20) == 0
        assert (tmp_path / "cap-done").exists()
        assert not (tmp_path / "nut").exists()
        assert "cap: 3 reviews" in service.said


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with started(DOUBLE, [tmp_path], tmp_path) as service:
        service.ring(service.first.strip(), "cap")
        assert settled((tmp_path / "cap").exists)
        service.process.send_signal(signal.SIGINT)
        assert settled(lambda: "stopping" in service.said)
        assert service.end(signal.SIGINT) != 0
        assert not (tmp_path / "cap-done").exists()


def test_a_client_that_never_finishes_does_not_hold_the_end_up(tmp_path: Path) -> None:
    with started(DOUBLE, [tmp_path], tmp_path) as service:
        host, port = service.first.strip().removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as idle, socket.create_connection((host, int(port))) as half:
            half.sendall(b"POST /label-studio/cap HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na")
            assert half.recv(100).startswith(b"HTTP/1.1 401")
            idle.sendall(b"POST /label")
            assert service.end() == 0


def test_a_pull_that_breaks_is_reported_and_the_service_goes_on(tmp_path: Path) -> None:
    with started(DOUBLE, [tmp_path], tmp_path) as service:
        url = service.first.strip()
        service.ring(url, "broken")
        assert settled(lambda: "error: broken: RuntimeError: the server is away" in service.said)
        assert service.ring(url, "cap") == 204
        assert settled((tmp_path / "cap").exists)


def test_it_does_not_go_on_without_anybody_to_pull(tmp_path: Path) -> None:
    with started(DOUBLE, [tmp_path], tmp_path) as service:
        service.ring(service.first.strip(), "exit")
        assert service.process.wait(timeout=20) == 1
        assert "ended without being told to" in service.said


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"127.0.0.1 port {port}: Address already in use; --host"):
            listen("127.0.0.1", port)
        again = CliRunner().invoke(app, ["serve", "--port", str(port), "--workspace", str(tmp_path)])
        assert isinstance(again.exception, SettingsError)


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(SettingsError, match=r"^192\.0\.2\.1 port 0: Cannot assign"):
        listen("192.0.2.1", 0)
