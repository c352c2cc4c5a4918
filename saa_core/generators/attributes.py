"""What can be measured of a defect that words name: lines, spots, areas, blotches, roughness and colour.

An attribute is a dense map of contrast: how much darker, redder, rougher ... than its surroundings or than most of the
image a pixel is. Contrast is divided by the square root of the image's own level of it, halfway between absolute
contrast (faint texture counts as little as it looks) and relative contrast (a noisy surface hides a faint defect), and
by a constant per attribute, so that the strongest per cent of an unblemished surface measures about 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from saa_core.maps import resize
from saa_core.types import RGB, FloatMap

WORK_AREA = 400 * 400
"""Pixels that attributes are measured on; lengths below are in these pixels."""
FLOOR = 5.0
"""Contrast that is always visible, in CIELAB units; keeps noise of an empty image from counting."""
HUES = {"red": 30.0, "orange": 60.0, "yellow": 95.0, "green": 140.0, "blue": 275.0, "purple": 320.0, "brown": 65.0}
"""CIELAB hue angles in degrees, after the usual colour terms (Berlin and Kay's basic terms on the a-b plane)."""
_CONE = 0.7
"""Slope of the cone about a hue: 0.7 accepts 55 degrees to either side, falling towards the rim."""
_UNITS = {"line": 1.3, "spot": 2.7, "area": 3.4, "blotch": 1.9, "rough": 1.8, "colour": 2.6, "hue": 0.8}
"""Typical level of each contrast: median over the development products of the calm images' 99 % level, rounded."""
_ORIENTATIONS = 12


class Attributes:
    """The attribute maps of one image, each measured when it is first asked for.

    Example:
        >>> import numpy as np
        >>> image = np.full((64, 64, 3), 200, np.uint8)
        >>> image[30:32, 8:56] = 60
        >>> bool(Attributes(image)["dark_line"].max() > Attributes(image)["bright_line"].max())
        True
    """

    def __init__(self, image: RGB) -> None:
        lab = _lab(image)
        self._l, self._a, self._b = (np.ascontiguousarray(lab[..., i]) for i in range(3))
        self._maps: dict[str, FloatMap] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of every map; the field of view is the image's."""
        return self._l.shape[0], self._l.shape[1]

    def __getitem__(self, name: str) -> FloatMap:
        """The map of an attribute of `NAMES`: float32 (h, w), at least 0, about 1 where nothing is wrong.

        Raises:
            KeyError: No attribute has that name.
        """
        if name not in self._maps:
            self._maps[name] = _MEASURES[name](self)
        return self._maps[name]

    def _line(self, polarity: int) -> FloatMap:
        return self._lines[polarity]

    @cached_property
    def _lines(self) -> tuple[FloatMap, FloatMap]:
        """Dark and bright lines: of 1 to 8 pixels width, straight over at least 16 to 64 pixels."""
        fine, middle, coarse = _ridges(self._l, 1.2, 4), _ridges(self._l, 2.0, 5), _ridges(_half(self._l), 2.0, 5)
        scales = (fine, middle, tuple(resize(ridge, self.shape) for ridge in coarse))
        dark, bright = (np.maximum.reduce([_contrast(ridge[i], ridge[i], "line") for ridge in scales]) for i in (0, 1))
        return dark, bright

    def _spot(self, polarity: int) -> FloatMap:
        """Compact marks of up to 17 pixels: what a closing (dark) or opening (bright) removes, less its lines."""
        sign = 1 - 2 * polarity
        small, large = (_residue(sign * self._l, radius) for radius in (4, 8))
        return np.maximum(_contrast(small, small, "spot"), _contrast(large, large, "spot"))

    def _area(self, polarity: int) -> FloatMap:
        """Darker or brighter than a wide neighbourhood's median, or than the image's median."""
        smooth, sign = _gauss(self._l, 1.5), 1 - 2 * polarity
        near, far = (sign * (reference - smooth) for reference in (self._surroundings, np.median(self._l)))
        return np.maximum(*(_contrast(np.maximum(d, 0), np.abs(d), "area") for d in (near, far)))

    @cached_property
    def _surroundings(self) -> FloatMap:
        quarter = cv2.resize(self._l, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        steps = np.clip(quarter * 2.55, 0, 255).astype(np.uint8)  # the median filter for large windows is for bytes
        return resize(_single(cv2.medianBlur(steps, 31)) / np.float32(2.55), self.shape)

    def _blotch(self) -> FloatMap:
        """Lightness that differs over about 16 pixels from its surroundings over about 64."""
        difference = np.abs(_gauss(self._l, 8) - _gauss(self._l, 32))
        return _contrast(difference, difference, "blotch")

    @cached_property
    def _deviation(self) -> FloatMap:
        mean, square = _gauss(self._l, 3), _gauss(self._l * self._l, 3)
        return _single(np.sqrt(np.maximum(square - mean * mean, 0)))

    def _rough(self, sign: int) -> FloatMap:
        """More (+1) or less (-1) local variation of lightness than most of the image has."""
        excess = np.maximum(sign * (self._deviation - np.median(self._deviation)), 0)
        return _contrast(excess, excess, "rough")

    @cached_property
    def _chroma(self) -> tuple[FloatMap, FloatMap]:
        return _gauss(self._a, 2), _gauss(self._b, 2)

    def _colour(self) -> FloatMap:
        """Distance on the a-b plane from the image's median colour."""
        a, b = self._chroma
        distance = np.hypot(a - np.median(a), b - np.median(b))
        return _contrast(distance, distance, "colour")

    def _hue(self, degrees: float) -> FloatMap:
        """How much more of a hue than the image's median colour has."""
        a, b = self._chroma
        strength = _cone(a, b, degrees)
        excess = np.maximum(strength - _cone(np.median(a), np.median(b), degrees), 0)
        return _contrast(excess, np.abs(a) + np.abs(b), "hue")


_MEASURES: dict[str, Callable[[Attributes], FloatMap]] = {
    "dark_line": lambda at: at._line(0),
    "bright_line": lambda at: at._line(1),
    "dark_spot": lambda at: at._spot(0),
    "bright_spot": lambda at: at._spot(1),
    "dark_area": lambda at: at._area(0),
    "bright_area": lambda at: at._area(1),
    "blotch": Attributes._blotch,
    "rough": lambda at: at._rough(1),
    "smooth": lambda at: at._rough(-1),
    "colour": Attributes._colour,
    **{hue: partial(Attributes._hue, degrees=degrees) for hue, degrees in HUES.items()},
}
NAMES = tuple(_MEASURES)
"""Every attribute."""


def _lab(image: RGB) -> FloatMap:
    """CIELAB at the working size, aspect kept: L in [0, 100], a and b within about [-127, 127]."""
    height, width = image.shape[:2]
    scale = (WORK_AREA / (height * width)) ** 0.5
    size = max(8, round(width * scale)), max(8, round(height * scale))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return _single(cv2.cvtColor(resized.astype(np.float32) / 255, cv2.COLOR_RGB2LAB))


def _contrast(values: FloatMap, scale: FloatMap, unit: str) -> FloatMap:
    level = float(np.quantile(scale[::3, ::3], 0.95)) + FLOOR
    return _single(values / (np.sqrt(level) * _UNITS[unit]))


def _ridges(light: FloatMap, sigma: float, doublings: int) -> tuple[FloatMap, FloatMap]:
    """Dark and bright ridges: second derivative across a direction, averaged over 2^doublings pixels along it."""
    smooth = _gauss(light, sigma)
    one, second, first = (np.array(k, np.float32) for k in ([1], [1, -2, 1], [-0.5, 0, 0.5]))
    xx, yy, xy = (
        _single(cv2.sepFilter2D(smooth * (sigma * sigma), -1, kx, ky))
        for kx, ky in ((second, one), (one, second), (first, first))
    )
    dark, bright = np.zeros_like(light), np.zeros_like(light)
    for angle in np.arange(_ORIENTATIONS) * np.pi / _ORIENTATIONS:
        c, s = float(np.cos(angle)), float(np.sin(angle))
        ridge = _along(xx * (s * s) - xy * (2 * s * c) + yy * (c * c), (c, s), doublings, _mean)
        np.maximum(dark, ridge, out=dark)
        np.maximum(bright, -ridge, out=bright)
    return dark, bright


def _residue(light: FloatMap, radius: int) -> FloatMap:
    """Black top-hat by a disc, minus the part of it that a line of 4 radii fits into."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    residue = _single(cv2.morphologyEx(light, cv2.MORPH_BLACKHAT, disc))
    lines = np.zeros_like(light)
    doublings = int(np.log2(4 * radius))
    for angle in np.arange(8) * np.pi / 8:
        direction = float(np.cos(angle)), float(np.sin(angle))
        eroded = _along(residue, direction, doublings, np.minimum)
        np.maximum(lines, _along(eroded, direction, doublings, np.maximum), out=lines)
    return _single(np.maximum(residue - lines, 0))


def _mean(x: FloatMap, y: FloatMap) -> FloatMap:
    return (x + y) * np.float32(0.5)


def _along(
    values: FloatMap, direction: tuple[float, float], doublings: int, combine: Callable[[FloatMap, FloatMap], FloatMap]
) -> FloatMap:
    """Combine 2^doublings neighbours along a direction, centred: pairs, then pairs of pairs, ..."""
    for step in range(doublings):
        reach = 2.0**step / 2
        dx, dy = round(reach * direction[0] + 1e-6), round(reach * direction[1] + 1e-6)
        ex, ey = round(-reach * direction[0]), round(-reach * direction[1])
        values = combine(_shift(values, ex, ey), _shift(values, dx, dy))
    return values


def _shift(values: FloatMap, dx: int, dy: int) -> FloatMap:
    """Values at (x + dx, y + dy), mirrored at the borders."""
    height, width = values.shape
    reach = max(abs(dx), abs(dy))
    padded = _single(cv2.copyMakeBorder(values, reach, reach, reach, reach, cv2.BORDER_REFLECT_101))
    return padded[reach + dy : reach + dy + height, reach + dx : reach + dx + width]


def _cone(a: FloatMap | np.floating, b: FloatMap | np.floating, degrees: float) -> FloatMap:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return _single(np.maximum(a * c + b * s - _CONE * np.abs(b * c - a * s), 0))


def _gauss(values: FloatMap, sigma: float) -> FloatMap:
    """Gaussian blur; wide ones on a coarser grid."""
    factor = 1 if sigma <= 4 else 2 if sigma <= 8 else 4
    height, width = values.shape
    small = max(1, width // factor), max(1, height // factor)
    coarse = values if factor == 1 else cv2.resize(values, small, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(coarse, (0, 0), sigma / factor, borderType=cv2.BORDER_REFLECT_101)
    return resize(_single(blurred), (height, width))


def _half(values: FloatMap) -> FloatMap:
    return _single(cv2.resize(values, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))


def _single(values: NDArray[Any]) -> FloatMap:
    """What OpenCV and NumPy call an array of some number type, as the float32 that it is."""
    return np.asarray(values, np.float32)
