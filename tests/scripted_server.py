"""A Label Studio that answers as scripted, for clients that take a transport."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from integrations.label_studio.client import Client
from saa_core.errors import ServiceError

URL = "http://labels.test:8080"
LEGACY = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c"
PERSONAL = "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCIsImV4cCI6MX0.cGVyc29uYWw"
"""Its `exp` is the first second of 1970: only the server may judge it."""

Reply = httpx.Response | Exception


class Server:
    """Answers as scripted, the last answer for ever, and keeps what it was asked."""

    def __init__(self, *replies: Reply | Callable[[httpx.Request], Reply]) -> None:
        self.replies = list(replies)
        self.requests: list[httpx.Request] = []
        self.credentials: list[str | None] = []
        self.pauses: list[float] = []
        self.now = 1000.0

    def note(self, request: httpx.Request) -> None:
        self.requests.append(request)
        # Noted now, since a request that goes out again is signed anew.
        self.credentials.append(request.headers.get("Authorization"))

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.note(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        reply = reply(request) if callable(reply) else reply
        if isinstance(reply, Exception):
            raise reply
        # A fresh one, since a client reads and closes what it gets.
        return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)

    def client(self, token: str = LEGACY, url: str = URL) -> Client:
        return Client(url, token, transport=httpx.MockTransport(self), sleep=self.pauses.append, clock=lambda: self.now)

    @property
    def asked(self) -> list[str]:
        return [f"{request.method} {request.url.path}" for request in self.requests]


class TokenServer(Server):
    """A server whose access tokens are numbered and die as it pleases."""

    def __init__(self, *replies: Reply) -> None:
        super().__init__(*(replies or (ok(),)))
        self.bought = 0
        self.valid: set[str] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/token/refresh/":
            self.note(request)
            if json.loads(request.content) != {"refresh": PERSONAL}:
                return said(401, "Token is invalid")
            self.bought += 1
            self.valid = {f"access-{self.bought}"}
            return ok({"access": f"access-{self.bought}"})
        if request.headers["Authorization"].removeprefix("Bearer ") not in self.valid:
            self.note(request)
            return said(401, "Authentication credentials were not provided.")
        return super().__call__(request)


def ok(content: Any = None, status: int = 200, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={} if content is None else content, headers=headers)


def said(status: int, detail: str, **headers: str) -> httpx.Response:
    # As the real server wraps it.
    content = {"id": "5e0f", "status_code": status, "version": "1.23.2", "detail": detail, "exc_info": None}
    return httpx.Response(status, json=content, headers=headers)


def page(status: int, title: str) -> httpx.Response:
    return httpx.Response(status, html=f"<!doctype html><html><head>\n<title>\n {title} </title></head><body>x</body>")


def dropped() -> Exception:
    return httpx.RemoteProtocolError("Server disconnected without sending a response.")


def failure(server: Server, call: Callable[[Client], object], token: str = LEGACY) -> ServiceError:
    with server.client(token) as client, pytest.raises(ServiceError) as caught:
        call(client)
    return caught.value


def read(client: Client) -> Any:
    return client.get("/api/projects/", {"page": 1})


def write(client: Client) -> Any:
    return client.post("/api/projects/7/import", [{"data": {}}])


WRITES = [
    write,
    lambda client: client.patch("/api/projects/7/", {"title": "x"}),
    lambda client: client.delete("/api/projects/7/"),
    lambda client: client.post("/api/projects/7/import", files=[("a", ("a.png", b"x", "image/png"))]),
]
