"""Features without weights: colour, bands of lightness, local contrast, gratings, and gratings of gratings.

The bank is a scattering transform of two layers (Bruna and Mallat, PAMI 2013), with colour and signed bands beside it,
and four channels that answer to thin lines, which an average over a cell would lose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from saa_core.features.base import FeatureLayout
from saa_core.features.spectrum import Spectrum
from saa_core.prompts import SaliencyPrompt
from saa_core.types import RGB, FloatMap

_VERSION = "1"
_AREA = 384 * 384
_CELL = 4
"""Images are brought to about this many pixels, sides a multiple of two cells; a cell is so many of those pixels."""
_MIN_SIDE = 16
"""Shortest side in those pixels, however long and narrow the image is."""
_WAVELENGTH = 4.5
_LEVELS = 4
_ANGLES = 6
"""Gratings of wavelength 4.5, 9, 18 and 36 pixels at 6 angles; every other angle in the second layer."""
_RIDGES = ((1.4, 3.5), (2.6, 5.0))
"""Width and length of the line filters, pixels."""


@dataclass(frozen=True, slots=True)
class FilterBank:
    """Features of any image without learned weights: float32 (h, w, 68), a cell per about 1/9216 of the image.

    Channels, with lightness and colour in CIELAB / 100 and scales in pixels of an image of 384 x 384:
        6: L, a, b, and the same smoothed;
        10: differences of Gaussians of L, scales 1 to 16, positive and negative part apart;
        2: local standard deviation of L, scales 2 and 6;
        4: contrast of a and b, scales 1 and 3;
        24: Gabor moduli of L; 18: Gabor moduli of those, for gratings whose strength varies;
        4: dark and bright lines, narrow and wide, the maximum in the cell.

    Example:
        >>> FilterBank()(np.zeros((100, 200, 3), np.uint8)).shape
        (68, 136, 68)
    """

    name: str = "filter-bank"

    @property
    def id(self) -> str:
        """Name, version and hash of the settings."""
        settings = repr((_AREA, _CELL, _MIN_SIDE, _WAVELENGTH, _LEVELS, _ANGLES, _RIDGES))
        return f"{self.name}-{_VERSION}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"

    @property
    def layout(self) -> FeatureLayout:
        """58 magnitudes and 4 lines, to be whitened."""
        return FeatureLayout(whiten=True, magnitudes=58, lines=2 * len(_RIDGES))

    def at(self, prompt: SaliencyPrompt, objects: int) -> FilterBank:
        """Itself: the bank has one size."""
        return self

    def __call__(self, image: RGB) -> FloatMap:
        """Features of an image of any size.

        Args:
            image: uint8 (H, W, 3), RGB.

        Returns:
            float32 (h, w, 68); the first 6 channels are signed, the others at least 0.
        """
        lab = cv2.cvtColor(_working_size(image).astype(np.float32) / 255, cv2.COLOR_RGB2Lab) / np.float32(100)
        lightness, *colours = (np.ascontiguousarray(lab[..., channel]) for channel in range(3))
        spectrum = Spectrum(lightness)
        grid = lightness.shape[0] // _CELL, lightness.shape[1] // _CELL
        channels = [*_colour(lightness, colours), *_bands(lightness), *_contrast(lightness, colours)]
        channels += _gratings(spectrum)
        return np.stack([*(_to_grid(channel, grid) for channel in channels), *_lines(spectrum)], axis=-1)


def _working_size(image: RGB) -> RGB:
    """The image at about `_AREA` pixels, each side a multiple of two cells and not under `_MIN_SIDE`."""
    height, width = image.shape[:2]
    factor, unit = (_AREA / (height * width)) ** 0.5, 2 * _CELL
    rows, columns = (max(_MIN_SIDE, unit * round(side * factor / unit)) for side in (height, width))
    smaller = rows < height and columns < width
    return np.asarray(
        cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC), np.uint8
    )


def _to_grid(channel: FloatMap, grid: tuple[int, int]) -> FloatMap:
    method = cv2.INTER_AREA if channel.shape[0] > grid[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(channel, (grid[1], grid[0]), interpolation=method), np.float32)


def _blur(picture: FloatMap, scale: float) -> FloatMap:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), scale, borderType=cv2.BORDER_REFLECT), np.float32)


def _half(picture: FloatMap) -> FloatMap:
    size = (picture.shape[1] + 1) // 2, (picture.shape[0] + 1) // 2
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.float32)


def _colour(lightness: FloatMap, colours: list[FloatMap]) -> list[FloatMap]:
    planes = [lightness, *colours]
    return planes + [_blur(_half(plane), 2) for plane in planes]


def _bands(lightness: FloatMap) -> Iterator[FloatMap]:
    """Both signs of five octaves. A picture is halved once its finest structure is wide enough for that."""
    narrow, scale = lightness, 1.0
    for band in range(5):
        # From the third band on, the narrow one has scale 2 ** (band - 1) >= 2 full-size pixels and bears halving.
        if band >= 2:
            narrow, scale = _half(narrow), 2.0
        wide = _blur(narrow, (scale**2 - (0.0 if band == 0 else (scale / 2) ** 2)) ** 0.5)
        yield np.maximum(narrow - wide, 0)
        yield np.maximum(wide - narrow, 0)
        narrow, scale = wide, 2.0


def _contrast(lightness: FloatMap, colours: list[FloatMap]) -> Iterator[FloatMap]:
    # About the image's mean, since the difference of large squares would be rounding noise.
    centred = lightness - lightness.mean()
    square = centred * centred
    for first, second, scale in ((centred, square, 2.0), (_half(centred), _half(square), 3.0)):
        yield np.sqrt(np.maximum(_blur(second, scale) - _blur(first, scale) ** 2, 0))
    for colour in colours:
        for plane, scale in ((colour, 1.0), (_half(colour), 1.5)):
            yield np.abs(_blur(plane, scale) - _blur(plane, 2 * scale))


def _gratings(spectrum: Spectrum) -> list[FloatMap]:
    first, second = [], []
    for level in range(_LEVELS):
        for number in range(_ANGLES):
            angle = np.pi * number / _ANGLES
            first.append(spectrum.gabor(_WAVELENGTH * 2**level, angle, 2 ** (level + 1)))
            if level < 2 and number % 2 == 0:
                second += _second_layer(first[-1])
    return first + second


def _second_layer(modulus: FloatMap) -> list[FloatMap]:
    spectrum = Spectrum(_half(modulus))
    return [spectrum.gabor(_WAVELENGTH, np.pi * number / _ANGLES, 2) for number in range(0, _ANGLES, 2)]


def _lines(spectrum: Spectrum) -> Iterator[FloatMap]:
    step = _CELL // 2
    for width, length in _RIDGES:
        for response in spectrum.ridges(width, length, step):
            rows, columns = response.shape
            yield response.reshape(rows // 2, 2, columns // 2, 2).max(axis=(1, 3))
