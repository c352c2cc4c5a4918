"""A product's project in Label Studio: found by a key of ours, made if there is none, kept in shape.

Titles of projects are not unique and people change them, so a project is known by a line of its description.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from integrations.label_studio.client import Client
from integrations.label_studio.labeling_config import Merged, build, labels_in, merge
from integrations.label_studio.payload import KEY, UNAIDED
from saa_core.errors import ServiceError

_LINE = "saa product:"
_PAGE = 100
_TITLE = 50
"""Characters that a title may have, by the server's rule; at least 3."""

_HIDDEN = [
    "tasks:id",
    "tasks:inner_id",
    "tasks:completed_at",
    "tasks:cancelled_annotations",
    "tasks:total_predictions",
    "tasks:annotators",
    "tasks:annotations_results",
    "tasks:annotations_ids",
    "tasks:predictions_model_versions",
    "tasks:predictions_results",
    "tasks:file_upload",
    "tasks:storage_filename",
    "tasks:created_at",
    "tasks:updated_at",
    "tasks:updated_by",
    "tasks:avg_lead_time",
    "tasks:draft_exists",
    f"tasks:data.{KEY}",
    f"tasks:data.{UNAIDED}",
]
"""What an expert has no use for: seen are the number of annotations, the priority, the picture and its name."""
_COLUMNS = {"explore": _HIDDEN, "labeling": [*_HIDDEN, "tasks:data.title", "tasks:predictions_score"]}
"""By place: the list on its own, and the narrow one beside the editor, where ids would fill it."""

TABS: Mapping[str, Mapping[str, Any]] = {
    "by review priority": {
        "hiddenColumns": _COLUMNS,
        "ordering": ["-tasks:predictions_score"],
        "filters": {"conjunction": "and", "items": []},
    },
    "without masks": {
        "hiddenColumns": _COLUMNS,
        "ordering": ["tasks:id"],
        "filters": {
            "conjunction": "and",
            "items": [{"filter": "filter:tasks:total_predictions", "operator": "equal", "type": "Number", "value": 0}],
        },
    },
}
"""Tabs of the project's data manager by title; the first is what opens and what "Label All Tasks" goes through."""


@dataclass(frozen=True, slots=True)
class Project:
    """A product's project.

    Attributes:
        id: Its number on the server.
        created: When it was made, by the server's clock, as the server writes it.
        made: Whether it was made just now.
        title: As people see it.
        config: Its labeling configuration with all that the bundle needs, see `apply_config`.
        version: Whose predictions its experts see; "" is nobody's.
        notes: What the user should know, a line each.
    """

    id: int
    created: str
    made: bool
    title: str
    config: Merged
    version: str
    notes: tuple[str, ...] = ()


def find_or_make(client: Client, product: str, labels: Sequence[str], *, remembered: int | None) -> Project:
    """The project of `product`; one is made if the server has none.

    Args:
        client: The server.
        product: The product's name.
        labels: Labels of the bundle, see `integrations.labels.labels_of`.
        remembered: Number of the project that was used last. It counts only if it still is the product's: another
            server may have moved in at the same address.

    Raises:
        ServiceError: The server refuses, or the project's configuration cannot be used; the message says what to do.
        AnswerLostError: Whether a project was made is not known; the next call finds it.
    """
    project = find(client, product, labels, remembered=remembered)
    if project is not None:
        return project
    made = client.post("/api/projects/", _new(product, labels))
    return _project(client, made, labels, made=True, notes=_notes_on(product, [], remembered))


def find(client: Client, product: str, labels: Sequence[str], *, remembered: int | None) -> Project | None:
    """The project of `product`, or None; arguments and errors as in `find_or_make`."""
    found = [content for content in _all(client) if _is_of(content, product)]
    if not found:
        return None
    chosen = next((content for content in found if content["id"] == remembered), found[0])
    content = read_project(client, chosen["id"])
    notes = (*_notes_on(product, found, remembered), *_prelabel_note(content))
    return _project(client, content, labels, made=False, notes=notes)


def apply_config(client: Client, project_id: int, config: Merged) -> bool:
    """Write the configuration if it adds something; returns whether it was written.

    Raises:
        ServiceError: The server refuses it, the project's own was changed since `config` was made of it, so that labels
            would be lost, or the project was deleted.
    """
    if not config.changed:
        return False
    lost = set(labels_in(read_project(client, project_id)["label_config"])) - set(labels_in(config.xml))
    if lost:
        labels = ", ".join(sorted(lost))
        raise ServiceError(_name(client, project_id), f"labels were added meanwhile ({labels}); push again")
    with of_project(client, project_id):
        client.patch(f"/api/projects/{project_id}/", {"label_config": config.xml})
    return True


