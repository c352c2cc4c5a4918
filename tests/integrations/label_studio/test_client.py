"""The client against scripted answers: what is tried again, what is not, and what the user reads."""

import json
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrations.label_studio.client import Client
from saa_core.errors import AnswerLostError, SaaError, ServiceError

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


# -------------------------------------------------------------------------------------------------------- what is asked


def test_a_read_asks_the_path_with_its_query_and_gives_the_json() -> None:
    server = Server(ok([1, {"é": None}]))
    assert read(server.client()) == [1, {"é": None}]
    assert str(server.requests[0].url) == f"{URL}/api/projects/?page=1"
    assert server.credentials == [f"Token {LEGACY}"]


def test_a_server_under_a_path_keeps_its_path_for_tokens_too() -> None:
    server = TokenServer()
    server_url = "https://labels.test/tools/label-studio/"
    asked = Server(lambda request: ok({"access": "x"}))
    with asked.client(PERSONAL, server_url) as client:
        client.get("/api/projects/")
        assert client.url == "https://labels.test/tools/label-studio"
    assert asked.asked == ["POST /tools/label-studio/api/token/refresh/", "GET /tools/label-studio/api/projects/"]
    assert server.requests == []


def test_a_write_sends_json_or_bytes_that_are_json_or_files() -> None:
    server = Server(ok({"id": 3}, 201))
    client = server.client()
    assert client.post("/api/x", {"a": [1, "ü"]}, {"q": "1"}) == {"id": 3}
    client.post("/api/x", b"[1,2]")
    client.post("/api/x", {"field": "1"}, files={"f": ("a.png", b"\x89PNG", "image/png")})
    object_, encoded, form = server.requests
    assert json.loads(object_.content) == {"a": [1, "ü"]}
    assert object_.url.query == b"q=1"
    assert (encoded.content, encoded.headers["Content-Type"]) == (b"[1,2]", "application/json")
    assert form.headers["Content-Type"].startswith("multipart/form-data")
    assert b"\x89PNG" in form.content
    assert b'name="field"' in form.content


def test_a_write_without_an_answers_content_gives_none() -> None:
    assert Server(httpx.Response(204)).client().delete("/api/projects/7/") is None


def test_a_session_that_the_server_opens_is_not_kept() -> None:
    server = Server(ok({}, 200, **{"Set-Cookie": "sessionid=abc; Path=/"}))
    with server.client() as client:
        read(client)
        read(client)
    assert "Cookie" not in server.requests[1].headers


def test_whoami_gives_the_tokens_user() -> None:
    server = Server(ok({"id": 1, "email": "expert@example.com"}))
    assert server.client().whoami()["email"] == "expert@example.com"
    assert server.asked == ["GET /api/current-user/whoami"]
    assert "is this Label Studio?" in failure(Server(ok([])), Client.whoami).reason


@pytest.mark.parametrize(
    "url", ["", "labels.test:8080", "ftp://labels.test", "http://", "http://x:port", "http://a/?q"]
)
def test_an_address_that_is_none_is_said_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ServiceError, match="expected one like http"):
        Client(url, LEGACY)


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ServiceError, match="the token is enough") as caught:
        Client("http://expert:hunter2@labels.test", LEGACY)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "  ", "two words", "line\nbreak", "schlüssel", "nul\0"])
def test_a_token_that_no_header_can_hold_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ServiceError, match="SAA_LABEL_STUDIO_TOKEN") as caught:
        Client(URL, token)
    assert not token.strip() or token.strip() not in str(caught.value)


def test_white_space_around_a_token_is_no_part_of_it() -> None:
    server = Server(ok())
    read(server.client(f" {LEGACY}\n"))
    assert server.credentials == [f"Token {LEGACY}"]


# --------------------------------------------------------------------------------------------------- reads, tried again


@pytest.mark.parametrize(
    "stumble",
    [dropped(), httpx.ConnectError("refused"), httpx.ReadError("reset"), *(said(s, "") for s in (429, 502, 503, 504))],
    ids=str,
)
def test_a_read_is_tried_three_times(stumble: Reply) -> None:
    server = Server(stumble, stumble, ok({"a": 1}))
    assert read(server.client()) == {"a": 1}
    assert server.pauses == [0.5, 1.0]
    assert len(server.requests) == 3


