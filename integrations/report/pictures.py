"""From pixels, maps and masks to the small pictures of the report."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from integrations.report.entries import ReportEntry
from saa_core import masks
from saa_core.errors import SaaError
from saa_core.types import RGB, FloatMap

UNREADABLE = (SaaError, OSError)
"""What a loader may raise when a file is no longer what it was during the run."""

JPEG_BYTES = 33_000
"""Most bytes of one picture: 60 cards with two pictures each then stay below 5.3 MB as base64."""

_QUALITIES = (82, 65, 45, 25, 10)
_MOST_PIECES = 40  # of one mask, the largest first
_RAGGED = 8  # runs for each column of its box that a mask with a clear border stays below


@dataclass(frozen=True, slots=True)
class HeatScale:
    """Map values that get the coldest and the hottest colour.

    One scale holds for all pictures of a report: stretched on its own, a good image's noise would look like a defect.
    """

    low: float
    high: float


def heat_scale(entries: Iterable[ReportEntry]) -> HeatScale:
    """From what the background of the images typically has to the highest value of any."""
    backgrounds, tops = [], []
    for entry in entries:
        values = load_map(entry)
        if values is not None:
            backgrounds.append(float(np.median(values[::4, ::4])))
            tops.append(float(values.max()))
    if not tops:
        return HeatScale(0.0, 1.0)
    low, high = float(np.median(backgrounds)), max(tops)
    return HeatScale(low, high) if high > low else HeatScale(0.0, max(high, 1.0))


def load_map(entry: ReportEntry) -> FloatMap | None:
    """The entry's map without infinities, or None where it has none or it cannot be read."""
    try:
        return None if entry.map is None else np.nan_to_num(entry.map(), posinf=0.0, neginf=0.0)
    except UNREADABLE:
        return None


def thumbnail(pixels: RGB, side: int) -> RGB:
    """The picture with its longer side at most `side` pixels; never enlarged."""
    height, width = pixels.shape[:2]
    shrink = min(1.0, side / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def heat(picture: RGB, values: FloatMap, scale: HeatScale) -> RGB:
    """The map in colours over the greyed picture; where the map is low the picture stays readable.

    Args:
        picture: uint8 (H, W, 3).
        values: float32 (h, w), any size.
        scale: Values of the coldest and the hottest colour.

    Returns:
        uint8 (H, W, 3).
    """
    size = picture.shape[1::-1]
    smaller = values.shape[0] > picture.shape[0]
    sized = cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    level = np.rint(np.clip((sized - scale.low) / (scale.high - scale.low), 0.0, 1.0) * 255).astype(np.uint8)
    keep, paint = _heat_paint()
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None]
    return np.asarray(keep[level] * grey + paint[level], np.uint8)


@cache
def _heat_paint() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """For each of 256 levels what is kept of the grey picture (256, 1), and the colour laid over it (256, 3)."""
    cover = np.linspace(0.25, 0.9, 256, dtype=np.float32)[:, None]
    colours = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_INFERNO)[:, 0, ::-1]
    return 0.7 * (1 - cover), np.asarray(cover * colours, np.float32)


def tinted(picture: RGB, covers: Iterable[NDArray[np.bool_]], colour: tuple[int, int, int]) -> RGB:
    """The greyed picture with the masks, bool (H, W) each, filled in a colour that lets it through."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None] * np.full(3, 0.7)
    for cover in covers:
        grey[cover] = 0.35 * grey[cover] + 0.65 * np.array(colour)
    return np.asarray(grey, np.uint8)


def jpeg_uri(pixels: RGB) -> str:
    """The picture inside a `data:` URI, of at most `JPEG_BYTES` unless the lowest quality needs more."""
    data = b""
    for quality in _QUALITIES:
        data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= JPEG_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def outline(mask: masks.Rle, tolerance: float) -> str:
    """The border of a mask as SVG path data, in pixels of the image with pixel centres at whole numbers.

    Args:
        mask: The mask; only its box is decoded.
        tolerance: How far the path may leave the border, in pixels.
    """
    crop, top, left = masks.decode_crop(mask)
    if crop.size == 0:
        return ""
    if mask.counts.size > _RAGGED * crop.shape[1]:
        crop = _closed(crop, tolerance)
    return _path(crop, top, left, tolerance)


def outline_of_pixels(mask: NDArray[np.bool_], tolerance: float) -> str:
    """As `outline`, for bool (H, W)."""
    return _path(mask, 0, 0, tolerance)


def _closed(mask: NDArray[np.bool_], tolerance: float) -> NDArray[np.bool_]:
    """A speckled mask with the gaps closed that are too narrow to see; it may have thousands of pieces to trace."""
    side = 2 * round(4 * tolerance) + 1
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    return np.asarray(closed > 0)


def _path(mask: NDArray[np.bool_], top: int, left: int, tolerance: float) -> str:
    pieces, _ = cv2.findContours(
        np.ascontiguousarray(mask, np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE, offset=(left, top)
    )
    largest = sorted(pieces, key=len, reverse=True)[:_MOST_PIECES]
    rings = (cv2.approxPolyDP(piece, tolerance, closed=True)[:, 0] for piece in largest)
    return "".join("M" + "L".join(f"{x} {y}" for x, y in ring) + "Z" for ring in rings)


def shrunk(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """A mask at a smaller size, bool (height, width); a pixel of which any part is covered counts, so that thin
    scratches stay.
    """
    return np.asarray(cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) > 0)


def border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask, bool (H, W), that touch a pixel outside it."""
    inside = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return np.asarray(mask & ~inside)
