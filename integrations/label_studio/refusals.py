"""What a bad answer of Label Studio, or none at all, means to the user: one line, without tokens and without masks."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from integrations.urls import masked_url
from saa_core.errors import AnswerLostError, ServiceError

_SHOWN = 300
"""Characters of an answer that a message may quote."""

_RUNS = re.compile(r"\d+(?:\s*,\s*\d+){7,}(?:\s*,)?")
"""Eight numbers in a row are a mask, which the server likes to repeat in its complaints."""

_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)

_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)

_GATEWAY_LOST = (502, 504)
"""A gateway sent the request on and heard nothing usable."""

_UNREAD_BODY = "cannot access body after reading"
"""What the server answers, with status 500, to a request above its DATA_UPLOAD_MAX_MEMORY_SIZE."""

_TOKEN_ADVICE = (
    ("legacy token", "it takes no legacy tokens; set SAA_LABEL_STUDIO_TOKEN to a personal access token (Account & "
     "Settings), or let an administrator turn legacy tokens on (Organization > API Tokens Settings)"),
    ("blacklisted", "the personal access token was revoked; make another (Account & Settings > Personal Access Token) "
     "and set SAA_LABEL_STUDIO_TOKEN to it"),
    ("expired", "the personal access token has expired; make another (Account & Settings > Personal Access Token) and "
     "set SAA_LABEL_STUDIO_TOKEN to it"),
    ("not provided", "it takes no personal access tokens; let an administrator turn them on (Organization > API Tokens "
     "Settings), or set SAA_LABEL_STUDIO_TOKEN to a legacy token"),
)  # fmt: skip


def unanswered(url: str, request: httpx.Request, error: httpx.RequestError, *, write: bool) -> ServiceError:
    """The error for a request without a whole answer.

    A write that left the machine may have been done: AnswerLostError.
    """
    sent = write and not isinstance(error, _NOT_SENT)
    kind = AnswerLostError if sent else ServiceError
    return kind(url, f"{_what(request)}: {_silence(error)}; {_AFTER_WRITE if sent else _CHECK}")


_AFTER_WRITE = "it may have been done or not; run the command again, it looks before it writes"
_CHECK = "check that Label Studio runs and that SAA_LABEL_STUDIO_URL is its address"


def refused(url: str, response: httpx.Response, secrets: Iterable[str] = (), *, write: bool = False) -> ServiceError:
    """The error for an answer that is not a success."""
    status = response.status_code
    lost = write and status in _GATEWAY_LOST
    kind = AnswerLostError if lost else ServiceError
    reason = f"{_what(response.request)}: {status}, {_AFTER_WRITE if lost else _advice(response)}"
    said = quoted(response, secrets)
    return kind(url, f"{reason} (it says: {said})" if said else reason, status)


def unreadable(url: str, response: httpx.Response, secrets: Iterable[str] = (), *, write: bool = False) -> ServiceError:
    """The error for a success that holds no JSON; of a write nobody knows what became."""
    kind = AnswerLostError if write else ServiceError
    advice = _AFTER_WRITE if write else "check that SAA_LABEL_STUDIO_URL is the address of Label Studio itself"
    said = quoted(response, secrets) or "nothing"
    return kind(url, f"{_what(response.request)}: JSON was expected, {advice} (it says: {said})", response.status_code)


def elsewhere(url: httpx.URL, answer: httpx.Response | httpx.RequestError) -> ServiceError:
    """The error for something that is not on the server, such as an image on a host of its own."""
    if isinstance(answer, httpx.RequestError):
        return ServiceError(place(url), f"cannot be read: {_silence(answer)}")
    return ServiceError(place(url), f"cannot be read: {answer.status_code} {answer.reason_phrase}", answer.status_code)


def place(url: httpx.URL) -> str:
    """A URL as it may be shown: without its query, which signed URLs keep their signature in."""
    return masked_url(str(url.copy_with(query=None, fragment=None)))


def pause_asked(response: httpx.Response) -> float | None:
    """Seconds that Retry-After asks for, a date being counted from the server's own clock; None if it asks nothing."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    until, now = http_date(value), http_date(response.headers.get("Date", ""))
    return max(0.0, (until - now).total_seconds()) if until and now else None


def http_date(value: str) -> datetime | None:
    """The moment, in UTC, that a header names; None if it names none."""
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def quoted(response: httpx.Response, secrets: Iterable[str] = ()) -> str:
    """What the answer says, fit for a message: a page's title or the text, at most 300 characters.

    Secrets become ***, masks [...].
    """
    text = _said(response)
    for secret in secrets:
        text = text.replace(secret, "***")
    text = " ".join(_RUNS.sub("[...]", text).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _said(response: httpx.Response) -> str:
    text = response.text
    if "html" in response.headers.get("Content-Type", "") or text.lstrip()[:1] == "<":
        title = _TITLE.search(text)
        return f"a page titled {html.unescape(title[1]).strip()!r}" if title else "a page"
    try:
        content = response.json()
    except ValueError:
        return text
    return _details(content) if isinstance(content, dict) else text


def _details(content: dict[str, object]) -> str:
    """The server wraps what matters into ids, its version and empty fields."""
    problems = content.get("validation_errors")
    if isinstance(problems, dict):
        return "; ".join(f"{field}: {_joined(problem)}" for field, problem in problems.items())
    return str(problems or content.get("detail") or content)


def _joined(problem: object) -> str:
    return ", ".join(map(str, problem)) if isinstance(problem, list) else str(problem)


def _advice(response: httpx.Response) -> str:
    status = response.status_code
    if status == 401:
        return _about_token(response.text)
    if status == 413 or (status == 500 and _UNREAD_BODY in response.text.lower()):
        return f"the request of {_megabytes(response.request)} is too large for it"
    if status == 429:
        return f"it asks to come back {_pause_text(response)}"
    if response.has_redirect_location:
        return f"it points to {_location(response)}; set SAA_LABEL_STUDIO_URL to the address without a detour"
    return _MEANING.get(status) or ("it failed; its log says more" if status >= 500 else "it refuses this")


_MEANING = {
    403: "the token's user may not do this; ask the owner of the project or the organization",
    404: "there is no such thing",
    502: "the server behind the gateway does not answer",
    503: "it is not available now",
    504: "the server behind the gateway does not answer",
}


def _about_token(text: str) -> str:
    lowered = text.lower()
    unknown = "it does not know the token; check SAA_LABEL_STUDIO_TOKEN"
    return next((advice for clue, advice in _TOKEN_ADVICE if clue in lowered), unknown)


def _pause_text(response: httpx.Response) -> str:
    seconds = pause_asked(response)
    return "later" if seconds is None else f"in {seconds:.0f} s"


def _location(response: httpx.Response) -> str:
    return place(response.request.url.join(response.headers["Location"]))


def _megabytes(request: httpx.Request) -> str:
    return f"{int(request.headers.get('Content-Length', 0)) / 1e6:.1f} MB"


def _silence(error: httpx.RequestError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.ConnectError | httpx.ProxyError | httpx.UnsupportedProtocol):
        return f"no connection ({error})"
    return "the connection was lost before the answer was whole"


def _what(request: httpx.Request) -> str:
    """The request without its query, which may be 60 kB long or hold a secret."""
    return f"{request.method} {request.url.path}"