def test_three_failures_are_the_end_of_a_read() -> None:
    server = Server(httpx.ConnectError("[Errno 111] Connection refused"))
    error = failure(server, read)
    assert len(server.requests) == 3
    assert error.status is None
    assert not isinstance(error, AnswerLostError)
    assert error.name == URL
    assert "no connection ([Errno 111] Connection refused)" in error.reason
    assert "check that Label Studio runs" in error.reason


@pytest.mark.parametrize("reply", [httpx.ReadTimeout("slow"), *(said(s, "") for s in (400, 401, 403, 404, 413, 500))])
def test_what_another_try_cannot_cure_is_not_tried_again(reply: Reply) -> None:
    server = Server(reply)
    failure(server, read)
    assert len(server.requests) == 1


def test_a_server_that_asks_for_patience_gets_it() -> None:
    date = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)
    later = format_datetime(date + timedelta(seconds=7), usegmt=True)
    server = Server(
        said(429, "", **{"Retry-After": "3"}),
        # A date is counted from the server's own clock, however wrong that is.
        said(503, "", **{"Retry-After": later, "Date": format_datetime(date, usegmt=True)}),
        ok(),
    )
    read(server.client())
    assert server.pauses == [3.0, 7.0]


def test_a_server_that_asks_for_too_much_patience_is_reported() -> None:
    server = Server(said(429, "Request was throttled.", **{"Retry-After": "3600"}))
    error = failure(server, read)
    assert server.pauses == []
    assert error.status == 429
    assert "it asks to come back in 3600 s (it says: Request was throttled.)" in error.reason


@pytest.mark.parametrize("value", [b"", b"soon", b"-3", b"\xb2", b"Tue, 99 Foo 2026"])
def test_a_pause_that_cannot_be_read_is_the_usual_one(value: bytes) -> None:
    server = Server(httpx.Response(503, headers=[(b"Retry-After", value)]), ok())
    read(server.client())
    assert server.pauses == [0.5]


# ---------------------------------------------------------------------------------------------------- writes, sent once


@pytest.mark.parametrize("call", WRITES)
@pytest.mark.parametrize(
    "loss",
    [
        dropped(),
        httpx.ReadTimeout("slow"),
        httpx.ReadError("reset"),
        httpx.WriteError("broken pipe"),
        httpx.WriteTimeout("slow"),
        httpx.DecodingError("not gzip"),
        said(502, "Bad Gateway"),
        said(504, "Gateway Timeout"),
        page(200, "Log in to the company network"),
        httpx.Response(201, content=b'{"task_ids": [1, 2'),
    ],
    ids=str,
)
def test_a_write_whose_answer_is_lost_is_sent_once_and_said_to_be_uncertain(
    call: Callable[[Client], object], loss: Reply
) -> None:
    server = Server(loss)
    error = failure(server, call)
    assert isinstance(error, AnswerLostError)
    assert "it may have been done or not" in error.reason
    assert (len(server.requests), server.pauses) == (1, [])


@pytest.mark.parametrize("call", WRITES)
@pytest.mark.parametrize(
    "refusal",
    [
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("slow"),
        httpx.ProxyError("no"),
        said(429, "", **{"Retry-After": "1"}),
        said(503, "down for maintenance"),
        said(500, "oops"),
        said(401, "Invalid token."),
        said(409, "Annotation with this unique id already exists"),
    ],
    ids=str,
)
def test_a_write_that_was_not_done_is_sent_once_and_said_to_be_not_done(
    call: Callable[[Client], object], refusal: Reply
) -> None:
    server = Server(refusal)
    error = failure(server, call)
    assert not isinstance(error, AnswerLostError)
    assert (len(server.requests), server.pauses) == (1, [])
    assert error.status == (refusal.status_code if isinstance(refusal, httpx.Response) else None)


