"""What every written format starts from: one image with its regions, named and assigned to a part of the split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from integrations.files import write_atomic
from integrations.outputs import mask_png
from saa_core.masks import Rle

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class ExportRegion:
    """One region of an image.

    Attributes:
        label: What it is called.
        mask: Run-length mask of the image's size.
        score: Confidence of a prediction, in [0, 1]; None where a person drew it.
    """

    label: str
    mask: Rle
    score: float | None = None


@dataclass(frozen=True, slots=True)
class ExportImage:
    """One image on its way into a data set.

    Attributes:
        stem: What its files are called there, without suffix: unique in the data set, safe on every file system.
        suffix: Of the picture, with its dot.
        data: The picture's file, upright.
        part: Of the split.
        height: Rows in pixels.
        width: Columns in pixels.
        regions: Of a good image none.
    """

    stem: str
    suffix: str
    data: bytes
    part: Part
    height: int
    width: int
    regions: tuple[ExportRegion, ...]

    @property
    def file(self) -> str:
        """Name of the picture's file."""
        return self.stem + self.suffix

    def mask_png(self, label: str | None = None) -> bytes:
        """Union of its regions, or of those of one label, as PNG of 0 and 255."""
        masks = [region.mask for region in self.regions if label in (None, region.label)]
        return mask_png(masks, (self.height, self.width))


WriteFormat = Callable[[Path, Sequence[str], Iterable[ExportImage]], tuple[str, ...]]
"""Writes a data set into a folder, one image at a time: folder, every label in the order of the classes, images.

Returns what the format cannot hold, a sentence each. Raises StoreError or OSError when a file cannot be written.
"""


def write_picture(folder: Path, image: ExportImage) -> None:
    """Put an image's picture where most formats want it: images/<part>/<file>."""
    write_atomic(folder / "images" / image.part / image.file, image.data)
