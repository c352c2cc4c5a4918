"""The picture of an explanation: every candidate on the photograph, coloured by what became of it, beside the map."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from integrations.files import write_atomic
from integrations.report import pictures
from integrations.report.lettering import font, shortened, wrapped
from integrations.report.pictures import HeatScale
from saa_core import masks
from saa_core.answers import verdict
from saa_core.explanation import RULES, ExplainedCandidate, Explanation
from saa_core.masks import Rle
from saa_core.rules import Rule
from saa_core.types import RGB

_SIDE = 720
_WIDE = 1.6  # wider images have the map below the photograph, not beside it
_GAP, _MARGIN = 16, 20
_INK, _SOFT, _PAPER, _DARK, _WHITE = (26, 28, 30), (98, 103, 109), (255, 255, 255), (20, 20, 20), (255, 255, 255)
_SHOWN = (255, 47, 146)
# Colours that stay apart for eyes with any colour weakness (Okabe and Ito 2008).
_FALLEN: dict[Rule, tuple[int, int, int]] = {
    "score floor": (170, 170, 170),
    "property": (213, 94, 0),
    "suppression": (86, 180, 233),
    "region floor": (240, 228, 66),
    "top K": (0, 190, 140),
}
_FAINT, _FAINTNESS = {"suppression", "score floor"}, 0.55

_Box = tuple[float, float, float, float]
_Colour = tuple[int, int, int]


def write_explanation(
    explanation: Explanation, pixels: RGB, path: Path, name: str, experts: Sequence[Rle] = ()
) -> Path:
    """Write the picture.

    Args:
        explanation: Of the image.
        pixels: The photograph, uint8 (H, W, 3).
        path: The PNG file; it appears whole or not at all.
        name: What the user calls the image.
        experts: Masks that an expert left, drawn in white; of the image's size.

    Returns:
        `path`.

    Raises:
        StoreError: The file cannot be written.
    """
    photograph = _enlarged(pixels)
    scale = photograph.shape[0] / pixels.shape[0]
    heat = pictures.heat(photograph, explanation.result.heat(), HeatScale(0.0, 1.0))
    for picture in (photograph, heat):
        for mask in experts:
            _outline(picture, mask, _WHITE, 2)
    _outline_candidates(photograph, explanation.candidates)
    for region in explanation.result.regions:
        _outline(heat, region.mask, _SHOWN, 1)
    left = Image.fromarray(photograph)
    _number(left, explanation.candidates, scale)
    data = io.BytesIO()
    _sheet(left, Image.fromarray(heat), explanation, name, bool(experts)).save(data, format="PNG", compress_level=6)
    write_atomic(path, data.getvalue())
    return path


def _enlarged(pixels: RGB) -> RGB:
    """The photograph, enlarged or reduced until its longer side is `_SIDE`, or twice that where the map goes below."""
    height, width = pixels.shape[:2]
    scale = _SIDE / max(height, width) * (2 if width > _WIDE * height else 1)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, size, interpolation=method), np.uint8)


# ------------------------------------------------------------------------------------------------------------ outlines


def _outline(picture: RGB, mask: Rle, colour: _Colour, width: int) -> None:
    """Draw a mask's border with a dark edge, which shows on any ground."""
    size = picture.shape[1::-1]
    covered = cv2.resize(masks.decode(mask).view(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    rings, _ = cv2.findContours(covered, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    smooth = [cv2.approxPolyDP(ring, 1.0, closed=True) for ring in rings]
    cv2.polylines(picture, smooth, True, _DARK, width + 2, cv2.LINE_AA)
    cv2.polylines(picture, smooth, True, colour, width, cv2.LINE_AA)


def _outline_candidates(picture: RGB, candidates: Sequence[ExplainedCandidate]) -> None:
    """Those that got furthest are drawn last, on top; doubles and what no phrase describes are many, and faint."""
    faint = picture.copy()
    for candidate in reversed(candidates):
        if candidate.removed_by in _FAINT:
            _outline(faint, candidate.mask, _colour(candidate), 1)
    cv2.addWeighted(faint, _FAINTNESS, picture, 1 - _FAINTNESS, 0, dst=picture)
    for candidate in reversed(candidates):
        if candidate.removed_by not in _FAINT:
            _outline(picture, candidate.mask, _colour(candidate), 2 if candidate.rank is None else 3)


def _colour(candidate: ExplainedCandidate) -> _Colour:
    return _SHOWN if candidate.removed_by is None else _FALLEN[candidate.removed_by]


def _number(picture: Image.Image, candidates: Sequence[ExplainedCandidate], scale: float) -> None:
    """Numbers at the candidates' corners, as far as there is room; the first ones go first."""
    draw, taken = ImageDraw.Draw(picture), list[_Box]()
    for candidate in candidates:
        letters = font(17 if candidate.rank is not None else 12)
        text = str(candidate.number)
        width, height = letters.getlength(text) + 6, float(letters.size + 4)
        places = (place for place in _corners(candidate, scale, width, height) if _fits(place, picture.size, taken))
        place = next(places, None)
        if place is not None:
            taken.append(place)
            draw.rectangle(place, fill=_colour(candidate), outline=_DARK)
            light = candidate.rank is not None
            middle = (place[0] + place[2]) / 2, (place[1] + place[3]) / 2
            draw.text(middle, text, _WHITE if light else _DARK, letters, anchor="mm")


def _corners(candidate: ExplainedCandidate, scale: float, width: float, height: float) -> Iterator[_Box]:
    """Where a number of this size may stand: at the box's corners, outside first."""
    x0, y0, x1, y1 = (side * scale for side in candidate.box)
    for y in (y0 - height - 1, y1 + 1, y0 + 1, y1 - height - 1):
        for x in (x0, x1 - width):
            yield x, y, x + width, y + height


def _fits(place: _Box, size: tuple[int, int], taken: Sequence[_Box]) -> bool:
    x0, y0, x1, y1 = place
    inside = x0 >= 0 and y0 >= 0 and x1 < size[0] and y1 < size[1]
    return inside and all(x1 < left or right < x0 or y1 < top or bottom < y0 for left, top, right, bottom in taken)


# --------------------------------------------------------------------------------------------------------------- sheet


def _sheet(left: Image.Image, right: Image.Image, explanation: Explanation, name: str, expert: bool) -> Image.Image:
    """Answer, name, photograph, map and legend on one sheet."""
    wide = left.width > _WIDE * left.height
    width = left.width if wide else 2 * left.width + _GAP
    width = max(width, _SIDE)
    answer = wrapped(verdict(explanation), width, font(19))
    top = _MARGIN + 26 * len(answer) + 30
    second = (_MARGIN, top + left.height + _GAP) if wide else (_MARGIN + left.width + _GAP, top)
    below = second[1] + left.height + 14
    entries = list(_entries(explanation, expert))
    rows = _flow(entries, width)
    sheet = Image.new("RGB", (width + 2 * _MARGIN, below + 26 * (1 + rows[-1][1]) + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(answer):
        draw.text((_MARGIN, _MARGIN + 26 * number), line, _INK, font(19))
    where = "below" if wide else "on the right"
    about = f"{name}   ·   bundle {explanation.result.bundle}   ·   {where} the anomaly map, black is 0, yellow 1"
    draw.text((_MARGIN, top - 26), shortened(about, width, font(14), keep_end=False), _SOFT, font(14))
    for picture, (x, y) in ((left, (_MARGIN, top)), (right, second)):
        sheet.paste(picture, (x, y))
        draw.rectangle((x - 1, y - 1, x + picture.width, y + picture.height), outline=_SOFT)
    for (colour, text), (start, row) in zip(entries, rows, strict=True):
        _entry(draw, (_MARGIN + start, below + 26 * row), colour, text)
    return sheet


def _entries(explanation: Explanation, expert: bool) -> Iterator[tuple[_Colour, str]]:
    """Colour and words of each kind of outline that is there."""
    count = {rule: sum(each.removed_by == rule for each in explanation.candidates) for rule in RULES}
    words: dict[Rule, str] = {
        "top K": f"not among the best {explanation.bundle.confidence.top_k}",
        "region floor": f"confidence under {explanation.floor:.2f}",
        "suppression": "doubles a better one",
        "property": "wrong size or place (Eq. 4)",
        "score floor": "no phrase describes it",
    }
    yield _SHOWN, f"shown: {len(explanation.result.regions)}"
    yield from ((_FALLEN[rule], f"{text}: {count[rule]}") for rule, text in words.items() if count[rule])
    if expert:
        yield _WHITE, "an expert's masks"


def _flow(entries: Sequence[tuple[_Colour, str]], width: int) -> list[tuple[float, int]]:
    """Place and row of each entry, as many in a row as fit."""
    x, row, places = 0.0, 0, []
    for _, text in entries:
        length = 30 + font(15).getlength(text) + 24
        if x and x + length > width:
            x, row = 0.0, row + 1
        places.append((x, row))
        x += length
    return places


def _entry(draw: ImageDraw.ImageDraw, corner: tuple[float, float], colour: _Colour, text: str) -> None:
    x, y = corner
    draw.rectangle((x, y + 3, x + 20, y + 17), fill=colour, outline=_DARK)
    draw.text((x + 30, y), text, _INK, font(15))
