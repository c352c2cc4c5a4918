"""How the App shows a data set: sidebar, colours, what is shown at first, labels to draw with.

What somebody sets otherwise there stays: only what is as it was left is brought up to date.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from integrations.fiftyone.columns import database_errors
from integrations.fiftyone.schema import BundleFields, keep_notes, notes_of

FOUND_COLOR, EXPERT_COLOR, MAP_COLOR = "#f97316", "#22c55e", "#e879f9"
_COUNTS = ("tp", "fp", "fn")


def arrange(fiftyone: Any, dataset: Any, current: BundleFields, earlier: Sequence[BundleFields]) -> None:
    """Sidebar, colours and what is shown at first; nothing is written where it is so already.

    Raises:
        ServiceError: mongod does not answer.
    """
    config, notes = dataset.app_config, notes_of(dataset)
    before, left = config.to_json(), notes.get("arranged", {})
    shown = [current.predictions, current.map, "expert", "verdict", "review_state", current.score]
    ours = {
        "sidebar_groups": _sidebar(fiftyone, dataset, current, earlier),
        "active_fields": fiftyone.ActiveFields(exclude=False, paths=shown),
    }
    for part, value in ours.items():
        if left.get(part) == _plain(config[part]):
            config[part] = value
            left[part] = _plain(value)
    config.color_scheme = _colors(fiftyone, config.color_scheme, current, earlier)
    with database_errors():
        keep_notes(dataset, notes | {"arranged": left})
        if config.to_json() != before:
            dataset.save()


@contextmanager
def same_sidebar(dataset: Any) -> Iterator[None]:
    """Take back what FiftyOne's evaluation does to the sidebar: it would look as if somebody had wanted it so."""
    before = deepcopy(dataset.app_config.sidebar_groups)
    yield
    dataset.app_config.sidebar_groups = before
    dataset.save()


def prepare_drawing(dataset: Any, labels: Sequence[str]) -> None:
    """Let the Annotate tab draw the expert's regions with these labels, beside those that it has; nothing else there.

    Raises:
        ServiceError: mongod does not answer.
    """
    schemas = dataset.label_schemas
    held = schemas.get("expert") or {"type": "detections", "component": "dropdown", "attributes": [_WORDS]}
    classes = [*dict.fromkeys([*held.get("classes", []), *labels])]
    if held.get("classes") != classes:
        with database_errors():
            dataset.set_label_schemas({**schemas, "expert": {**held, "classes": classes}})
            dataset.activate_label_schemas("expert")


_WORDS = {"name": "words", "type": "str", "component": "text"}


def _plain(part: Any) -> str | None:
    """What tells one state of a part of the App's settings from another; None for one that nobody has set."""
    parts = part if isinstance(part, list) else [part]
    return json.dumps([each.to_dict() for each in parts]) if part else None


def _colors(fiftyone: Any, scheme: Any, current: BundleFields, earlier: Sequence[BundleFields]) -> Any:
    """The scheme with our colours for the paths that have none, and no longer for those of earlier bundles."""
    scheme = scheme or fiftyone.ColorScheme(color_by="field")
    old = [entry for fields in earlier for entry in _colored(fields)]
    kept = [entry for entry in scheme.fields or [] if entry not in old]
    wanted = [*_colored(current), {"path": "expert", "fieldColor": EXPERT_COLOR}]
    scheme.fields = kept + [entry for entry in wanted if entry["path"] not in {each["path"] for each in kept}]
    return scheme


def _colored(fields: BundleFields) -> list[dict[str, str]]:
    colors = {fields.predictions: FOUND_COLOR, fields.map: MAP_COLOR}
    return [{"path": path, "fieldColor": color} for path, color in colors.items()]


def _sidebar(fiftyone: Any, dataset: Any, current: BundleFields, earlier: Sequence[BundleFields]) -> list[Any]:
    old = [path for fields in earlier for path in _paths(fields)]
    counts = [f"{fields.evaluation}_{name}" for fields in (current, *earlier) for name in _COUNTS]
    groups = {
        "tags": (["tags"], True),
        "what was found": (_paths(current), True),
        "what experts say": (["expert", "verdict", "review_state", "dispute", "expert_change", "blind"], True),
        "what to look at": (["review_priority", "bundle_change", "uniqueness", "near_duplicate"], True),
        "the image": (
            ["name", "names", "lot", "key", "id", "read_tags", "filepath", "created_at", "last_modified_at"],
            False,
        ),
        "behind the figures": ([*filter(dataset.has_sample_field, counts), "features"], False),
        "earlier bundles": (old, False),
        "metadata": (["metadata." + name for name in ("size_bytes", "mime_type", "width", "height")], False),
    }
    return [
        fiftyone.SidebarGroupDocument(name=name, paths=paths, expanded=expanded)
        for name, (paths, expanded) in groups.items()
        if paths
    ]


def _paths(fields: BundleFields) -> list[str]:
    return [fields.predictions, fields.map, fields.score, fields.pixel_f1]
