"""Events as JSON, one object a line, for whoever collects logs: what was noted in the catalog, and every warning.

    {"time": "2026-01-02T12:00:00+00:00", "level": "info", "event": "image quarantined", "logger": "...", "run": "...",
     "product": "...", "image": "<key>", ...}

`run`, `product` and `image` are there where an event is about one. Modules log by `logging.getLogger(__name__)` and
name these as `extra`; nothing that a setting holds is ever logged.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

LogKind = Literal["text", "json"]
"""text is Python's own way: warnings as they are, on stderr."""

_ROOMS = ("saa_core", "integrations", "tasks", "flows")
_ABOUT = ("run", "product", "image", "bundle", "reason", "count", "seconds")


class JsonLine(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
        }
        about = {name: value for name in _ABOUT if (value := getattr(record, name, None)) is not None}
        raised = {"error": self.formatException(record.exc_info)} if record.exc_info else {}
        return json.dumps(said | about | raised, ensure_ascii=False, default=str)


def write_logs(kind: LogKind, path: Path | None) -> None:
    """Write what the product logs in this process from now on; nothing happens if it is written so already.

    Args:
        kind: How.
        path: File to append to; None is stderr.

    Raises:
        OSError: The file cannot be opened.
    """
    found = [each for each in logging.getLogger(_ROOMS[0]).handlers if isinstance(each.formatter, JsonLine)]
    if list(map(_path, found)) == ([path and path.absolute()] if kind == "json" else []):
        return
    added = [_lines(path)] if kind == "json" else []
    for name in _ROOMS:
        logger = logging.getLogger(name)
        logger.handlers = [*(each for each in logger.handlers if each not in found), *added]
        logger.setLevel(logging.INFO if added else logging.NOTSET)
        logger.propagate = not added
    for handler in found:
        handler.close()


def _lines(path: Path | None) -> logging.Handler:
    # Whoever sets up logging anew, as Prefect does, closes all handlers; one of a file then opens it again.
    handler = logging.StreamHandler(sys.stderr) if path is None else logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(JsonLine())
    return handler


def _path(handler: logging.Handler) -> Path | None:
    return Path(handler.baseFilename) if isinstance(handler, logging.FileHandler) else None
