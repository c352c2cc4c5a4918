"""The doorbell: who may ring, that nobody waits, and which pulls follow; at the end with uvicorn and a real server."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st

from integrations.label_studio.client import Client
from integrations.label_studio.doorbell import HEADER, Bell, Doorbell, Metrics, address
from integrations.label_studio.webhook import register
from saa_core.errors import StoreError
from tests.label_studio_server import Server, free_port

SECRET = "right-secret"
RIGHT = {HEADER: SECRET}
METRICS = Metrics(lambda: b"saa_runs 1.0\n", "text/plain; version=0.0.4", private=True)


def ask(app: Doorbell, method: str, path: str, headers: Any = None, **more: Any) -> httpx.Response:
    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://bell") as client:
            return await client.request(method, path, headers=headers, **more)

    return asyncio.run(asked())


def raw(app: Doorbell, scope: dict[str, Any]) -> list[Any]:
    """What the application sends for a request whose body must not be asked for."""
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was asked for")

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


# Who may ask how the workspace stands


def test_on_another_address_the_metrics_want_the_secret() -> None:
    app = Doorbell(SECRET, pytest.fail, METRICS)
    for headers in ({}, RIGHT, {"Authorization": SECRET}, {"Authorization": "Bearer wrong"}):
        assert ask(app, "GET", "/metrics", headers).status_code == 401
    answer = ask(app, "GET", "/metrics", {"Authorization": f"Bearer {SECRET}"})
    assert (answer.status_code, answer.text) == (200, "saa_runs 1.0\n")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4"


def test_on_the_loopback_interface_they_do_not() -> None:
    app = Doorbell(SECRET, pytest.fail, METRICS._replace(private=False))
    assert ask(app, "GET", "/metrics").status_code == 200
    assert ask(app, "POST", "/metrics").status_code == 405


def test_a_catalog_that_is_away_is_no_reason_to_tell_its_address() -> None:
    def away() -> bytes:
        raise StoreError("postgresql://saa@db/saa", "the catalog cannot be used")

    answer = ask(Doorbell(SECRET, pytest.fail, METRICS._replace(text=away, private=False)), "GET", "/metrics")
    assert (answer.status_code, answer.text) == (503, "the catalog cannot be used\n")


# Who may ring


def test_the_right_secret_rings() -> None:
    rung: list[str] = []
    answer = ask(
        Doorbell(SECRET, rung.append, METRICS), "POST", "/label-studio/bottle", RIGHT, content=b'{"action": "X"}'
    )
    assert (answer.status_code, answer.content) == (204, b"")
    assert rung == ["bottle"]


@pytest.mark.parametrize("product", ["bottle", "cap / blue", "Gehäuse 50 %", "a?b#c&d", "日本"])
def test_a_product_rings_under_any_name(product: str) -> None:
    rung: list[str] = []
    url = address("http://bell/", product)
    assert (
        ask(Doorbell(SECRET, rung.append, METRICS), "POST", url.removeprefix("http://bell"), RIGHT).status_code == 204
    )
    assert rung == [product]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {HEADER: ""},
        {HEADER: "right-secre"},
        {HEADER: "Right-Secret"},
        {HEADER: f"{SECRET} {SECRET}"},
        {HEADER: "sécret".encode("latin-1")},
        [(HEADER, SECRET), (HEADER, SECRET)],
        {"Authorization": SECRET},
    ],
)
def test_anything_else_is_refused_and_not_told_why(headers: Any) -> None:
    rung: list[str] = []
    answer = ask(Doorbell(SECRET, rung.append, METRICS), "POST", "/label-studio/bottle", headers)
    assert (answer.status_code, answer.text) == (401, "X-SAA-Secret is wrong or missing\n")
    assert rung == []


@pytest.mark.parametrize("path", ["/", "", "/label-studio", "/label-studio/", "/label-studio/a%0Ab", "/healthy", "/x"])
def test_there_is_nothing_else(path: str) -> None:
    rung: list[str] = []
    assert ask(Doorbell(SECRET, rung.append, METRICS), "POST", path, RIGHT).status_code == 404
    assert rung == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_only_a_post_rings(method: str) -> None:
    rung: list[str] = []
    answer = ask(Doorbell(SECRET, rung.append, METRICS), method, "/label-studio/bottle", RIGHT)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert rung == []


def test_health_needs_no_secret() -> None:
    app = Doorbell(SECRET, pytest.fail, METRICS)
    assert (ask(app, "GET", "/health").status_code, ask(app, "GET", "/health").text) == (200, "up\n")
    answer = ask(app, "POST", "/health")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize("secret", ["", " ", "two words", "naïve", "line\nbreak"])
def test_a_secret_that_no_header_holds_as_it_is(secret: str) -> None:
    with pytest.raises(ValueError, match="secret of a doorbell") as error:
        Doorbell(secret, pytest.fail, METRICS)
    assert not secret.strip() or secret not in str(error.value)


def test_the_body_is_never_asked_for() -> None:
    rung: list[str] = []
    headers = [(b"x-saa-secret", SECRET.encode()), (b"content-length", b"1000000000")]
    scope = {"type": "http", "method": "POST", "path": "/label-studio/bottle", "headers": headers}
    start, body = raw(Doorbell(SECRET, rung.append, METRICS), scope)
    assert (start["status"], body["body"], rung) == (204, b"", ["bottle"])


def test_it_starts_and_stops_with_the_server() -> None:
    events = iter(["startup", "shutdown"])
    sent: list[str] = []

    async def receive() -> dict[str, str]:
        return {"type": f"lifespan.{next(events)}"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(Doorbell(SECRET, pytest.fail, METRICS)({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_it_speaks_http_alone() -> None:
    with pytest.raises(ValueError, match="not websocket"):
        raw(Doorbell(SECRET, pytest.fail, METRICS), {"type": "websocket"})


PATHS = st.one_of(st.text(), st.text().map(lambda text: f"/label-studio/{text}"))
HEADERS = st.tuples(st.one_of(st.binary(), st.just(b"x-saa-secret")), st.binary())


@given(st.sampled_from(["GET", "POST", "HEAD", ""]), PATHS, st.lists(HEADERS))
def test_no_request_is_an_error_of_ours_or_rings_without_the_secret(
    method: str, path: str, headers: list[tuple[bytes, bytes]]
) -> None:
    rung: list[str] = []
    sent = raw(
        Doorbell(SECRET, rung.append, METRICS), {"type": "http", "method": method, "path": path, "headers": headers}
    )
    assert sent[0]["status"] in {200, 401, 404, 405}
    assert rung == []


@given(st.text(min_size=1))
def test_every_name_that_can_be_shown_rings(product: str) -> None:
    rung: list[str] = []
    headers = [(b"x-saa-secret", SECRET.encode())]
    scope = {"type": "http", "method": "POST", "path": f"/label-studio/{product}", "headers": headers}
    raw(Doorbell(SECRET, rung.append, METRICS), scope)
    assert rung == ([product] if product.isprintable() else [])


# Which pulls follow


class Day:
    """A day at the doorbell with a clock of its own: rings come at their times, also while a pull runs.

    Args:
        rings: Time and product of each ring.
        seconds: How long a pull takes.
    """

    def __init__(self, rings: list[tuple[float, str]], seconds: float = 1.0) -> None:
        self.now = 0.0
        self.rings = sorted(rings)
        self.seconds = seconds
        self.pulls: list[tuple[float, str]] = []
        self.failures: list[tuple[str, str]] = []
        self.bell = Bell(
            self.pull,
            lambda product, error: self.failures.append((product, str(error))),
            clock=lambda: self.now,
            wait=self.wait,
        )

    def pull(self, product: str) -> None:
        self.pulls.append((self.now, product))
        if product == "broken":
            raise OSError("the server is away")
        self.go_on_to(self.now + self.seconds)

    def wait(self, _: threading.Condition, seconds: float | None) -> None:
        if self.rings and (seconds is None or self.rings[0][0] <= self.now + seconds):
            self.go_on_to(self.rings[0][0])
        elif seconds is None:
            self.bell.stop()
        else:
            self.go_on_to(self.now + seconds)

    def go_on_to(self, end: float) -> None:
        while self.rings and self.rings[0][0] <= end:
            self.now, product = self.rings.pop(0)
            self.bell.ring(product)
        self.now = end


def pulls(*rings: tuple[float, str], seconds: float = 1.0) -> list[tuple[float, str]]:
    day = Day(list(rings), seconds)
    day.bell.run()
    return day.pulls


def test_many_rings_are_one_pull_after_a_pause() -> None:
    assert pulls((10, "cap"), (10.5, "cap"), (11.9, "cap")) == [(12, "cap")]


def test_somebody_who_never_pauses_does_not_put_the_pull_off() -> None:
    assert pulls(*((0.5 * number, "cap") for number in range(9))) == [(2, "cap"), (4.5, "cap")]


def test_rings_during_a_pull_are_one_more() -> None:
    assert pulls((0, "cap"), (3, "cap"), (4, "cap"), (11, "cap"), seconds=10) == [(2, "cap"), (12, "cap")]


def test_every_product_gets_its_own_pull_one_after_the_other() -> None:
    assert pulls((0, "cap"), (1, "nut"), (1.5, "cap"), seconds=5) == [(2, "cap"), (7, "nut")]


def test_a_pull_that_fails_is_reported_and_the_next_one_comes() -> None:
    day = Day([(0, "cap"), (5, "broken"), (9, "cap")])
    day.bell.run()
    assert day.failures == [("broken", "the server is away")]
    assert day.pulls == [(2, "cap"), (7, "broken"), (11, "cap")]


@given(
    st.lists(st.tuples(st.integers(0, 60).map(float), st.sampled_from("abc")), max_size=30),
    st.sampled_from([0.0, 0.5, 3.0, 20.0]),
)
def test_no_ring_is_lost_and_no_pull_is_without_one(rings: list[tuple[float, str]], seconds: float) -> None:
    made = pulls(*rings, seconds=seconds)
    for rung, product in rings:
        # After the pause, and at the latest when one pull of every product has had its turn.
        assert any(who == product and rung <= start <= rung + 2 + 3 * seconds for start, who in made)
    for number, (start, product) in enumerate(made):
        before = max((earlier for earlier, who in made[:number] if who == product), default=-1)
        assert any(who == product and before <= rung <= start - 2 for rung, who in rings)
    assert all(later >= earlier + seconds for (earlier, _), (later, _) in pairwise(made))


def test_stopping_waits_for_the_running_pull_and_for_no_other() -> None:
    running, finish = threading.Event(), threading.Event()
    done: list[str] = []

    def pull(product: str) -> None:
        running.set()
        assert finish.wait(10)
        done.append(product)

    bell = Bell(pull, pytest.fail, pause=0)
    worker = threading.Thread(target=bell.run)
    worker.start()
    bell.ring("cap")
    assert running.wait(10)
    bell.ring("nut")
    bell.stop()
    worker.join(0.05)
    assert worker.is_alive()
    finish.set()
    worker.join(10)
    assert not worker.is_alive()
    assert done == ["cap"]


def test_a_stop_wakes_a_bell_that_nobody_rang() -> None:
    bell = Bell(pytest.fail, pytest.fail)
    worker = threading.Thread(target=bell.run)
    worker.start()
    bell.stop()
    worker.join(10)
    assert not worker.is_alive()


# With a server in front of it


@contextmanager
def served(app: Any) -> Iterator[int]:
    """The application under uvicorn, set as `saa serve` sets it; the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="error", ws="none"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with served(Doorbell(SECRET, lambda product: None, METRICS)) as port:
        yield port


