"""The client on real sockets: servers that break off, keep silent or hang up, and the real Label Studio."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from integrations.label_studio.client import Client
from saa_core.errors import AnswerLostError, ServiceError
from tests.label_studio_server import Server

TOKEN = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c"

Behave = Callable[[BaseHTTPRequestHandler], None]


class Loopback(ThreadingHTTPServer):
    """Behaves as told for every request, and keeps what was asked with its body."""

    daemon_threads = True

    def __init__(self, behave: Behave) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behave = behave
        self.asked: list[tuple[str, bytes]] = []
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def client(self, timeout: float = 5.0) -> Client:
        return Client(self.url, TOKEN, timeout=timeout, sleep=lambda _: None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Loopback

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((f"{self.command} {self.path}", body))
        self.server.behave(self)

    do_GET = do_POST = do_PATCH = do_DELETE = _any  # noqa: N815

    def log_message(self, *_: object) -> None:
        """A test says enough."""


@contextmanager
def loopback(behave: Behave) -> Iterator[Loopback]:
    server = Loopback(behave)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


def answer(handler: BaseHTTPRequestHandler, body: bytes = b"{}", claimed: int | None = None) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body) if claimed is None else claimed))
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def break_off(handler: BaseHTTPRequestHandler) -> None:
    answer(handler, b'{"task_ids": [1, 2', claimed=1000)
    hang_up(handler)


def break_off_in_the_head(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 201 Created\r\nContent-Ty")
    handler.wfile.flush()
    hang_up(handler)


def keep_silent(handler: BaseHTTPRequestHandler) -> None:
    assert isinstance(handler.server, Loopback)
    handler.server.ended.wait(10)
    handler.close_connection = True


def stop_midway(handler: BaseHTTPRequestHandler) -> None:
    answer(handler, b'{"task_ids"', claimed=1000)
    keep_silent(handler)


def talk_nonsense(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"220 mail.example.com ESMTP\r\n")
    handler.wfile.flush()
    hang_up(handler)


def gzip_nonsense(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Encoding", "gzip")
    handler.send_header("Content-Length", "4")
    handler.end_headers()
    handler.wfile.write(b"\0\1\2\3")


BREAKS = [hang_up, break_off, break_off_in_the_head, keep_silent, stop_midway, talk_nonsense, gzip_nonsense]


@pytest.mark.parametrize("behave", BREAKS, ids=lambda behave: behave.__name__)
def test_a_write_that_gets_no_whole_answer_arrives_once(behave: Behave) -> None:
    with loopback(behave) as server, server.client(0.2) as client:
        with pytest.raises(AnswerLostError, match="may have been done or not") as caught:
            client.post("/api/projects/7/import", [{"data": {"a": 1}}])
        assert server.asked == [("POST /api/projects/7/import", b'[{"data":{"a":1}}]')]
        assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("behave", "tries"),
    [(hang_up, 3), (break_off, 3), (break_off_in_the_head, 3), (talk_nonsense, 3), (keep_silent, 1), (stop_midway, 1)],
)
def test_a_read_that_gets_no_whole_answer_is_no_lost_write(behave: Behave, tries: int) -> None:
    with loopback(behave) as server, server.client(0.2) as client:
        with pytest.raises(ServiceError) as caught:
            client.get("/api/projects/")
        assert not isinstance(caught.value, AnswerLostError)
        assert len(server.asked) == tries


def test_a_server_that_recovers_is_read() -> None:
    broken: list[Behave] = [hang_up, break_off]
    with loopback(lambda handler: (broken.pop() if broken else answer)(handler)) as server, server.client() as client:
        assert client.get("/api/projects/") == {}


def test_a_slow_server_is_waited_for() -> None:
    def slowly(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.3)
        answer(handler, b'{"id": 1}')

    with loopback(slowly) as server, server.client() as client:
        assert client.post("/api/projects/") == {"id": 1}


def test_nobody_listening_means_that_a_write_was_not_done() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with Client(url, TOKEN, sleep=lambda _: None) as client, pytest.raises(ServiceError) as caught:
            client.post("/api/projects/")
    assert not isinstance(caught.value, AnswerLostError)
    assert "no connection" in caught.value.reason


def test_a_connection_that_the_server_closed_while_it_lay_idle_does_no_harm_to_a_write() -> None:
    closed = threading.Event()

    def then_close(handler: BaseHTTPRequestHandler) -> None:
        answer(handler)
        hang_up(handler)
        closed.set()

    with loopback(then_close) as server, server.client() as client:
        client.get("/api/projects/")
        assert closed.wait(5)
        time.sleep(0.05)  # until the kernel has told our end
        assert client.post("/api/projects/") == {}


def test_a_proxy_of_the_environment_is_not_asked_for_our_own_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    # Variables are the interface here, nothing of the code is replaced.
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with loopback(answer) as server, server.client() as client:
        assert client.get("/api/projects/") == {}


# ---------------------------------------------------------------------------------------------------- the real server


def personal_token(server: Server) -> str:
    """A new one; a user may have one at a time."""
    with server.http() as http:
        for token in http.get("/api/token/").raise_for_status().json():
            http.post("/api/token/blacklist/", json={"refresh": token["token"]})
        return str(http.post("/api/token/").raise_for_status().json()["token"])


def allow(client: Client, **rules: bool) -> None:
    client.post("/api/jwt/settings", {"legacy_api_tokens_enabled": True, "api_tokens_enabled": True} | rules)


def test_both_kinds_of_token_are_taken(label_studio: Server) -> None:
    for token in (label_studio.token, personal_token(label_studio)):
        with Client(label_studio.url, token) as client:
            assert client.whoami()["email"] == label_studio.email
            stamp = client.stamp()
            assert stamp is not None
            assert abs(stamp.timestamp() - time.time()) < 60


def test_a_wrong_token_is_said(label_studio: Server) -> None:
    for token in ("f" * 40, "eyJh.eyJh.abc"):
        with Client(label_studio.url, token) as client, pytest.raises(ServiceError, match="not know the tok") as caught:
            client.whoami()
        assert caught.value.status == 401


def test_a_revoked_token_is_said(label_studio: Server) -> None:
    token = personal_token(label_studio)
    with label_studio.http() as http:
        http.post("/api/token/blacklist/", json={"refresh": token}).raise_for_status()
    with Client(label_studio.url, token) as client, pytest.raises(ServiceError, match="was revoked; make another"):
        client.whoami()


def test_what_the_server_calls_a_missing_project(label_studio: Server) -> None:
    with Client(label_studio.url, label_studio.token) as client:
        for call in (lambda: client.get("/api/projects/99999/"), lambda: client.post("/api/projects/99999/import", [])):
            with pytest.raises(ServiceError, match="there is no such thing") as caught:
                call()
            assert caught.value.status == 404


def test_a_page_for_people_is_no_api(label_studio: Server) -> None:
    with Client(f"{label_studio.url}/user/login", label_studio.token) as client, pytest.raises(ServiceError):
        client.whoami()


def test_a_file_of_the_server_is_fetched_only_with_the_token(label_studio: Server, project_cleanup: None) -> None:
    with Client(label_studio.url, label_studio.token) as client:
        project = client.post("/api/projects/", {"title": "files"})["id"]
        files = [("a.png", ("a.png", b"\x89PNG not really", "image/png"))]
        path = f"/api/projects/{project}/import"
        upload = client.post(path, params={"commit_to_project": "false"}, files=files)["file_upload_ids"][0]
        name = client.get(f"/api/import/file-upload/{upload}")["file"]
        assert client.fetch(f"/data/{name}").content == b"\x89PNG not really"
        assert httpx.get(f"{label_studio.url}/data/{name}").status_code == 401
        with pytest.raises(ServiceError, match="500"):  # as it calls a file that is not there
            client.fetch("/data/upload/no-such.png")


def test_the_organizations_rules_on_tokens_are_said(label_studio: Server) -> None:
    with (
        Client(label_studio.url, label_studio.token) as legacy,
        Client(label_studio.url, personal_token(label_studio)) as personal,
    ):
        try:
            allow(personal, legacy_api_tokens_enabled=False)
            with pytest.raises(
                ServiceError, match="it takes no legacy tokens; set SAA_LABEL_STUDIO_TOKEN to a personal"
            ):
                legacy.whoami()
        finally:
            allow(personal)
        try:
            allow(legacy, api_tokens_enabled=False)
            with pytest.raises(ServiceError, match="it takes no personal access tokens; let an administrator"):
                personal.whoami()
        finally:
            allow(legacy)


def test_a_server_that_is_killed_and_comes_back(own_label_studio: Server) -> None:
    with Client(own_label_studio.url, own_label_studio.token, sleep=lambda _: None) as client:
        client.whoami()
        own_label_studio.kill()
        with pytest.raises(ServiceError, match="no connection"):
            client.whoami()
        own_label_studio.relaunch()
        assert client.whoami()["email"] == own_label_studio.email
