"""The folder of an export: built out of sight inside it, and moved into view when it is whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from integrations.files import cannot_write
from saa_core.errors import StoreError

PROVENANCE = "provenance.json"
"""The file that is put in place last: where it is, the export is whole."""

_PARTIAL = ".saa-export"
_OF_THE_DISK = "lost+found"


@contextmanager
def built(folder: Path) -> Iterator[Path]:
    """A hidden folder whose content becomes the folder's at the end; after an error nothing of it is left.

    Inside, not beside: the folder may be the mount of a disk. What an export left that was killed is removed first.

    Raises:
        StoreError: The folder holds something already, or cannot be written.
    """
    _refuse_used(folder)
    partial = folder / _PARTIAL
    try:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        yield partial
        for path in sorted(partial.iterdir(), key=lambda path: path.name == PROVENANCE):
            path.rename(folder / path.name)
    except OSError as error:
        raise cannot_write(str(folder), error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_used(folder: Path) -> None:
    """Nobody's files are mixed with an export's, or overwritten."""
    try:
        present = {path.name for path in folder.iterdir()} - {_PARTIAL, _OF_THE_DISK}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise StoreError(str(folder), "is a file; an export needs a new or empty folder") from None
    except OSError as error:
        raise cannot_write(str(folder), error) from error
    if PROVENANCE in present:
        raise StoreError(str(folder), "holds an export already; choose another folder")
    if present:
        raise StoreError(str(folder), f"is not empty, it holds {min(present)!r}; choose a new or empty folder")
