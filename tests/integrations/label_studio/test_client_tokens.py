"""Personal access tokens and files: who is asked with which credentials, and by whose clock."""

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