def test_a_write_is_not_carried_along_a_redirect() -> None:
    server = Server(httpx.Response(301, headers={"Location": "https://labels.test/api/projects/7/import?token=s3cret"}))
    error = failure(server, write)
    assert len(server.requests) == 1
    assert "it points to https://labels.test/api/projects/7/import; set SAA_LABEL_STUDIO_URL" in error.reason
    assert "s3cret" not in str(error)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("reply", "advice"),
    [
        (said(401, "Invalid token."), "it does not know the token; check SAA_LABEL_STUDIO_TOKEN"),
        (
            said(401, "Authentication token no longer valid: legacy token authentication has been disabled for this "
                      "organization"),
            "it takes no legacy tokens; set SAA_LABEL_STUDIO_TOKEN to a personal access token",
        ),
        (said(403, "You do not have permission to perform this action."), "the token's user may not do this"),
        (said(404, "No Project matches the given query."), "there is no such thing (it says: No Project matches"),
        (page(404, "404 | Label Studio"), "there is no such thing (it says: a page titled '404 | Label Studio')"),
        (page(500, "Server &amp; Error"), "it failed; its log says more (it says: a page titled 'Server & Error')"),
        (httpx.Response(500, html="<h1>no title</h1>"), "its log says more (it says: a page)"),
        (httpx.Response(500), "it failed; its log says more"),
        (page(413, "413 Request Entity Too Large"), "the request of 0.0 MB is too large for it"),
        (
            said(500, "You cannot access body after reading from request's data stream"),
            "the request of 0.0 MB is too large for it",
        ),
        (said(429, "Request was throttled."), "it asks to come back later"),
        (
            httpx.Response(400, json={"detail": "D", "validation_errors": {"title": ["a", "b"], "x": "c"}}),
            "it refuses this (it says: title: a, b; x: c)",
        ),
        (httpx.Response(400, json={"detail": "D", "validation_errors": ["no"]}), "(it says: ['no'])"),
        (httpx.Response(418, text="I am\n a  teapot"), "418, it refuses this (it says: I am a teapot)"),
    ],
    ids=str,
)  # fmt: skip
def test_a_refusal_says_what_to_do(reply: httpx.Response, advice: str) -> None:
    error = failure(Server(reply), write)
    assert advice in error.reason
    assert error.status == reply.status_code
    assert str(error).startswith(f"{URL}: POST /api/projects/7/import: ")
    assert "\n" not in str(error)


def test_a_request_too_large_says_how_large_it_was() -> None:
    error = failure(Server(page(413, "x")), lambda client: client.post("/api/x", b"0" * 2_340_000))
    assert "the request of 2.3 MB is too large for it" in error.reason


@pytest.mark.parametrize("answer", [page(200, "Welcome"), httpx.Response(200, text="hello"), httpx.Response(200)])
def test_a_read_that_gives_no_json_asks_whether_the_address_is_right(answer: httpx.Response) -> None:
    error = failure(Server(answer), read)
    assert "JSON was expected, check that SAA_LABEL_STUDIO_URL is the address of Label Studio itself" in error.reason
    assert error.status == 200
    assert not isinstance(error, AnswerLostError)


def test_a_refusal_quotes_no_masks_and_not_much_else() -> None:
    rle = [0, 18, 192, 0, 57, 27, 255] * 400
    problem = f"Task 0, prediction 0: {{'rle': {rle}, 'format': 'rle'}} is not valid. " + "x" * 5000
    error = failure(Server(said(400, problem)), write)
    assert "Task 0, prediction 0: {'rle': [[...]], 'format': 'rle'} is not valid. xxx" in error.reason
    assert "57, 27" not in error.reason
    assert len(error.reason) < 300 + 120


def test_a_refusal_leaves_the_query_out() -> None:
    error = failure(Server(said(500, "")), lambda client: client.get("/api/tasks/", {"query": "k" * 5000}))
    assert str(error) == f"{URL}: GET /api/tasks/: 500, it failed; its log says more (it says: {error_body('')})"


def error_body(detail: str) -> str:
    return str(said(500, detail).json())


# ----------------------------------------------------------------------------------------------- personal access tokens


def test_a_personal_access_token_buys_access_once_and_is_not_sent_itself() -> None:
    server = TokenServer()
    with server.client(PERSONAL) as client:
        read(client)
        write(client)
    assert server.asked == ["POST /api/token/refresh/", "GET /api/projects/", "POST /api/projects/7/import"]
    assert server.credentials == [None, "Bearer access-1", "Bearer access-1"]


def test_access_is_bought_anew_before_the_server_lets_it_expire() -> None:
    server = TokenServer()
    with server.client(PERSONAL) as client:
        read(client)
        server.now += 239.9
        read(client)
        assert server.bought == 1
        server.now += 0.2
        read(client)
    assert server.bought == 2
    assert server.credentials[-1] == "Bearer access-2"


@pytest.mark.parametrize("skew", [timedelta(hours=-1), timedelta(), timedelta(hours=1), timedelta(days=-9000)])
def test_a_servers_clock_that_is_wrong_changes_nothing_but_the_stamp(skew: timedelta) -> None:
    moment = datetime.now(UTC).replace(microsecond=0) + skew
    server = TokenServer(ok({}, 200, Date=format_datetime(moment, usegmt=True)))
    with server.client(PERSONAL) as client:
        assert client.stamp() is None
        read(client)
        server.now += 200
        read(client)
        assert client.stamp() == moment
    assert server.bought == 1


