"""Text on pictures."""

from __future__ import annotations

import itertools
from functools import cache
from importlib.metadata import distribution

from PIL import ImageFont


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib ships: Pillow's own font has no letters but Latin ones, and names do."""
    file = distribution("matplotlib").locate_file("matplotlib/mpl-data/fonts/ttf/DejaVuSans.ttf")
    return ImageFont.truetype(str(file), size)


def shortened(text: str, width: int, letters: ImageFont.FreeTypeFont, keep_end: bool) -> str:
    """Cut to a width in pixels: a path at its start, other text at its end."""
    line = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    if letters.getlength(line) <= width:
        return line
    cuts = (f"…{line[-n:]}" if keep_end else f"{line[:n]}…" for n in itertools.count(min(len(line), width), -1))
    return next(cut for cut in cuts if len(cut) <= 2 or letters.getlength(cut) <= width)


def wrapped(text: str, width: int, letters: ImageFont.FreeTypeFont) -> list[str]:
    """The words of a text on lines of at most a width in pixels; one that is wider alone is cut."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and letters.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(shortened(word, width, letters, keep_end=False))
    return lines
