"""One request and its answer, with patience for reads; what the answer means is for others to say."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from integrations.label_studio import refusals

Answer = httpx.Response | httpx.RequestError
"""What became of a request. Errors are values here: one raised inside another's handler would carry the request, and so
its token, into every traceback."""

_PAUSES = (0.5, 1.0)
"""Seconds before the second and the third try of a read, unless the server asks for others."""

_PATIENCE = 60.0
"""Seconds; a server that asks for a longer pause is reported instead."""

_PASSING = (429, 502, 503, 504)


def once(http: httpx.Client, request: httpx.Request) -> Answer:
    """Send a request; redirects are answers, too."""
    try:
        return http.send(request, follow_redirects=False)
    except httpx.RequestError as error:
        return error


def patiently(http: httpx.Client, request: httpx.Request, sleep: Callable[[float], None]) -> Answer:
    """Send a request that changes nothing up to three times, as long as another try may help."""
    answer = once(http, request)
    for pause in _PAUSES:
        seconds = _worth(answer, pause)
        if seconds is None:
            break
        sleep(seconds)
        answer = once(http, request)
    return answer


def _worth(answer: Answer, usual: float) -> float | None:
    """Seconds until another try may help; None if none will, or the wait would be too long."""
    if isinstance(answer, httpx.RequestError):
        return usual if isinstance(answer, httpx.NetworkError | httpx.RemoteProtocolError) else None
    if answer.status_code not in _PASSING:
        return None
    asked = refusals.pause_asked(answer)
    seconds = usual if asked is None else asked
    return seconds if seconds <= _PATIENCE else None
