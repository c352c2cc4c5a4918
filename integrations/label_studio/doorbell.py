"""The doorbell: Label Studio's webhook rings it when an expert saves, and a pull follows.

A webhook is sent once, inside the expert's own request, which waits for the answer for up to a second; one that fails
is lost. So the answer comes before any work, and a ring says no more than that there may be something new: what is new
is for the pull to find out, and a lost ring is made good by the next one. What a webhook sends is never looked at, as
it may hold the project's token. Prometheus asks at the same address how the workspace stands.
"""

from __future__ import annotations

import hmac
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote

from saa_core.errors import StoreError

HEADER = "X-SAA-Secret"
"""Name of the request header that holds the secret."""

SECRET = re.compile(r"[!-~]+")
"""What a secret looks like: ASCII without spaces, which a header holds as it is."""

PAUSE = 2.0
"""Seconds from a ring to its pull; further rings of the product join it."""

_BELLS = "/label-studio/"

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]


def address(base: str, product: str) -> str:
    """The URL that rings for a product.

    Args:
        base: URL of the doorbell, as `saa serve` prints it.
        product: Name of the product, any text.

    Example:
        >>> address("http://127.0.0.1:8765/", "cap / blue")
        'http://127.0.0.1:8765/label-studio/cap%20%2F%20blue'
    """
    return base.rstrip("/") + _BELLS + quote(product, safe="")


class _Reply(NamedTuple):
    status: int
    text: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    kind: bytes = b"text/plain; charset=utf-8"


_RUNG = _Reply(204)
_HEALTHY = _Reply(200, "up\n")
_STRANGER = _Reply(401, f"{HEADER} is wrong or missing\n", ((b"www-authenticate", HEADER.encode()),))
_NOBODY = _Reply(401, "the secret as a bearer token, please\n", ((b"www-authenticate", b"Bearer"),))
_NOT_FOUND = _Reply(404, "POST /label-studio/PRODUCT, GET /metrics or GET /health\n")
_AWAY = _Reply(503, "the catalog cannot be used\n")


class Metrics(NamedTuple):
    """What `GET /metrics` answers.

    Attributes:
        text: Gives them, in a thread of its own; StoreError if the catalog cannot be used.
        kind: Their content type.
        private: Whether the secret is asked for, as bearer token.
    """

    text: Callable[[], bytes]
    kind: str
    private: bool


class Doorbell:
    """The ASGI application: `POST /label-studio/<product>` with the secret rings, `GET /health` tells that it is up,
    `GET /metrics` how the workspace stands.

    Every product gets the same answer, known or not. Label Studio throws the answer away, looking the product up would
    keep the expert waiting, and a pull for a product that is not there fails where its operator looks.

    Args:
        secret: What `X-SAA-Secret` has to be, see `SECRET`.
        ring: Called with the product's name, in the event loop: it has to return at once and not to raise.
        metrics: Of the workspace.

    Raises:
        ValueError: The secret is empty, or no header could hold it as it is.
    """

    def __init__(self, secret: str, ring: Callable[[str], None], metrics: Metrics) -> None:
        if not SECRET.fullmatch(secret):
            raise ValueError("the secret of a doorbell is ASCII without spaces, and not empty")
        self._secret = secret.encode()
        self._ring = ring
        self._metrics = metrics

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the server's start and stop (ASGI 3).

        Raises:
            ValueError: The scope is neither HTTP nor lifespan; the specification asks for an exception then.
        """
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            # `receive` stays untouched: the body is not wanted, and whoever sends it may never come to its end.
            told = scope["path"] == "/metrics"
            await _send(await self._told(scope) if told else self._reply(scope), send)
        else:
            raise ValueError(f"a doorbell speaks HTTP, not {scope['type']}")

    def _reply(self, scope: Message) -> _Reply:
        path: str = scope["path"]
        if path == "/health":
            return _HEALTHY if scope["method"] == "GET" else _only("GET")
        product = path.removeprefix(_BELLS)
        # Names are shown to the operator line by line; one with a line break in it would forge a line.
        if product in (path, "") or not product.isprintable():
            return _NOT_FOUND
        if scope["method"] != "POST":
            return _only("POST")
        if not _holds(scope["headers"], HEADER.lower().encode(), self._secret):
            return _STRANGER
        self._ring(product)
        return _RUNG

    async def _told(self, scope: Message) -> _Reply:
        if scope["method"] != "GET":
            return _only("GET")
        if self._metrics.private and not _holds(scope["headers"], b"authorization", b"Bearer " + self._secret):
            return _NOBODY
        import asyncio  # whoever asks for help waits for nothing of this

        try:
            text = await asyncio.to_thread(self._metrics.text)
        except StoreError:
            return _AWAY
        return _Reply(200, text.decode(), kind=self._metrics.kind.encode())


def _holds(headers: Iterable[tuple[bytes, bytes]], name: bytes, value: bytes) -> bool:
    """Whether a header is there once, with this value."""
    given = [each for key, each in headers if key == name]
    return len(given) == 1 and hmac.compare_digest(given[0], value)


def _only(method: str) -> _Reply:
    return _Reply(405, f"only {method}\n", ((b"allow", method.encode()),))


async def _send(reply: _Reply, send: Send) -> None:
    body = reply.text.encode()
    headers = [*reply.headers]
    if body:
        headers += [(b"content-type", reply.kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _live(receive: Receive, send: Send) -> None:
    for event in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{event}.complete"})


class Bell:
    """Turns rings into pulls: one at a time, and one for all rings that came before it began.

    The first ring of a product starts a pause, which later rings do not make longer: a pull is never put off for as
    long as somebody works. A ring that comes while its product is being pulled asks for one more pull.

    Args:
        pull: Brings in what is new of a product.
        failed: Told of a pull that raised. The service goes on, and the next ring tries again.
        pause: Seconds from the first ring to the pull.
        clock: Seconds of a clock that never goes back.
        wait: Waits on the condition for at most so many seconds, None is for ever; returns early when notified.
    """

    def __init__(
        self,
        pull: Callable[[str], None],
        failed: Callable[[str, Exception], None],
        pause: float = PAUSE,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Condition, float | None], object] = threading.Condition.wait,
    ) -> None:
        self._pull = pull
        self._failed = failed
        self._pause = pause
        self._clock = clock
        self._wait = wait
        self._changed = threading.Condition()
        self._due: dict[str, float] = {}  # in the order of the first rings, which is that of the times
        self._stopped = False

    def ring(self, product: str) -> None:
        """Ask for a pull of the product; from any thread, and returns at once."""
        with self._changed:
            self._due.setdefault(product, self._clock() + self._pause)
            self._changed.notify()

    def stop(self) -> None:
        """Let `run` return when the pull that is running has ended; rings not yet answered are forgotten."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def run(self) -> None:
        """Pull whenever it was rung, until `stop`; in a thread of its own."""
        while (product := self._next()) is not None:
            try:
                self._pull(product)
            except Exception as error:
                self._failed(product, error)

    def _next(self) -> str | None:
        """The product whose pause is over, waiting for one if need be; None after `stop`."""
        with self._changed:
            while not self._stopped:
                if not self._due:
                    self._wait(self._changed, None)
                    continue
                product, due = next(iter(self._due.items()))
                seconds = due - self._clock()
                if seconds <= 0:
                    del self._due[product]
                    return product
                self._wait(self._changed, seconds)
        return None
