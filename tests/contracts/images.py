"""Images that every model must survive, and what else all models have in common."""

import numpy as np
import pytest

from saa_core.types import RGB, FloatMap

SHAPES = [(1, 1), (8, 8), (1, 10), (12, 120), (120, 12), (60, 90)]
"""Height and width."""


def noise(shape: tuple[int, int], seed: int = 0) -> RGB:
    """Every pixel another colour, read-only: a model that writes into its input fails at once."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    pixels.setflags(write=False)
    return pixels


def constant(shape: tuple[int, int], value: int) -> RGB:
    """One colour, read-only."""
    pixels = np.full((*shape, 3), value, np.uint8)
    pixels.setflags(write=False)
    return pixels


def peak(shape: tuple[int, int] = (24, 36)) -> FloatMap:
    """A saliency map with a bright block in the middle, read-only, in [0, 1]."""
    values = np.full(shape, 0.1, np.float32)
    values[shape[0] // 3 : shape[0] // 2, shape[1] // 3 : shape[1] // 2] = 0.9
    values.setflags(write=False)
    return values


IMAGES = [pytest.param(noise(shape), id=f"noise {shape[0]} x {shape[1]}") for shape in SHAPES] + [
    pytest.param(constant(shape, value), id=f"{value} everywhere, {shape[0]} x {shape[1]}")
    for shape in SHAPES
    for value in (0, 128, 255)
]
