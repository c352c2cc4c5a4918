"""YOLO segmentation as Ultralytics trains on (docs.ultralytics.com/datasets/segment).

images/<part>/<file>
labels/<part>/<stem>.txt    a line per region: class, then x y of its outline, divided by width and height
data.yaml                   the parts and the names of the classes; trainers refuse one without train and val

A line is one closed outline. So every connected part of a region has a line of its own, and holes are filled: both are
what the format cannot hold. The outline runs along the borders of the pixels, a hundredth of a pixel inside them. Read
as geometry, a line one pixel wide thus has an area and a box; drawn as Ultralytics draws it (coordinates cut to whole
pixels, cv2.fillPoly), it is the region to the bit, but for the holes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from integrations.files import write_atomic
from integrations.formats.exported import PARTS, ExportImage, ExportRegion, write_picture
from saa_core.masks import Bools, decode_crop

# Far above what is lost by seven decimals and by readers that keep 32 bits, in images of up to 60,000 pixels a side.
_INSIDE = 0.01
_DECIMALS = 7
_NEEDED = "train", "val"


def write_yolo(folder: Path, labels: Sequence[str], images: Iterable[ExportImage]) -> tuple[str, ...]:
    """Write a data set, see the module's text and `WriteFormat`."""
    classes, loss, parts = {label: number for number, label in enumerate(labels)}, _Loss(), set()
    for image in images:
        write_picture(folder, image)
        lines = [line for region in image.regions for line in _lines(region, classes[region.label], loss)]
        write_atomic(folder / "labels" / image.part / f"{image.stem}.txt", "".join(lines).encode())
        parts.add(image.part)
    present = [part for part in PARTS if part in parts]
    absent = [part for part in _NEEDED if part not in parts]
    content = {part: f"images/{part}" for part in present} | dict.fromkeys(absent, f"images/{present[0]}")
    data = yaml.safe_dump(content | {"names": dict(enumerate(labels))}, sort_keys=False, allow_unicode=True)
    write_atomic(folder / "data.yaml", data.encode())
    stand_ins = [f"no image is in {part}: data.yaml names {present[0]}, choose another --split" for part in absent]
    return (*loss.sentences(), *stand_ins)


@dataclass(slots=True)
class _Loss:
    """What was lost so far."""

    regions: int = 0
    split: int = 0
    scored: int = 0
    with_holes: int = 0
    overlap: float = 0.0
    worst: float = 1.0

    def count(self, region: ExportRegion, parts: int, filled: int) -> None:
        """Count a region that became `parts` lines which cover `filled` pixels."""
        overlap = region.mask.area / filled
        self.regions += 1
        self.split += parts > 1
        self.scored += region.score is not None
        self.with_holes += overlap < 1
        self.overlap += overlap
        self.worst = min(self.worst, overlap)

    def sentences(self) -> tuple[str, ...]:
        mean = self.overlap / max(self.regions, 1)
        said = {
            f"holes of {self.with_holes} of {self.regions} regions are filled; IoU of what is written with the "
            f"regions: {mean:.4f} in the mean, {self.worst:.4f} at worst": self.with_holes,
            f"{self.split} of {self.regions} regions have several parts, which are separate objects": self.split,
            f"the scores of {self.scored} regions are not written": self.scored,
        }
        return tuple(sentence for sentence, count in said.items() if count)


def _lines(region: ExportRegion, number: int, loss: _Loss) -> list[str]:
    crop, top, left = decode_crop(region.mask)
    if not crop.size:
        return []
    parts = outlines(crop)
    loss.count(region, len(parts), _filled(parts, crop.shape))
    corner, size = np.array([left, top]), (region.mask.width, region.mask.height)
    return [f"{number}{_coordinates((part + corner) / size)}\n" for part in parts]


def outlines(mask: Bools) -> list[NDArray[np.float64]]:
    """The outer outline of every 8-connected part of a mask.

    Args:
        mask: Bool (H, W).

    Returns:
        Float64 (n, 2) each, n at least 3: x and y in pixels, (0, 0) is the upper left corner of the first pixel.
    """
    # Of pixels doubled, the one on a border tells which side of its original the border is.
    doubled = mask.view(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    found, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    corners = [contour[:, 0] for contour in found]
    return [corner // 2 + np.where(corner % 2, 1 - _INSIDE, _INSIDE) for corner in corners]


def _filled(parts: Sequence[NDArray[np.float64]], shape: tuple[int, ...]) -> int:
    """Pixels that the outlines cover as Ultralytics draws them."""
    canvas = np.zeros(shape, np.uint8)
    for part in parts:
        cv2.fillPoly(canvas, [part.astype(np.int32)], 1)
    return int(np.count_nonzero(canvas))


def _coordinates(points: NDArray[np.float64]) -> str:
    # One template for all: ten thousand numbers an image are most of the time.
    return f" %.{_DECIMALS}f" * points.size % tuple(points.ravel().tolist())
