"""Linear filters by one Fourier transform of the image: each filter reads only the band that it passes.

A filter that passes no frequency above 1 / (2 step) needs no more samples than one per `step` pixels, so its output is
computed from the spectrum cropped to that band. A bank of dozens of filters then costs little more than its finest.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from saa_core.types import FloatMap

_PAD = 48
"""Pixels of mirror image on each side, a multiple of every step; a filter reaching further would see the far side."""
_STEP = 16
"""The largest step."""
_WIDTH = 0.49
_ELONGATION = 0.6
"""Gabor envelope: its standard deviation across, in wavelengths, and that over the one along the wave front."""


class Spectrum:
    """Fourier transform of a picture with mirrored borders.

    Args:
        picture: float32 (h, w).
    """

    def __init__(self, picture: FloatMap) -> None:
        self.size = picture.shape
        self.padded = _padded(picture.shape[0]), _padded(picture.shape[1])
        margins = [(_PAD, padded - side - _PAD) for side, padded in zip(self.size, self.padded, strict=True)]
        self.values = scipy.fft.fft2(np.pad(picture.astype(np.float32, copy=False), margins, mode="symmetric"))

    def gabor(self, wavelength: float, angle: float, step: int) -> FloatMap:
        """Modulus of the response to a complex Gabor filter without mean: how strong a grating is, whatever its phase.

        Args:
            wavelength: Pixels per period.
            angle: Direction of the wave vector in radians, from x towards y.
            step: Pixels per sample of the output, a divisor of 16; at most about half the wavelength.

        Returns:
            float32 (ceil(h / step), ceil(w / step)), each sample at the middle of its step x step block.
        """
        centre = np.array([np.sin(angle), np.cos(angle)]) / wavelength
        shift = round(centre[0] * self.padded[0]), round(centre[1] * self.padded[1])
        transfer = _gabor(self.padded, wavelength, angle, step, shift)
        return self._crop(np.abs(scipy.fft.ifft2(self._band(step, shift) * transfer)), step)

    def ridges(self, width: float, length: float, step: int, angles: int = 8) -> tuple[FloatMap, FloatMap]:
        """Strongest response, over all directions, to a dark and to a bright line.

        The filter is the second derivative of a Gaussian across the line, scale-normalised, and a Gaussian along it.

        Args:
            width: Standard deviation across, pixels.
            length: Standard deviation along, pixels.
            step: Pixels per sample of the output, a divisor of 16.
            angles: Directions, an even number.

        Returns:
            dark, bright: float32 (ceil(h / step), ceil(w / step)), at least 0.
        """
        band, size = self._band(step, (0, 0)), (-(-self.size[0] // step), -(-self.size[1] // step))
        dark, bright = np.zeros(size, np.float32), np.zeros(size, np.float32)
        for transfer in _ridges(self.padded, width, length, step, angles):
            pair = self._crop(scipy.fft.ifft2(band * transfer), step)
            for response in (pair.real, pair.imag):
                np.maximum(dark, -response, out=dark)
                np.maximum(bright, response, out=bright)
        return dark, bright

    def _band(self, step: int, shift: tuple[int, int]) -> NDArray[np.complex64]:
        rows, columns = (_indices(side, step, offset) % side for side, offset in zip(self.padded, shift, strict=True))
        band: NDArray[np.complex64] = self.values[np.ix_(rows, columns)] / np.float32(step**2)
        return band

    def _crop(self, samples: NDArray[Any], step: int) -> NDArray[Any]:
        start = _PAD // step
        return samples[start : start + -(-self.size[0] // step), start : start + -(-self.size[1] // step)]


def _padded(side: int) -> int:
    """The least multiple of the largest step that is quick to transform and has the margins."""
    length = -(-(side + 2 * _PAD) // _STEP)
    return _STEP * int(scipy.fft.next_fast_len(length))


def _indices(side: int, step: int, offset: int) -> NDArray[np.intp]:
    """Positions in a spectrum of `side` samples of the band of side / step samples around `offset`."""
    count = side // step
    positions = np.concatenate([np.arange((count + 1) // 2), np.arange(-(count // 2), 0)])
    return np.asarray(positions + offset, np.intp)


def _frequencies(
    padded: tuple[int, int], step: int, shift: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cycles per pixel down (h, 1) and across (1, w)."""
    down, across = (_indices(side, step, offset) / side for side, offset in zip(padded, shift, strict=True))
    return down[:, None], across[None]


def _to_block_middle(down: NDArray[np.float64], across: NDArray[np.float64], step: int) -> NDArray[np.complex128]:
    """Phase that moves each sample from its block's first pixel to the block's middle."""
    reach = np.pi * (step - 1)
    shift: NDArray[np.complex128] = np.exp(1j * reach * down) * np.exp(1j * reach * across)
    return shift


# Images of a set mostly share a size; the transfer functions then cost nothing after the first image.
@lru_cache(maxsize=256)
def _gabor(
    padded: tuple[int, int], wavelength: float, angle: float, step: int, shift: tuple[int, int]
) -> NDArray[np.complex64]:
    down, across = _frequencies(padded, step, shift)
    along = across * np.cos(angle) + down * np.sin(angle)
    front = (down * np.cos(angle) - across * np.sin(angle)) / _ELONGATION
    spread = 2 * (np.pi * _WIDTH * wavelength) ** 2
    wave = np.exp(-spread * ((along - 1 / wavelength) ** 2 + front**2))
    mean = np.exp(-spread * (along**2 + front**2 + 1 / wavelength**2))
    transfer: NDArray[np.complex64] = ((wave - mean) * _to_block_middle(down, across, step)).astype(np.complex64)
    return transfer


@lru_cache(maxsize=8)
def _ridges(
    padded: tuple[int, int], width: float, length: float, step: int, angles: int
) -> tuple[NDArray[np.complex64], ...]:
    """Two real filters in each transfer function: one gives the real part of the output, one the imaginary part."""
    shift = _to_block_middle(*_frequencies(padded, step, (0, 0)), step)
    filters = list(_ridge_filters(padded, width, length, step, angles))
    return tuple(
        ((first + 1j * second) * shift).astype(np.complex64)
        for first, second in zip(filters[::2], filters[1::2], strict=True)
    )


def _ridge_filters(
    padded: tuple[int, int], width: float, length: float, step: int, angles: int
) -> Iterator[NDArray[np.float64]]:
    down, across = _frequencies(padded, step, (0, 0))
    for angle in np.pi * np.arange(angles) / angles:
        along = across * np.cos(angle) + down * np.sin(angle)
        front = down * np.cos(angle) - across * np.sin(angle)
        # Minus the second derivative: a bright line answers with a positive peak.
        yield (2 * np.pi * width * front) ** 2 * np.exp(-2 * np.pi**2 * ((width * front) ** 2 + (length * along) ** 2))
