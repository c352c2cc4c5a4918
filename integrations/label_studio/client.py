"""Label Studio's API over HTTP: reads are tried again, writes are sent once, tokens stay out of every message."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Self

import httpx

from integrations.label_studio import exchange, refusals
from integrations.urls import masked_url
from saa_core.errors import ServiceError

_ACCESS_SECONDS = 240.0
"""How long an access token is used; the server's last 300 s."""

_DETOURS = 5

_HOST_ITSELF = ("127.0.0.1", "localhost", "::1")


class Client:
    """One user's access to one server; a context manager, which closes the connections.

    A legacy token is sent as it is. A personal access token is a JWT that only buys access tokens (POST
    /api/token/refresh/); they are bought when needed, and their age is counted by a clock that neither the server's nor
    the machine's wall clock can move.

    Args:
        url: Address of the server, http or https, with a path if it has one.
        token: Legacy token or personal access token.
        transport: Instead of the network, for tests.
        timeout: Seconds without a byte until the server counts as silent.
        sleep: Waits between the tries of a read.
        clock: Seconds that only ever go on.

    Attributes:
        url: The address, without a slash at its end.

    Raises:
        ServiceError: `url` or `token` cannot be one.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        transport: httpx.BaseTransport | None = None,
        timeout: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        base = _base(url)
        self.url = str(base).rstrip("/")
        self._token = _usable(self.url, token)
        self._access: str | None = None
        self._access_ends = 0.0
        self._stamp: datetime | None = None
        self._transport, self._timeout, self._sleep, self._clock = transport, timeout, sleep, clock
        self._http = httpx.Client(
            base_url=base,
            transport=transport,
            timeout=timeout,
            # The server opens a session with every answer; a second way to be known would only confuse it.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            # A proxy of the environment has no business between us and our own machine.
            trust_env=base.host not in _HOST_ITSELF,
        )

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """JSON of a read; tried up to three times if the connection fails or the server asks for patience.

        Args:
            path: Path on the server, e.g. "/api/projects/".
            params: The query.

        Raises:
            ServiceError: No answer, a refusal (`status` says which), or no JSON.
        """
        response = self._send(self._http.build_request("GET", path, params=params))
        return self._json(self._successful(response))

    def post(self, path: str, body: object = None, params: Mapping[str, Any] | None = None, files: Any = None) -> Any:
        """JSON of a write, None for an empty answer; sent once, whatever happens.

        Only an answer that the access token has expired makes it go out again: then nothing was done.

        Args:
            path: Path on the server.
            body: Becomes JSON; bytes are JSON already. Form fields where there are files.
            params: The query.
            files: Multipart files as httpx takes them.

        Raises:
            AnswerLostError: It was sent, and whether it was done is not known.
            ServiceError: It was not done: no connection or a refusal (`status` says which).
        """
        return self._write("POST", path, body, params, files)

    def patch(self, path: str, body: object = None, params: Mapping[str, Any] | None = None) -> Any:
        """As `post`."""
        return self._write("PATCH", path, body, params)

    def delete(self, path: str, body: object = None, params: Mapping[str, Any] | None = None) -> Any:
        """As `post`."""
        return self._write("DELETE", path, body, params)

    def fetch(self, path_or_url: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Anything but JSON, read from the server or from elsewhere; tries as in `get`, redirects are followed.

        The token goes to the server alone.

        Args:
            path_or_url: Path on the server, or a URL.
            headers: Headers beside our own.

        Raises:
            ServiceError: No answer or a refusal; named after the place that was asked.
        """
        url = self._located(path_or_url)
        for _ in range(_DETOURS):
            response = self._from_here(url, headers) if self._owns(url) else self._from_elsewhere(url, headers)
            if not response.has_redirect_location:
                return response
            url = response.url.join(response.headers["Location"])
        raise ServiceError(refusals.place(url), "redirects without end")

    def stamp(self) -> datetime | None:
        """The server's clock, in UTC and whole seconds, at its last answer; None before the first."""
        return self._stamp

    def whoami(self) -> dict[str, Any]:
        """The user whose token this is, with "id" and "email"; errors as in `get`."""
        user = self.get("/api/current-user/whoami")
        if not isinstance(user, dict):
            raise ServiceError(self.url, "does not say who the token's user is; is this Label Studio?")
        return user

    def _write(self, method: str, path: str, body: object, params: Mapping[str, Any] | None, files: Any = None) -> Any:
        request = self._http.build_request(method, path, params=params, **_content(body, files))
        response = self._successful(self._send(request, write=True), write=True)
        return self._json(response, write=True) if response.content else None

    def _from_here(self, url: httpx.URL, headers: Mapping[str, str] | None) -> httpx.Response:
        response = self._send(self._http.build_request("GET", url, headers=headers))
        return response if response.has_redirect_location else self._successful(response)

    def _from_elsewhere(self, url: httpx.URL, headers: Mapping[str, str] | None) -> httpx.Response:
        with httpx.Client(transport=self._transport, timeout=self._timeout) as http:
            answer = exchange.patiently(http, http.build_request("GET", url, headers=headers), self._sleep)
        if isinstance(answer, httpx.Response) and (answer.is_success or answer.has_redirect_location):
            return answer
        raise refusals.elsewhere(url, answer)

    def _send(self, request: httpx.Request, *, write: bool = False) -> httpx.Response:
        """The answer to a signed request; one whose access token the server no longer takes goes out once more."""
        response = self._signed(request, write)
        if response.status_code == 401 and self._access:
            self._access = None
            response = self._signed(request, write)
        return response

    def _signed(self, request: httpx.Request, write: bool) -> httpx.Response:
        request.headers["Authorization"] = self._authorization()
        return self._exchange(request, write)

    def _authorization(self) -> str:
        if self._token.count(".") != 2:
            return f"Token {self._token}"
        if self._access is None or self._clock() >= self._access_ends:
            self._refresh()
        return f"Bearer {self._access}"

    def _refresh(self) -> None:
        # Counted from before the request, which the server may answer late.
        asked = self._clock()
        request = self._http.build_request("POST", "/api/token/refresh/", json={"refresh": self._token})
        # Buying a token changes nothing, so it is tried again like a read.
        answer = self._json(self._successful(self._exchange(request, write=False)))
        if not isinstance(answer, dict) or not isinstance(answer.get("access"), str):
            raise ServiceError(self.url, "gives no access token for the personal access token; is this Label Studio?")
        self._access, self._access_ends = answer["access"], asked + _ACCESS_SECONDS

    def _exchange(self, request: httpx.Request, write: bool) -> httpx.Response:
        http = self._http
        answer = exchange.once(http, request) if write else exchange.patiently(http, request, self._sleep)
        if isinstance(answer, httpx.RequestError):
            raise refusals.unanswered(self.url, request, answer, write=write)
        self._stamp = refusals.http_date(answer.headers.get("Date", "")) or self._stamp
        return answer

    def _successful(self, response: httpx.Response, *, write: bool = False) -> httpx.Response:
        if response.is_success:
            return response
        raise refusals.refused(self.url, response, self._secrets(), write=write)

    def _json(self, response: httpx.Response, *, write: bool = False) -> Any:
        try:
            return response.json()
        except ValueError:
            pass
        raise refusals.unreadable(self.url, response, self._secrets(), write=write)

    def _located(self, path_or_url: str) -> httpx.URL:
        try:
            return self._http.build_request("GET", path_or_url).url
        except httpx.InvalidURL:
            raise ServiceError(masked_url(path_or_url), "is not a URL") from None

    def _owns(self, url: httpx.URL) -> bool:
        return _origin(url) == _origin(self._http.base_url)

    def _secrets(self) -> tuple[str, ...]:
        return tuple(filter(None, (self._token, self._access)))


def _base(url: str) -> httpx.URL:
    """The server's address.

    Raises:
        ServiceError: It is not one, or holds a password, which Label Studio has no use for.
    """
    advice = "is not the address of a server; expected one like http://127.0.0.1:8080"
    try:
        base = httpx.URL(url.strip())
    except httpx.InvalidURL:
        raise ServiceError(masked_url(url), advice) from None
    if base.userinfo:
        raise ServiceError(masked_url(url), "take user and password out of the address; the token is enough")
    if base.scheme not in ("http", "https") or not base.host or base.query or base.fragment:
        raise ServiceError(masked_url(url), advice)
    return base


def _usable(url: str, token: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]+", token.strip()):
        reason = "the token is empty or holds characters that no token has; check SAA_LABEL_STUDIO_TOKEN"
        raise ServiceError(url, reason)
    return token.strip()


def _content(body: object, files: Any) -> dict[str, Any]:
    if files is not None:
        return {"files": files, "data": body}
    if isinstance(body, bytes):
        return {"content": body, "headers": {"Content-Type": "application/json"}}
    return {} if body is None else {"json": body}


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)