def ensure_tabs(client: Client, project_id: int) -> int:
    """Make the data manager's tabs that are missing, by title; returns how many were made.

    Raises:
        ServiceError: The server refuses, or the project was deleted.
    """
    # Of a project that is gone this answers 400, which says less.
    read_project(client, project_id)
    there = {view["data"].get("title") for view in client.get("/api/dm/views/", {"project": project_id})}
    missing = [title for title in TABS if title not in there]
    with of_project(client, project_id):
        for title in missing:
            client.post("/api/dm/views/", {"project": project_id, "data": {"title": title, **TABS[title]}})
    return len(missing)


def activate(client: Client, project_id: int, version: str) -> bool:
    """Show experts the predictions of `version`; returns whether something was written.

    Raises:
        ServiceError: No prediction has that version, or the project was deleted.
    """
    if read_project(client, project_id)["model_version"] == version:
        return False
    with of_project(client, project_id):
        client.patch(f"/api/projects/{project_id}/", {"model_version": version})
    return True


def read_project(client: Client, project_id: int) -> dict[str, Any]:
    """The project as the server has it.

    Raises:
        ServiceError: As the client's, with status 404 and "the project was deleted" where it is.
    """
    with of_project(client, project_id):
        content: dict[str, Any] = client.get(f"/api/projects/{project_id}/")
    return content


@contextmanager
def of_project(client: Client, project_id: int) -> Iterator[None]:
    """Calls of the API that are about one project: a 404 among them means that it was deleted."""
    try:
        yield
    except ServiceError as error:
        if error.status != 404:
            raise
        reason = "the project was deleted; `saa push label-studio` makes another"
        raise ServiceError(_name(client, project_id), reason, 404) from None


def _all(client: Client) -> list[dict[str, Any]]:
    """Number and description of every project, oldest first."""
    contents: list[dict[str, Any]] = []
    page = 1
    while True:
        query = {"page": page, "page_size": _PAGE, "include": "id,title,description", "ordering": "id"}
        answer = client.get("/api/projects/", query)
        contents += answer["results"]
        if not answer["next"]:
            return contents
        page += 1


def _key(product: str) -> str:
    return f"{_LINE} {' '.join(product.split())}"


def _is_of(content: Mapping[str, Any], product: str) -> bool:
    lines = (content.get("description") or "").splitlines()
    return any(" ".join(line.split()) == _key(product) for line in lines)


def _new(product: str, labels: Sequence[str]) -> dict[str, Any]:
    return {
        "title": _title(product),
        "description": f"{_key(product)}\nThe line above is how saa finds this project; all else may be changed.",
        "label_config": build(labels),
        "show_collab_predictions": True,
    }


def _title(product: str) -> str:
    name, mark = " ".join(product.split()), " (saa)"
    room = _TITLE - len(mark)
    return (name if len(name) <= room else name[: room - 1] + "…") + mark


def _project(
    client: Client, content: Mapping[str, Any], labels: Sequence[str], *, made: bool, notes: tuple[str, ...]
) -> Project:
    try:
        config = merge(content["label_config"], labels)
    except ServiceError as error:
        raise ServiceError(_name(client, content["id"]), f"its {error}") from None
    return Project(
        content["id"], content["created_at"], made, content["title"], config, content["model_version"] or "", notes
    )


def _notes_on(product: str, found: Sequence[Mapping[str, Any]], remembered: int | None) -> tuple[str, ...]:
    numbers = [content["id"] for content in found]
    notes = []
    if remembered is not None and remembered not in numbers:
        lost = f"it was deleted, or its description lost the line {_key(product)!r}"
        notes.append(f"project {remembered}, used before, is not used: {lost}")
    if len(numbers) > 1:
        used = remembered if remembered in numbers else numbers[0]
        notes.append(f"projects {', '.join(map(str, numbers))} all have the line {_key(product)!r}; {used} is used")
    return tuple(notes)


def _prelabel_note(content: Mapping[str, Any]) -> tuple[str, ...]:
    if content.get("show_collab_predictions", True):
        return ()
    return (f"project {content['id']} shows experts no predictions; turn them on under Settings > Annotation",)


def _name(client: Client, project_id: int) -> str:
    return f"{client.url} project {project_id}"
