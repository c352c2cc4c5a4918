"""The client against scripted answers: what is tried again, and what never is."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from integrations.label_studio.client import Client
from saa_core.errors import AnswerLostError, ServiceError
from tests.scripted_server import (
    LEGACY,
    PERSONAL,
    URL,
    WRITES,
    Reply,
    Server,
    TokenServer,
    dropped,
    failure,
    ok,
    page,
    read,
    said,
    write,
)

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
