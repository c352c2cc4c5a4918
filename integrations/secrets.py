"""Secrets in files that nobody else can read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from integrations.files import cannot_write, temporary_name
from saa_core.errors import StoreError


def secret(path: Path, make: Callable[[], str]) -> str:
    """The secret in a file, made once; the file is never readable by others, not even while it is written.

    Args:
        path: The file; missing folders are made.
        make: Gives a new secret, asked for only when there is no such file.

    Raises:
        StoreError: Others can read the file, it is empty, or it can be neither read nor written.
    """
    if not path.exists():
        try:
            _write_new(path, make())
        except OSError as error:
            raise cannot_write(str(path), error) from error
    try:
        return _read(path)
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(str(path), f"cannot be read: {error}") from error


def _write_new(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(temporary_name(path.name))
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        # Whole at once, and never over the file of another process that was faster.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()


def _read(path: Path) -> str:
    if path.stat().st_mode & 0o077:
        raise StoreError(str(path), f"other users can read this secret; `chmod 600 {path}`, or delete it for a new one")
    text = path.read_text("utf-8").strip()
    if not text:
        raise StoreError(str(path), "holds no secret; delete it for a new one")
    return text
