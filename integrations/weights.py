"""Fetching files of weights: over https, going on where a cut left off, kept only if they are the published ones."""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx

from integrations.environments import held
from integrations.urls import masked_url
from saa_core.checkpoints import Checkpoint, flaw, verify
from saa_core.errors import CheckpointError, ServiceError

Advance = Callable[[str, int, int], None]
"""Called with a name, the bytes that are there, and how many there will be; 0 where the server does not say."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TIMEOUT = httpx.Timeout(30, connect=15)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def download(checkpoint: Checkpoint, folder: Path, advance: Advance, *, offline: bool) -> Path:
    """Fetch a checkpoint, unless the right file is there already; only one process fetches it, the others wait.

    What came before a cut stays in ``<file>.part`` where the next call can go on from it.

    Args:
        checkpoint: What to fetch.
        folder: Where to put it; made if it is not there.
        advance: Hears of the progress.
        offline: Whether the user forbade connections.

    Returns:
        The file, or the folder of a checkpoint that is one: what `saa_core.checkpoints.find` gives.

    Raises:
        CheckpointError: Connections are forbidden, the file that came is not the published one, or the disk is full.
        ServiceError: The server cannot be reached, refuses, or the connection broke.
        StoreError: The folder cannot be written to.
    """
    if offline:
        how = f"fetch {checkpoint.url} on another machine and put it into {folder}"
        raise CheckpointError(checkpoint.label, f"not fetched, since SAA_OFFLINE forbids connections; {how}")
    found = folder / checkpoint.name if checkpoint.folder else folder / checkpoint.file
    target = found / checkpoint.file if checkpoint.folder else found
    with held(target.with_name(f".{target.name}.lock")):
        if not _is_there(checkpoint, found, target):
            _fetch(checkpoint, target, advance)
    return found


def _is_there(checkpoint: Checkpoint, found: Path, target: Path) -> bool:
    try:
        return target.exists() and bool(verify(checkpoint, found))
    except CheckpointError:  # a wrong file, which the right one will replace
        return False


def _fetch(checkpoint: Checkpoint, target: Path, advance: Advance) -> None:
    part = _Part(target, checkpoint)
    service = masked_url(checkpoint.url)
    try:
        if not part.is_whole:
            with _http(checkpoint.url) as http:
                _receive(http, part, advance)
        part.keep(service)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        how = f"check the network, or fetch it on another machine and put it into {target.parent}"
        raise ServiceError(service, f"cannot be reached ({error}); {how}") from error
    except httpx.HTTPError as error:
        said = str(error) or type(error).__name__
        raise ServiceError(service, f"the connection broke after {part.size} bytes ({said}); {part.next}") from error
    except OSError as error:
        raise _cannot_write(part, error) from error
    finally:
        part.discard_useless()


def _cannot_write(part: _Part, error: OSError) -> CheckpointError:
    if error.errno in _FULL:
        return CheckpointError(
            str(part.path), f"the disk is full after {part.size} bytes; free some space, {part.next}"
        )
    return CheckpointError(str(part.path), f"cannot be written: {error.strerror or error}")


def _http(url: str) -> httpx.Client:
    return httpx.Client(
        follow_redirects=True,
        timeout=_TIMEOUT,
        # Compressed bytes would be neither the file's number nor a place to go on from.
        headers={"Accept-Encoding": "identity"},
        # A proxy for the outside knows nothing of this machine's own servers.
        trust_env=not _is_loopback(httpx.URL(url).host),
        event_hooks={"request": [_refuse_plain]},
    )


def _refuse_plain(request: httpx.Request) -> None:
    """Called for every request, so for every hop of a redirect."""
    if request.url.scheme != "https" and not _is_loopback(request.url.host):
        raise ServiceError(
            f"{request.url.scheme}://{request.url.host}", "is not https; weights are fetched no other way"
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _receive(http: httpx.Client, part: _Part, advance: Advance) -> None:
    """Bring the part to its full length, from where it ends if the server goes along, else from the start."""
    asked = part.resume_headers()
    with http.stream("GET", part.checkpoint.url, headers=asked) as answer:
        begins, total = _extent(answer)
        goes_on = bool(asked) and answer.status_code == httpx.codes.PARTIAL_CONTENT and begins == part.size
        if not asked or goes_on or answer.status_code not in (206, 416):
            _refuse_answer(answer, part.checkpoint, total, 206 if goes_on else 200)
            if not goes_on:
                part.begin(answer.headers)
            return _write(answer, part, total, advance)
    # The server has nothing behind the part, or something from elsewhere: what is here is of no use.
    part.discard()
    return _receive(http, part, advance)


def _extent(answer: httpx.Response) -> tuple[int, int]:
    """Where the bytes of an answer begin, and how many the file has; 0 where that is not said."""
    found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status_code == httpx.codes.PARTIAL_CONTENT and found:
        return int(found[1]), int(found[2]) if found[2] != "*" else 0
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else 0


def _refuse_answer(answer: httpx.Response, checkpoint: Checkpoint, total: int, expected: int) -> None:
    service = masked_url(checkpoint.url)
    if answer.status_code != expected:
        said = f"{answer.status_code} {answer.reason_phrase}"
        raise ServiceError(service, f"the server answered {said} and not with the file", answer.status_code)
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise ServiceError(service, "the server answered with a web page; is there a proxy that wants a login?")
    if checkpoint.size is not None and total not in (0, checkpoint.size):
        raise CheckpointError(
            checkpoint.label, f"{service} offers {total} bytes; the published file has {checkpoint.size}"
        )


def _write(answer: httpx.Response, part: _Part, total: int, advance: Advance) -> None:
    done = part.size
    advance(part.checkpoint.label, done, total)
    with part.path.open("ab") as file:
        # As the blocks come: gathered into larger ones, those before a cut would be lost.
        for block in answer.iter_raw():
            file.write(block)
            done += len(block)
            advance(part.checkpoint.label, done, total)


class _Part:
    """What has come of a file so far, with a note beside it of what it is a part of.

    Args:
        target: Where the whole file goes.
        checkpoint: What is fetched.
    """

    def __init__(self, target: Path, checkpoint: Checkpoint) -> None:
        self.target = target
        self.checkpoint = checkpoint
        self.path = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def is_whole(self) -> bool:
        return bool(self.resume_headers()) and self.size == self.checkpoint.size

    @property
    def next(self) -> str:
        """What the user can do after a cut."""
        return "run again to go on from there" if self.resume_headers() else "run again"

    def resume_headers(self) -> dict[str, str]:
        """Headers that ask for the rest; none where a part of another file could not be told from this one's."""
        validator = self._validator()
        if not self.size or validator is None or not (validator or len(self.checkpoint.sha256 or "") == 64):
            return {}
        asked = {"Range": f"bytes={self.size}-"}
        return {**asked, "If-Range": validator} if validator else asked

    def _validator(self) -> str | None:
        """What the server called this state of the file, empty if nothing; None if the part is of another address."""
        try:
            note = json.loads(self._note.read_bytes())
        except (OSError, ValueError):
            return None
        same = isinstance(note, dict) and note.get("url") == self.checkpoint.url
        return str(note.get("validator", "")) if same else None

    def begin(self, headers: httpx.Headers) -> None:
        """Forget what came before, and note what comes now."""
        self.discard()
        tag = headers.get("ETag", "")
        # A weak tag promises the same meaning, not the same bytes.
        validator = headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
        self._note.write_text(json.dumps({"url": self.checkpoint.url, "validator": validator}), "utf-8")

    def keep(self, service: str) -> None:
        """Put the whole file in its place, or throw away what is not the published one."""
        if self.size < (self.checkpoint.size or 1):
            raise ServiceError(service, f"the server ended after {self.size} bytes; {self.next}")
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        what = flaw(self.checkpoint, self.checkpoint.file, self.size, digest)
        if what is not None:
            self.discard()
            raise CheckpointError(self.checkpoint.label, f"what came from {service} {what}; it was thrown away")
        self.path.replace(self.target)
        self.discard()

    def discard_useless(self) -> None:
        if not self.resume_headers():
            self.discard()

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
