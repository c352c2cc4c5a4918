"""The contact sheet: image, map and masks of the most anomalous images on one PNG."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from integrations.files import write_atomic
from integrations.report import pictures
from integrations.report.entries import ReportEntry, most_anomalous_first
from integrations.report.lettering import font, shortened
from integrations.report.pictures import HeatScale
from saa_core import masks
from saa_core.types import RGB

_TILE = 224
_GAP = 6
_CAPTION = 26
_MARGIN = 20
_ROW = _CAPTION + _TILE + 14
_COLUMN = 3 * _TILE + 2 * _GAP
_ROWS_BEFORE_SECOND_COLUMN = 6
_INK, _SOFT, _PAPER, _BLANK = (26, 28, 30), (98, 103, 109), (255, 255, 255), (241, 241, 238)
_MARK, _TRUTH = (255, 47, 146), (255, 255, 255)


def write_contact_sheet(entries: Iterable[ReportEntry], path: Path, limit: int = 24) -> Path:
    """Write the sheet: for each image its name, score, picture, map, and regions; known masks as a white line.

    Args:
        entries: Any number; the highest scores are shown.
        path: The PNG file; it appears whole or not at all.
        limit: Most images on the sheet, at least 1.

    Returns:
        `path`.

    Raises:
        StoreError: The file cannot be written.
    """
    shown = most_anomalous_first(entries)[:limit]
    scale = pictures.heat_scale(shown)
    columns = 1 if len(shown) <= _ROWS_BEFORE_SECOND_COLUMN else 2
    rows = max(1, -(-len(shown) // columns))
    size = 2 * _MARGIN + columns * (_COLUMN + _MARGIN) - _MARGIN, 2 * _MARGIN + rows * _ROW
    sheet = Image.new("RGB", size, _PAPER)
    for place, entry in enumerate(shown):
        column, row = place % columns, place // columns
        _draw(sheet, _MARGIN + column * (_COLUMN + _MARGIN), _MARGIN + row * _ROW, entry, scale)
    if not shown:
        ImageDraw.Draw(sheet).text((_MARGIN, _MARGIN), "No image has a result.", _SOFT, font(15))
    data = io.BytesIO()
    sheet.save(data, format="PNG", compress_level=1)
    write_atomic(path, data.getvalue())
    return path


def _draw(sheet: Image.Image, left: int, top: int, entry: ReportEntry, scale: HeatScale) -> None:
    _caption(ImageDraw.Draw(sheet), left, top, entry)
    for place, tile in enumerate(_tiles(entry, scale)):
        corner = left + place * (_TILE + _GAP), top + _CAPTION
        sheet.paste(_BLANK, (*corner, corner[0] + _TILE, corner[1] + _TILE))
        if tile is not None:
            middle = corner[0] + (_TILE - tile.shape[1]) // 2, corner[1] + (_TILE - tile.shape[0]) // 2
            sheet.paste(Image.fromarray(tile), middle)


def _caption(draw: ImageDraw.ImageDraw, left: int, top: int, entry: ReportEntry) -> None:
    large, small = font(15), font(13)
    count = len(entry.regions)
    labels = ", ".join(dict.fromkeys(region.label for region in entry.regions))
    right = shortened(f"{count} × {labels}" if count else "no region", 240, small, keep_end=False)
    draw.text((left, top), f"{entry.score:.3f}", _INK, large)
    draw.text((left + 52, top), shortened(entry.name, _COLUMN - 320, large, keep_end=True), _INK, large)
    draw.text((left + _COLUMN, top + 1), right, _SOFT, small, anchor="ra")


def _tiles(entry: ReportEntry, scale: HeatScale) -> tuple[RGB | None, RGB | None, RGB | None]:
    try:
        pixels = entry.image()
        truth = None if entry.truth is None else entry.truth()
    except pictures.UNREADABLE:
        return None, None, None
    picture = pictures.thumbnail(pixels, _TILE)
    values = pictures.load_map(entry)
    return (
        picture,
        None if values is None else pictures.heat(picture, values, scale),
        _with_masks(picture, entry, truth),
    )


def _with_masks(picture: RGB, entry: ReportEntry, truth: NDArray[np.bool_] | None) -> RGB:
    height, width = picture.shape[:2]
    covers = (pictures.shrunk(masks.decode(region.mask), height, width) for region in entry.regions)
    shown = pictures.tinted(picture, covers, _MARK)
    if truth is not None:
        shown[pictures.border(pictures.shrunk(truth, height, width))] = _TRUTH
    return shown
