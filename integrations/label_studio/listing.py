"""What a project holds: its tasks page by page, and which of them are ours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from integrations.label_studio.client import Client
from integrations.label_studio.payload import KEY


@dataclass(frozen=True, slots=True)
class KnownTask:
    """A task of ours: its id, and the versions of its predictions."""

    id: int
    versions: frozenset[str]


def list_tasks(
    client: Client, project: int, include: str, filters: Sequence[Mapping[str, str]] = (), size: int = 1000
) -> Iterator[dict[str, Any]]:
    """Tasks of a project by rising id.

    Ids never change place, so a task that is made or changed meanwhile moves no other between pages; one that is
    deleted does, and then the pages are read from the first again. A task may therefore come twice.

    Args:
        client: The server.
        project: Id of the project.
        include: Names of the fields, also of those of nested annotations; all others are left out.
        filters: Conditions of the data manager, all of which hold.
        size: Tasks a page.
    """
    query = {"filters": {"conjunction": "and", "items": list(filters)}, "ordering": ["tasks:id"]}
    parameters = {
        "project": project,
        "fields": "all",
        "include": include,
        "page_size": size,
        "query": json.dumps(query),
    }
    page, total = 1, 0
    while page == 1 or (page - 1) * size < total:
        answer = client.get("/api/tasks/", {**parameters, "page": page})
        if answer["total"] < total:
            page, total = 1, 0
            continue
        total = answer["total"]
        yield from answer["tasks"]
        page += 1


def known_tasks(client: Client, project: int) -> tuple[dict[str, KnownTask], int]:
    """Our tasks by image key, of several the oldest, and how many others there are of these images."""
    known: dict[str, KnownTask] = {}
    repeated = set()
    for task in list_tasks(client, project, "id,data,predictions_model_versions"):
        key = task["data"].get(KEY)
        if key in known and known[key].id != task["id"]:
            repeated.add(task["id"])
        elif key:
            known[key] = KnownTask(task["id"], _versions(task))
    return known, len(repeated)


def _versions(task: Mapping[str, Any]) -> frozenset[str]:
    return frozenset((task.get("predictions_model_versions") or "").split(",")) - {""}