def test_a_stamp_is_the_last_that_the_server_gave() -> None:
    first = "Sun, 22 Nov 2026 16:41:34 GMT"
    server = Server(
        ok({}, 200, Date=first),
        ok(),
        ok({}, 200, Date="yesterday"),
        said(404, "", Date="Mon, 23 Nov 2026 16:41:34 GMT"),
    )
    with server.client() as client:
        for _ in range(3):
            read(client)
            assert client.stamp() == datetime(2026, 11, 22, 16, 41, 34, tzinfo=UTC)
        with pytest.raises(ServiceError):
            read(client)
        assert client.stamp() == datetime(2026, 11, 23, 16, 41, 34, tzinfo=UTC)


@pytest.mark.parametrize("call", WRITES)
def test_a_write_that_meets_an_expired_access_token_goes_out_once_more(call: Callable[[Client], object]) -> None:
    server = TokenServer()
    with server.client(PERSONAL) as client:
        read(client)
        server.valid.clear()
        call(client)
    first, refresh, second = server.requests[2:]
    assert refresh.url.path == "/api/token/refresh/"
    assert (first.method, first.url, first.content) == (second.method, second.url, second.content)
    assert server.credentials[2:] == ["Bearer access-1", None, "Bearer access-2"]


def test_an_answer_lost_after_the_access_token_was_renewed_is_still_lost() -> None:
    server = TokenServer(ok(), dropped())
    with server.client(PERSONAL) as client:
        read(client)
        server.valid.clear()
        with pytest.raises(AnswerLostError):
            write(client)
    assert server.asked.count("POST /api/projects/7/import") == 2


def test_a_server_that_never_takes_the_access_token_is_asked_twice_and_no_more() -> None:
    server = Server(
        lambda r: ok({"access": "x"}) if "refresh" in r.url.path else said(401, "credentials were not provided.")
    )
    error = failure(server, write, PERSONAL)
    assert server.asked.count("POST /api/projects/7/import") == 2
    assert "it takes no personal access tokens; let an administrator turn them on" in error.reason


@pytest.mark.parametrize(
    ("detail", "advice"),
    [
        ("Token is blacklisted", "the personal access token was revoked; make another"),
        ("Token is expired", "the personal access token has expired; make another"),
        ("Token is invalid", "it does not know the token; check SAA_LABEL_STUDIO_TOKEN"),
    ],
)
def test_a_personal_access_token_that_buys_nothing_says_why(detail: str, advice: str) -> None:
    server = Server(said(401, detail))
    error = failure(server, write, PERSONAL)
    assert advice in error.reason
    assert server.asked == ["POST /api/token/refresh/"]


@pytest.mark.parametrize("failing", [dropped(), said(502, ""), page(200, "x"), ok({"access": 1}), ok([])], ids=str)
def test_a_write_whose_token_could_not_be_bought_was_not_sent(failing: Reply) -> None:
    server = Server(failing)
    error = failure(server, write, PERSONAL)
    assert not isinstance(error, AnswerLostError)
    assert set(server.asked) == {"POST /api/token/refresh/"}


# ------------------------------------------------------------------------------------------------------------- fetching


def test_a_file_of_the_server_is_fetched_with_the_token_and_the_headers() -> None:
    server = Server(httpx.Response(200, content=b"\x89PNG"))
    response = server.client().fetch("/data/upload/7/a.png", {"Origin": "http://a"})
    assert response.content == b"\x89PNG"
    assert server.credentials == [f"Token {LEGACY}"]
    assert server.requests[0].headers["Origin"] == "http://a"
    assert server.client().fetch(f"{URL}/data/x").status_code == 200
    assert server.credentials[-1] == f"Token {LEGACY}"


@pytest.mark.parametrize(
    "url", ["http://images.test/a.png", "https://labels.test:8080/a.png", "http://labels.test/a.png"]
)
def test_the_token_goes_to_no_other_origin(url: str) -> None:
    server = Server(httpx.Response(200, content=b"x", headers={"Date": "Sun, 22 Nov 2026 16:41:34 GMT"}))
    client = server.client()
    client.fetch(url)
    assert server.credentials == [None]
    assert client.stamp() is None  # another host's clock is not the server's


