"""Requests of bounded size: by count and by bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")


def batches(pairs: Iterable[tuple[_T, bytes]], most: int, most_bytes: int) -> Iterator[list[tuple[_T, bytes]]]:
    """Cut a stream of contents into lists, in order; nothing is read ahead of the list that is being filled.

    Args:
        pairs: Something, and the bytes that it puts into a request.
        most: Pairs of one list at most.
        most_bytes: Bytes of one list at most; a single larger content goes alone.
    """
    batch: list[tuple[_T, bytes]] = []
    size = 0
    for item, content in pairs:
        if batch and (len(batch) == most or size + len(content) > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append((item, content))
        size += len(content)
    if batch:
        yield batch
