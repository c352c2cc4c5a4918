"""What a project holds: its tasks page by page, and which of them are ours."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from integrations.label_studio.client import Client
from integrations.label_studio.payload import KEY, UNAIDED

_FIRST = 60
"""Tasks of the first page."""
_FAST, _SLOW = 1.0, 5.0
"""Seconds: a page that takes less is followed by a larger one, one that takes more by a smaller one."""


@dataclass(frozen=True, slots=True)
class KnownTask:
    """A task of ours: its id, whether it has the prediction that is asked for, whether it is to have none."""

    id: int
    predicted: bool
    unaided: bool


def list_tasks(
    client: Client, project: int, include: str, filters: Sequence[Mapping[str, Any]] = (), most: int = 1000
) -> Iterator[dict[str, Any]]:
    """Tasks of a project by rising id, each once; what is made or deleted meanwhile hides no other.

    Every page begins after the last id of the one before, not at a number of tasks. Pages grow and shrink with the time
    that the server takes, which the size of the masks decides: an answer must not take longer than a client waits.

    Args:
        client: The server.
        project: Id of the project.
        include: Names of the fields, also of those of nested annotations; all others are left out.
        filters: Conditions of the data manager, all of which hold.
        most: Tasks a page at most.
    """
    last, size = 0, min(most, _FIRST)
    while True:
        after = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": last}
        query = {"filters": {"conjunction": "and", "items": [*filters, after]}, "ordering": ["tasks:id"]}
        page = {"page": 1, "page_size": size, "query": json.dumps(query)}
        began = time.monotonic()
        tasks = client.get("/api/tasks/", {"project": project, "fields": "all", "include": include, **page})["tasks"]
        took = time.monotonic() - began
        yield from tasks
        if len(tasks) < size:
            return
        last, size = tasks[-1]["id"], _next_size(size, took, most)


def _next_size(size: int, seconds: float, most: int) -> int:
    if seconds > _SLOW:
        return max(1, size // 4)
    return min(most, size * 4) if seconds < _FAST else size


def known_tasks(client: Client, project: int, version: str) -> tuple[dict[str, KnownTask], int]:
    """Our tasks by image key, of several the oldest, and how many others there are of these images.

    Which tasks have predictions of the version is asked with a filter: the column of a task's versions is cut off at
    500 characters, and joined otherwise on PostgreSQL.
    """
    column = {"filter": "filter:tasks:predictions_model_versions", "type": "List"}
    tasks = list(list_tasks(client, project, "id,data"))
    without = [{**column, "operator": "not_contains", "value": [version]}]
    lacking = {task["id"] for task in list_tasks(client, project, "id", without)}
    known: dict[str, KnownTask] = {}
    repeated = set()
    for task in tasks:
        key = task["data"].get(KEY)
        if key in known:
            repeated.add(task["id"])
        elif key:
            known[key] = KnownTask(task["id"], task["id"] not in lacking, bool(task["data"].get(UNAIDED)))
    return known, len(repeated)