def test_a_redirect_is_followed_with_the_token_left_behind_and_the_headers_kept() -> None:
    away = httpx.Response(303, headers={"Location": "https://bucket.test/a.png?X-Amz-Signature=abc"})
    server = Server(httpx.Response(302, headers={"Location": "/data/b"}), away, httpx.Response(200, content=b"x"))
    response = server.client().fetch("/data/a", {"Origin": "http://a"})
    assert str(response.url) == "https://bucket.test/a.png?X-Amz-Signature=abc"
    assert server.credentials == [f"Token {LEGACY}"] * 2 + [None]
    assert [request.headers["Origin"] for request in server.requests] == ["http://a"] * 3


def test_redirects_without_end_are_given_up() -> None:
    server = Server(httpx.Response(302, headers={"Location": "/data/a?token=s3cret"}))
    error = failure(server, lambda client: client.fetch("/data/a"))
    assert str(error) == f"{URL}/data/a: redirects without end"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (httpx.Response(403), "cannot be read: 403 Forbidden"),
        (httpx.ConnectError("[Errno -2] Name or service not known"), "cannot be read: no connection ([Errno -2]"),
        (httpx.ReadTimeout("x"), "cannot be read: no answer in time"),
        (dropped(), "cannot be read: the connection was lost"),
    ],
    ids=str,
)
def test_what_another_host_does_not_give_is_named_after_it(answer: Reply, reason: str) -> None:
    error = failure(Server(answer), lambda client: client.fetch("https://images.test/a.png?X-Amz-Signature=abc"))
    assert str(error).startswith(f"https://images.test/a.png: {reason}")


def test_another_host_is_tried_again_as_well() -> None:
    server = Server(said(503, ""), httpx.Response(200, content=b"x"))
    assert server.client().fetch("https://images.test/a.png").content == b"x"


@pytest.mark.parametrize("url", ["s3://bucket/a.png", "http://[::1", "http://a:99999999/"])
def test_what_is_no_url_for_http_is_a_service_error(url: str) -> None:
    with Client(URL, LEGACY) as client, pytest.raises(ServiceError):
        client.fetch(url)


# -------------------------------------------------------------------------------------------------------------- secrets


def echo(status: int) -> Callable[[httpx.Request], httpx.Response]:
    """A debugging page shows what it was sent."""
    return lambda request: httpx.Response(status, text=f"{dict(request.headers)} {request.content!r}")


def stories() -> Iterator[Any]:
    calls = {"read": read, "write": write, "fetch": lambda client: client.fetch("/data/a"), "whoami": Client.whoami}
    replies: dict[str, Any] = {f"echo {status}": echo(status) for status in (200, 400, 401, 404, 413, 429, 500, 502)}
    replies |= {"drop": dropped(), "refused": httpx.ConnectError("refused"), "slow": httpx.ReadTimeout("slow")}
    for call_name, call in calls.items():
        for reply_name, reply in replies.items():
            if (call_name, reply_name) != ("fetch", "echo 200"):
                yield pytest.param(call, reply, id=f"{call_name}, {reply_name}")


@pytest.mark.parametrize("token", [LEGACY, PERSONAL], ids=["legacy", "personal"])
@pytest.mark.parametrize(("call", "reply"), list(stories()))
def test_no_token_is_ever_shown(
    call: Callable[[Client], object], reply: Any, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = TokenServer(reply) if token == PERSONAL else Server(reply)
    with server.client(token) as client:
        shown = repr(client) + str(client)
        with pytest.raises(SaaError) as caught:
            call(client)
    error = caught.value
    # The chain of errors, too: whoever shows local variables would show the request.
    assert error.__cause__ is None
    assert error.__context__ is None
    shown += "".join(traceback.format_exception(error)) + repr(error) + repr(pickle.dumps(error)) + caplog.text
    assert token not in shown
    assert "access-1" not in shown


def test_no_token_is_shown_when_the_personal_one_buys_nothing() -> None:
    error = failure(Server(echo(500)), write, PERSONAL)
    assert "***" in error.reason
    assert PERSONAL not in repr(error)


@given(st.integers(1, 400), st.integers(0, 400))
def test_no_piece_of_a_token_is_left_where_a_quotation_is_cut(before: int, after: int) -> None:
    error = failure(Server(httpx.Response(400, text="x" * before + LEGACY + "y" * after)), write)
    assert LEGACY[:8] not in str(error)


def test_errors_can_be_sent_between_processes() -> None:
    for server in (Server(dropped()), Server(said(404, "gone"))):
        error = failure(server, write)
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.status) == (type(error), str(error), error.status)
