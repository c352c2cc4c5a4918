"""Data sets in the layout of MVTec AD (Bergmann et al., CVPR 2019): the ground truth that figures are measured against.

<..>/<class>/test/good/<stem>.<suffix>
<..>/<class>/test/<defect>/<stem>.<suffix>
<..>/<class>/ground_truth/<defect>/<stem>_mask.png     0 is good, anything else is the defect
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from integrations.image_sets import SUFFIXES
from saa_core.errors import DatasetError

GOOD = "good"
MASK_SUFFIX = "_mask.png"
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class MvtecItem:
    """A test image; `mask` is None for a good one."""

    image: Path
    mask: Path | None
    defect: str


@dataclass(frozen=True, slots=True)
class MvtecClass:
    """A product of the data set.

    Attributes:
        name: Its folder relative to the data set, such as "mvtec_ad/bottle".
        root: Its folder.
        items: Sorted by defect and file name.
    """

    name: str
    root: Path
    items: tuple[MvtecItem, ...]


def read_mvtec(root: Path, only: Sequence[str] = ()) -> tuple[MvtecClass, ...]:
    """Find the classes of a data set at any depth, sorted by name; `root` may be a class itself.

    Args:
        root: A folder.
        only: Classes to read, by name or by the last part of it; empty is all.

    Raises:
        DatasetError: There is no class, one of `only` is not known, an image of a defect has no mask, or a mask no
            image: figures measured on the rest would be of another data set.
    """
    if not root.is_dir():
        raise DatasetError(str(root), "no such folder")
    folders = {_name(folder, root): folder for folder in _class_folders(root)}
    if not folders:
        raise DatasetError(str(root), "no class found; expected <class>/test/<defect or good>/<image>")
    names = folders if not only else {name for wanted in only for name in _named(wanted, folders, root)}
    return tuple(MvtecClass(name, folders[name], _items(folders[name])) for name in sorted(names))


def read_mask(path: Path, size: tuple[int, int] | None = None) -> NDArray[np.bool_]:
    """A ground-truth mask, bool (H, W); any picture whose good pixels are black.

    Args:
        path: Of the mask.
        size: (height, width) that it must have.

    Raises:
        DatasetError: Not readable, or of another size.
    """
    try:
        with PIL.Image.open(path) as picture:
            # Deep grey would be clipped by a conversion, colour has no single channel to look at.
            grey = picture if picture.mode.startswith(("I", "F")) else picture.convert("L")
            mask = np.asarray(grey) > 0
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(str(path), f"the mask cannot be read: {error}") from error
    if size not in (None, mask.shape):
        raise DatasetError(str(path), f"the mask has {_pixels(mask.shape)} pixels, its image {_pixels(size)}")
    return mask


def _class_folders(root: Path) -> Iterator[Path]:
    for parent, folders, _ in os.walk(root):
        if "test" in folders and any(folder.is_dir() for folder in Path(parent, "test").iterdir()):
            yield Path(parent)
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]


def _name(folder: Path, root: Path) -> str:
    return folder.resolve().name if folder == root else folder.relative_to(root).as_posix()


def _named(wanted: str, names: Iterable[str], root: Path) -> list[str]:
    found = [name for name in names if wanted in (name, name.rpartition("/")[2])]
    if not found:
        near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.0)
        raise DatasetError(str(root), f"no class {wanted!r}; the nearest are {', '.join(near)}")
    return found


def _items(folder: Path) -> tuple[MvtecItem, ...]:
    items = tuple(_item(folder, path) for path in _images(folder / "test"))
    known = {item.mask for item in items}
    _refuse(folder, "no mask for", [item.image for item in items if item.mask and not item.mask.is_file()])
    _refuse(folder, "no image for", [mask for mask in _images(folder / "ground_truth") if mask not in known])
    return items


def _item(folder: Path, image: Path) -> MvtecItem:
    defect = image.parent.name
    mask = None if defect == GOOD else folder / "ground_truth" / defect / f"{image.stem}{MASK_SUFFIX}"
    return MvtecItem(image, mask, defect)


def _images(folder: Path) -> list[Path]:
    paths = (path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in paths if path.is_file() and not path.name.startswith("."))


def _refuse(folder: Path, problem: str, paths: list[Path]) -> None:
    if paths:
        more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
        listed = ", ".join(str(path.relative_to(folder)) for path in paths[:_SHOWN])
        raise DatasetError(str(folder), f"{problem} {listed}{more}")


def _pixels(size: tuple[int, ...] | None) -> str:
    return " x ".join(map(str, size or ()))
