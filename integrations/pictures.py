"""Images on their way to a browser: what it shows of a file, and a PNG where that is not what the models saw.

JPEGs go as they are: the browser applies their EXIF orientation as our decoder does. So do PNGs without transparency,
animation, orientation or 16-bit grey. Everything else (TIFF, JPEG 2000, PPM, BMP, GIF, WebP, ...) is shown as a PNG of
our own decode.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from integrations.image_sets import Quarantined
from saa_core.errors import ImageError
from saa_core.images import load_image
from saa_core.types import ImageRef

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
# PNG 1.2, 4.1.1: bytes 24 and 25 of the file are bit depth and colour type: 0 grey, 2 RGB, 3 palette, 4 and 6 alpha.
_SHOWN_DEPTHS = {*((depth, kind) for depth in (1, 2, 4, 8) for kind in (0, 2, 3)), (16, 2)}
# Transparency, animation, and the three places where a PNG may hold an orientation.
_CHANGES = (b"tRNS", b"acTL", b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
# Our decoder heeds an orientation that stands in XMP alone; browsers do not.
_TURNED_BY_XMP = re.compile(rb'tiff:Orientation(?:="|>)[2-8]')


@dataclass(frozen=True, slots=True)
class PublishedImage:
    """An image that experts are to see.

    Attributes:
        key: SHA-256 of the file's bytes, hexadecimal.
        name: What the user calls it.
        uri: Where the bytes can be read: a path or an fsspec URL.
        height: Rows of the upright image, as it was labeled.
        width: Columns of the upright image.
    """

    key: str
    name: str
    uri: str
    height: int
    width: int

    @property
    def ref(self) -> ImageRef:
        """The image by content."""
        return ImageRef(self.key, self.uri, (self.name,))


@dataclass(frozen=True, slots=True)
class Published:
    """What became of some images.

    Attributes:
        urls: By image key, what to write as `image` into a task's data.
        refused: Images that cannot be shown, and why; the others go on.
    """

    urls: Mapping[str, str]
    refused: tuple[Quarantined, ...]


def shown_as(data: bytes) -> Literal[".jpg", ".png"] | None:
    """The suffix under which a browser shows the file as our decoder sees it; None when it does not."""
    if data.startswith(_JPEG):
        return None if _TURNED_BY_XMP.search(data) else ".jpg"
    plain = data.startswith(_PNG) and tuple(data[24:26]) in _SHOWN_DEPTHS
    return ".png" if plain and not any(change in data for change in _CHANGES) else None


def as_png(data: bytes, name: str) -> bytes:
    """Our own decode of a file as 8-bit RGB PNG without metadata.

    Args:
        data: The whole file.
        name: What the user calls it, for errors.

    Raises:
        ImageError: It cannot be decoded.
    """
    pixels = load_image(data, name).pixels
    return cv2.imencode(".png", pixels[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def is_same(served: bytes, data: bytes) -> bool:
    """Whether what was served is the file `data`, or the PNG that this or an earlier version made of it."""
    if shown_as(data):
        return served == data
    try:
        return np.array_equal(load_image(served, "").pixels, load_image(data, "").pixels)
    except ImageError:
        return False


def or_refusal(place: Callable[[PublishedImage], str]) -> Callable[[PublishedImage], str | Quarantined]:
    """`place`, with the error of a single image as a value."""

    def placed(image: PublishedImage) -> str | Quarantined:
        try:
            return place(image)
        except ImageError as error:
            return Quarantined(error.name, error.reason)

    return placed


def sorted_out(images: Sequence[PublishedImage], placed: Iterable[str | Quarantined]) -> Published:
    """What became of each image, in their order."""
    pairs = list(zip(images, placed, strict=True))
    urls = {image.key: found for image, found in pairs if isinstance(found, str)}
    return Published(urls, tuple(found for _, found in pairs if isinstance(found, Quarantined)))
