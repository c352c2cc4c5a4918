"""What the user reads when the server refuses, and what nobody may ever read."""

import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrations.label_studio.client import Client
from saa_core.errors import AnswerLostError, SaaError
from tests.scripted_server import (
    LEGACY,
    PERSONAL,
    URL,
    Server,
    TokenServer,
    dropped,
    failure,
    page,
    read,
    said,
    write,
)

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
