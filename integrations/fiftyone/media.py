"""What FiftyOne reads from disk: images that a browser shows, and masks cropped to their boxes.

FiftyOne keeps paths, and the App serves whatever is there. A file is named after what is in it, belongs to one region
of one field, and is written once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from integrations.files import write_atomic
from integrations.image_sets import read_bytes
from integrations.pictures import as_png, shown_as
from saa_core.masks import Rle, decode_crop, empty, encode_crop
from saa_core.types import ImageRef

_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]


@dataclass(frozen=True, slots=True)
class CroppedMask:
    """A mask as FiftyOne holds it.

    Attributes:
        path: Single-channel PNG of the box, 255 is inside.
        box: [x, y, width, height] relative to the image, of whole pixels.
    """

    path: str
    box: list[float]


@dataclass(frozen=True, slots=True)
class Media:
    """The files of a workspace that FiftyOne shows.

    Attributes:
        folder: Absolute.
    """

    folder: Path

    def image(self, ref: ImageRef) -> str:
        """Path of a file that the App shows as our decoder sees the image: its own, or a PNG.

        Raises:
            ImageError: It cannot be read, or is another one by now.
            StoreError: The PNG cannot be written.
        """
        made = self.folder / "images" / ref.key[:2] / f"{ref.key}.png"
        if made.is_file():
            return str(made)
        data = read_bytes(ref)
        suffix = shown_as(data)
        if suffix and "://" not in ref.uri and Path(ref.uri).suffix.lower() in (suffix, ".jpeg"):
            return ref.uri
        copy = made.with_suffix(suffix or ".png")
        write_atomic(copy, data if suffix else as_png(data, ref.names[0]))
        return str(copy)

    def mask(self, field: str, mask: Rle) -> CroppedMask:
        """A mask of one field as a file.

        Raises:
            StoreError: It cannot be written.
        """
        crop, top, left = decode_crop(mask)
        height, width = mask.size
        pixels = crop.view(np.uint8) * np.uint8(255)
        digest = hashlib.sha256(f"{mask.size} {top} {left} {crop.shape}".encode() + pixels.tobytes()).hexdigest()
        path = self.folder / "masks" / field / digest[:2] / f"{digest}.png"
        if not path.is_file():
            write_atomic(path, cv2.imencode(".png", pixels, _PNG)[1].tobytes())
        box = [left / width, top / height, crop.shape[1] / width, crop.shape[0] / height]
        return CroppedMask(str(path), box)


def whole_mask(crop: NDArray[Any], box: list[float], height: int, width: int) -> Rle:
    """The mask that a crop of an image's box shows, whatever the crop's resolution.

    Args:
        crop: (h, w), not 0 is inside. The App keeps what was painted there at the resolution of its canvas.
        box: [x, y, width, height] relative to the image.
        height: Rows of the image in pixels.
        width: Columns of the image in pixels.

    Returns:
        What of it is inside the image; empty where nothing is.
    """
    left, top = round(box[0] * width), round(box[1] * height)
    columns, rows = max(1, round(box[2] * width)), max(1, round(box[3] * height))
    inside = (crop != 0).astype(np.uint8)
    if inside.shape != (rows, columns):
        inside = cv2.resize(inside, (columns, rows), interpolation=cv2.INTER_NEAREST)
    # What was painted beyond the image is cut off.
    y, x = max(0, -top), max(0, -left)
    part = inside[y : height - top, x : width - left].astype(bool)
    return encode_crop(part, max(top, 0), max(left, 0), height, width) if part.size else empty(height, width)
