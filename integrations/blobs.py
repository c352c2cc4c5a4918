"""Content-addressed bytes, in a folder or in any store that fsspec knows.

A blob is a file of 36 bytes of header, b"SAA1" and the SHA-256 of the payload, then the payload, under
<root>/<kind>/<first two letters of the key>/<key>. Blobs are results that can be computed again: what is damaged counts
as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from integrations.files import cannot_write, temporary_name
from integrations.urls import masked_url
from saa_core.errors import StoreError

_log = logging.getLogger(__name__)

_MAGIC = b"SAA1"
_HEADER = len(_MAGIC) + hashlib.sha256().digest_size
_NAME = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z._-]*")
_LEFT = re.compile(r"\.[0-9A-Za-z._-]+\.tmp")


@dataclass(frozen=True, slots=True)
class BlobFile:
    """A file of a blob store.

    Attributes:
        kind: Of the blob.
        key: Of the blob; what a write that was cut off has left is called by its file's name.
        path: In the store's file system.
        bytes: Size of the file.
        modified: When it was written, UTC.
    """

    kind: str
    key: str
    path: str
    bytes: int
    modified: datetime

    @property
    def is_whole(self) -> bool:
        """Whether it is a blob, and not what a write has left that was cut off."""
        return not self.key.startswith(".")


class BlobStore:
    """Bytes by kind and key. Several processes may use one store at once.

    Args:
        url: A folder, or an fsspec URL such as ``s3://bucket/saa``.
        filesystem: The file system to use instead of the one that the URL names; `url` is then a path in it.

    Raises:
        StoreError: The URL's protocol is not known, or its package is not installed.
    """

    def __init__(self, url: str, filesystem: Any = None) -> None:
        self._name = masked_url(url)
        self._files, self._root = (filesystem, url) if filesystem else _open(url, self._name)
        # An object store shows an object when it is whole; a folder shows a file from its first byte on.
        self._renames = isinstance(self._files, LocalFileSystem)

    def put(self, kind: str, key: str, data: bytes) -> None:
        """Keep `data`; a key that exists is left as it is, since equal keys mean equal content.

        Raises:
            StoreError: It cannot be written; nothing half-written is left.
            ValueError: `kind` or `key` is not made of letters, digits, '.', '_' and '-'.
        """
        path = self._path(kind, key)
        if self.has(kind, key):
            return
        folder, _, name = path.rpartition("/")
        target = f"{folder}/{temporary_name(name)}" if self._renames else path
        try:
            if self._renames:  # an object store has no folders, and a bucket with a typo would be made
                self._files.makedirs(folder, exist_ok=True)
            self._files.pipe_file(target, _MAGIC + hashlib.sha256(data).digest() + data)
            if self._renames:
                self._files.mv(target, path)
        except OSError as error:
            self._remove(target)
            raise cannot_write(f"{self._name} ({kind}/{key})", error) from error
        except Exception as error:
            raise self._unusable(kind, key, error) from error

    def get(self, kind: str, key: str) -> bytes | None:
        """The payload; None when absent or damaged. A damaged blob is removed, so that it can be put again.

        Raises:
            StoreError: It is there but cannot be read.
        """
        path = self._path(kind, key)
        try:
            content: bytes = self._files.cat_file(path)
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._unusable(kind, key, error) from error
        payload = content[_HEADER:]
        if content[:_HEADER] == _MAGIC + hashlib.sha256(payload).digest():
            return payload
        _log.warning("%s (%s/%s): damaged, it will be computed again", self._name, kind, key)
        self._remove(path)
        return None

    def has(self, kind: str, key: str) -> bool:
        """Whether the key exists; only `get` finds out whether it is damaged.

        Raises:
            StoreError: The store does not say.
        """
        path = self._path(kind, key)
        try:
            return bool(self._files.exists(path))
        except Exception as error:
            raise self._unusable(kind, key, error) from error

    def files(self) -> Iterator[BlobFile]:
        """Every file of the store, in the order of their paths; files that are not the store's are passed over.

        Raises:
            StoreError: The store cannot be listed.
        """
        try:
            self._files.invalidate_cache(self._root)
            found = self._files.find(self._root, detail=True) if self._files.exists(self._root) else {}
        except Exception as error:
            raise StoreError(self._name, f"cannot be listed: {getattr(error, 'strerror', None) or error}") from error
        for path, about in sorted(found.items()):
            kind, folder, key = path.split("/")[-3:]
            if _LEFT.fullmatch(key) or (_NAME.fullmatch(key) and folder == key[:2]):
                yield BlobFile(kind, key, path, int(about["size"]), _modified(about))

    def remove(self, files: Iterable[BlobFile]) -> None:
        """Delete files; one that is gone already is no error.

        Raises:
            StoreError: One cannot be deleted; those before it are.
        """
        for file in files:
            try:
                self._files.rm_file(file.path)
            except FileNotFoundError:
                continue
            except Exception as error:
                raise self._unusable(file.kind, file.key, error) from error

    def _path(self, kind: str, key: str) -> str:
        for part in (kind, key):
            if not _NAME.fullmatch(part):
                raise ValueError(f"{part!r} is no name for a blob: letters, digits, '.', '_' and '-' only")
        return f"{self._root}/{kind}/{key[:2]}/{key}"

    def _unusable(self, kind: str, key: str, error: Exception) -> StoreError:
        # Of any kind: an object store's client raises what its network library does, which is not an OSError.
        reason = getattr(error, "strerror", None) or error
        return StoreError(f"{self._name} ({kind}/{key})", f"cannot be used: {reason}")

    def _remove(self, path: str) -> None:
        with contextlib.suppress(OSError):
            self._files.rm_file(path)


def _open(url: str, name: str) -> tuple[Any, str]:
    try:
        filesystem, root = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise StoreError(name, f"cannot be opened: {error}") from error
    return filesystem, root.rstrip("/")


def _modified(about: dict[str, Any]) -> datetime:
    """When a file was written: file systems agree on the name of this as little as on its type."""
    moment = next(about[name] for name in ("mtime", "LastModified", "updated", "created") if name in about)
    if isinstance(moment, datetime):
        return moment.astimezone(UTC)
    return datetime.fromtimestamp(moment, UTC) if isinstance(moment, int | float) else datetime.fromisoformat(moment)
