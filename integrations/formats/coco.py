"""COCO instance segmentation (cocodataset.org, format-data and format-results).

images/<part>/<file>
annotations/instances_<part>.json    images, annotations and categories
annotations/results_<part>.json      of predictions: what `COCO.loadRes` takes; absent where nothing was found

Masks are compressed run-lengths, which hold every mask to the bit. `iscrowd` is 0 all the same: it says whether a
region stands for many objects, which evaluation then ignores, and readers tell run-lengths from polygons by their type.
Ids begin at 1, since COCOeval takes a match with an annotation 0 for none. `area` is the mask's, not the box's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Self

from integrations.files import atomic
from integrations.formats.exported import ExportImage, ExportRegion, write_picture
from saa_core.masks import to_coco


def write_coco(folder: Path, labels: Sequence[str], images: Iterable[ExportImage]) -> tuple[str, ...]:
    """Write a data set, see the module's text and `WriteFormat`; COCO loses nothing."""
    categories = {label: number for number, label in enumerate(labels, start=1)}
    parts: dict[str, _Part] = {}
    with ExitStack() as stack:
        for image in images:
            write_picture(folder, image)
            if image.part not in parts:
                parts[image.part] = stack.enter_context(_Part.opened(folder, categories))
            parts[image.part].add(image)
        for name, part in parts.items():
            part.write(folder / "annotations", name)
    return ()


class _JsonList:
    """A JSON list that grows on the disk instead of in memory, and vanishes with the process."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.length = 0

    def append(self, entry: Mapping[str, Any]) -> None:
        self._file.write(b",\n" if self.length else b"\n")
        self._file.write(json.dumps(entry, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())
        self.length += 1

    def copy_to(self, file: BinaryIO) -> None:
        self._file.seek(0)
        file.write(b"[")
        shutil.copyfileobj(self._file, file)
        file.write(b"\n]")


@dataclass(frozen=True, slots=True)
class _Part:
    """What is known of one part of the split so far.

    Attributes:
        categories: Number of each label.
        images: A row each.
        annotations: A row for each region.
        results: The same of those with a score, as results are.
    """

    categories: Mapping[str, int]
    images: _JsonList
    annotations: _JsonList
    results: _JsonList

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, categories: Mapping[str, int]) -> Iterator[Self]:
        """An empty part whose lists grow in `folder`: where others keep temporary files may be memory."""
        with ExitStack() as files:
            lists = [_JsonList(files.enter_context(TemporaryFile(dir=folder))) for _ in range(3)]
            yield cls(categories, *lists)

    def add(self, image: ExportImage) -> None:
        number = self.images.length + 1
        self.images.append({"id": number, "file_name": image.file, "height": image.height, "width": image.width})
        for region in image.regions:
            found = {"image_id": number, "category_id": self.categories[region.label], **_scored(region)}
            self.annotations.append({"id": self.annotations.length + 1, **found, **_measures(region)})
            # Without a box: loadRes would take the area from it, and not from the mask.
            if region.score is not None:
                self.results.append(found)

    def write(self, folder: Path, name: str) -> None:
        categories = [{"id": number, "name": label} for label, number in self.categories.items()]
        with atomic(folder / f"instances_{name}.json") as file:
            file.write(b'{"categories":' + json.dumps(categories, ensure_ascii=False).encode() + b',\n"images":')
            self.images.copy_to(file)
            file.write(b',\n"annotations":')
            self.annotations.copy_to(file)
            file.write(b"}\n")
        if self.results.length:
            with atomic(folder / f"results_{name}.json") as file:
                self.results.copy_to(file)


def _scored(region: ExportRegion) -> dict[str, Any]:
    segmentation = {"segmentation": to_coco(region.mask)}
    return segmentation if region.score is None else segmentation | {"score": region.score}


def _measures(region: ExportRegion) -> dict[str, Any]:
    x0, y0, x1, y1 = region.mask.box
    return {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": region.mask.area, "iscrowd": 0}
