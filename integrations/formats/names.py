"""What files and folders of a data set are called: names of images and labels are free, those of files are not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath

# Separators, what Windows refuses, and control characters.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]+')
_LONGEST = 150
"""Bytes, so that an id and a suffix still fit into the 255 of most file systems."""


def leads_out(name: str) -> bool:
    """Whether the name of an image is absolute, or leads out of the folder that it should be relative to."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts


def image_stems(names: Mapping[str, str]) -> dict[str, str]:
    """For each image, by key, what its files are called without suffix; `sub/a.png` is `sub__a`.

    Args:
        names: What the user calls each image, by key.
    """
    return _unique({key: name.removesuffix(PurePosixPath(name).suffix) for key, name in names.items()})


def label_folders(labels: Sequence[str], reserved: Collection[str] = ()) -> dict[str, str]:
    """For each label a folder, none of them one of `reserved`."""
    folders = _unique({str(number): label for number, label in enumerate(labels)}, reserved)
    return {label: folders[str(number)] for number, label in enumerate(labels)}


def _unique(wanted: Mapping[str, str], reserved: Collection[str] = ()) -> dict[str, str]:
    """Safe names by id, all different where case does not count: those that are not get their ids.

    That may clash with a third, which then gets its own too; ids are all different, so this ends.
    """
    safe = {id: _safe(name) for id, name in wanted.items()}
    clashing: set[str] = set()
    while True:
        names = {id: f"{name}-{id}" if id in clashing else name for id, name in safe.items()}
        uses = Counter([*reserved, *(name.casefold() for name in names.values())])
        found = {id for id, name in names.items() if uses[name.casefold()] > 1}
        if not found - clashing:
            return names
        clashing |= found


def _safe(name: str) -> str:
    plain = _UNSAFE.sub("__", name).strip(" .") or "_"
    return plain.encode()[-_LONGEST:].decode(errors="ignore")