def spoken(port: int, request: bytes) -> bytes:
    """The first of the answer to these bytes, after which the connection stays open."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        return connection.recv(4096)


def test_who_never_finishes_the_body_is_answered(port: int) -> None:
    request = f"POST /label-studio/cap HTTP/1.1\r\nHost: x\r\n{HEADER}: {SECRET}\r\nContent-Length: 1000\r\n\r\nabc"
    assert spoken(port, request.encode()).startswith(b"HTTP/1.1 204 ")


def test_who_wants_to_be_asked_for_the_body_is_not_asked(port: int) -> None:
    head = f"POST /label-studio/cap HTTP/1.1\r\nHost: x\r\n{HEADER}: {SECRET}\r\n"
    answer = spoken(port, f"{head}Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 204 ")


@settings(max_examples=150)
@given(st.binary(), st.binary())
def test_no_bytes_are_an_error_of_ours(port: int, path: bytes, secret: bytes) -> None:
    request = b"POST /label-studio/%b HTTP/1.1\r\nHost: x\r\nX-SAA-Secret: %b\r\n\r\n" % (path, secret)
    assert spoken(port, request).split()[1] in {b"400", b"401", b"404", b"405"}


# Rung by a real Label Studio

CONFIG = """<View><Image name="image" value="$image"/><Choices name="verdict" toName="image"><Choice value="good"/>
</Choices></View>"""


@pytest.fixture(scope="module")
def http(label_studio: Server) -> Iterator[httpx.Client]:
    with label_studio.http() as http:
        yield http


@pytest.fixture
def project(http: httpx.Client) -> Iterator[tuple[int, int]]:
    """A project with one task; ids of both."""
    project = http.post("/api/projects/", json={"title": "doorbell", "label_config": CONFIG}).json()["id"]
    tasks = [{"data": {"image": "/data/none.png"}}]
    made = http.post(f"/api/projects/{project}/import", params={"return_task_ids": True}, json=tasks).json()
    yield project, made["task_ids"][0]
    http.delete(f"/api/projects/{project}/").raise_for_status()


@pytest.fixture
def client(label_studio: Server) -> Iterator[Client]:
    with Client(label_studio.url, label_studio.token) as client:
        yield client


def submit(http: httpx.Client, task: int, **fields: Any) -> int:
    """Submit an annotation as the editor does; its id."""
    answer = http.post(f"/api/tasks/{task}/annotations/", json={"result": [], **fields})
    assert answer.status_code == 201
    return int(answer.json()["id"])


def seconds(act: Callable[[], object]) -> float:
    begun = time.monotonic()
    act()
    return time.monotonic() - begun


def settled(holds: Callable[[], bool]) -> bool:
    """Whether it comes to hold within 10 s."""
    end = time.monotonic() + 10
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


def test_whatever_the_expert_does_rings(client: Client, http: httpx.Client, project: tuple[int, int]) -> None:
    rung: list[str] = []
    with served(Doorbell(SECRET, rung.append, METRICS)) as port:
        assert register(client, project[0], address(f"http://127.0.0.1:{port}", "cap / ü"), SECRET)
        annotation = submit(http, project[1])
        assert settled(lambda: rung == ["cap / ü"])
        submit(http, project[1], was_cancelled=True)
        assert settled(lambda: len(rung) == 2)
        http.patch(f"/api/annotations/{annotation}/", json={"result": []}).raise_for_status()
        assert settled(lambda: len(rung) == 3)
        http.delete(f"/api/annotations/{annotation}/").raise_for_status()
        assert settled(lambda: len(rung) == 4)
        query = {"id": "delete_tasks_annotations", "project": project[0]}
        everything = {"selectedItems": {"all": True, "excluded": []}}
        http.post("/api/dm/actions/", params=query, json=everything).raise_for_status()
        assert settled(lambda: rung == ["cap / ü"] * 5)


def test_the_expert_does_not_wait_for_the_pull(client: Client, http: httpx.Client, project: tuple[int, int]) -> None:
    running, finish = threading.Event(), threading.Event()

    def pull(product: str) -> None:
        running.set()
        finish.wait(30)

    bell = Bell(pull, pytest.fail, pause=0)
    worker = threading.Thread(target=bell.run)
    worker.start()
    with served(Doorbell(SECRET, bell.ring, METRICS)) as port:
        register(client, project[0], address(f"http://127.0.0.1:{port}", "cap"), SECRET)
        submit(http, project[1])
        assert running.wait(10)
        # Held up, the server would give up after its limit of 1 s for a webhook, every time, and tell nobody.
        assert min(seconds(lambda: submit(http, project[1])) for _ in range(3)) < 1
    finish.set()
    bell.stop()
    worker.join(10)


def test_a_wrong_secret_is_refused_and_the_expert_goes_on(
    client: Client, http: httpx.Client, project: tuple[int, int]
) -> None:
    rung: list[str] = []
    statuses: list[int] = []
    bell = Doorbell(SECRET, rung.append, METRICS)

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def watch(message: Any) -> None:
            statuses.extend([message["status"]] if "status" in message else [])
            await send(message)

        await bell(scope, receive, watch)

    with served(watched) as port:
        register(client, project[0], address(f"http://127.0.0.1:{port}", "cap"), "another-secret")
        submit(http, project[1])
        assert settled(lambda: statuses == [401])
    assert rung == []


def test_nobody_at_the_door_and_the_expert_goes_on(
    client: Client, http: httpx.Client, project: tuple[int, int]
) -> None:
    register(client, project[0], address(f"http://127.0.0.1:{free_port()}", "cap"), SECRET)
    submit(http, project[1])
    assert len(http.get(f"/api/tasks/{project[1]}/annotations/").json()) == 1
