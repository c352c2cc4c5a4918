"""Whole files or nothing: writing that a crash cannot leave half-done."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from saa_core.errors import StoreError

# A quota and a process's own size limit end a write just as a full disk does.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to fill piece by piece that replaces `path` at the end; a reader sees the old file or the new one.

    Missing folders are made. Nothing is flushed to the platter: this guards against crashes, not against power cuts.

    Raises:
        StoreError: The file cannot be written; nothing half-written is left.
    """
    temporary = path.with_name(temporary_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(str(path), error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_atomic(path: Path, data: bytes) -> None:
    """Put `data` under `path`, replacing what was there; as `atomic`."""
    with atomic(path) as file:
        file.write(data)


def temporary_name(name: str) -> str:
    """A hidden name beside `name` that no other writer has; short, since `name` may be as long as names can be."""
    return f".{name[:40]}.{uuid.uuid4().hex}.tmp"


def cannot_write(name: str, error: OSError) -> StoreError:
    """The error for a file that could not be written, with what to do about it."""
    if error.errno in _FULL:
        return StoreError(name, "the disk is full; free some space or choose another --workspace, then run again")
    return StoreError(name, f"cannot be written: {error.strerror or error}")
