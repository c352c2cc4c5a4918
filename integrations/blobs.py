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
