"""URLs of places that may hold a secret."""

from __future__ import annotations

import re

_USER_INFO = re.compile(r"(?<=://)([^/@:]*):([^/]*)@")
_QUERY = re.compile(r"(?i)([?&][^=&]*(?:password|secret|token|key|signature)[^=&]*=)[^&]*")


def masked_url(url: str) -> str:
    """The URL as it may be shown: passwords and secret query values become ``***``.

    Example:
        >>> masked_url("postgresql://saa:hunter2@db/saa")
        'postgresql://saa:***@db/saa'
    """
    return _QUERY.sub(r"\1***", _USER_INFO.sub(r"\1:***@", url))
