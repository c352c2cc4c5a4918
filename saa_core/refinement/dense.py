"""The dense map of the profile `batch` under many sets of weights, cut at every level.

Most bundles that a search judges differ in numbers that this map does not depend on, so what some weights give is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from saa_core.language import GATE, GATE_SLOPE, WITNESSES
from saa_core.refinement.evidence import Dense

Floats = NDArray[np.float64]

_CURVES = 300  # kept for an image
_CELLS = 2**18  # of maps at once: they stay in the cache
_FINE = 4096  # a power of two: the product with it is exact


def levels(dense: Dense, cuts: Floats) -> NDArray[np.intp]:
    """Which of the evidence's levels each cut is.

    Raises:
        ValueError: This evidence has no such level.
    """
    found = np.minimum(np.searchsorted(dense.levels, cuts), dense.levels.size - 1)
    if not np.array_equal(dense.levels[found], cuts):
        raise ValueError(f"a dense map of this evidence is not cut at {np.setdiff1d(cuts, dense.levels)}")
    return np.asarray(found, np.intp)


def curves(dense: Dense, weights: Floats) -> NDArray[np.float32]:
    """Shares of the image at or above each level.

    Args:
        dense: The image.
        weights: float64 (U, P), of the phrases; 0 where one has no evidence.

    Returns:
        float32 (U, levels, 2): all pixels, and the defective ones.
    """
    if len(dense.curves) > _CURVES:
        dense.curves.clear()
    names = [row.tobytes() for row in weights]
    new = {name: place for place, name in enumerate(names) if name not in dense.curves}
    for name, values in zip(new, _maps(dense, weights[list(new.values())]), strict=True):
        dense.curves[name] = _curve(dense, values)
    return np.stack([dense.curves[name] for name in names])


def _maps(dense: Dense, weights: Floats) -> Iterator[NDArray[np.float32]]:
    """The map of `language.fuse` where phrases have evidence, float32 (m,), for each row of the weights (U, P)."""
    quiet, gate = 1 - dense.saliency, np.minimum(GATE + GATE_SLOPE * dense.saliency, np.float32(1))
    size = max(1, _CELLS // max(1, quiet.size))
    for start in range(0, len(weights), size):
        some = weights[start : start + size].astype(np.float32)
        joint = some @ dense.excess
        joint /= np.maximum((some > 0).sum(axis=1, keepdims=True), 1).astype(np.float32)
        np.minimum(joint, 1, out=joint)
        joint *= gate
        np.subtract(1, joint, out=joint)
        joint **= WITNESSES
        joint *= quiet
        yield from np.subtract(1, joint, out=joint)


def _curve(dense: Dense, values: NDArray[np.float32]) -> NDArray[np.float32]:
    # How many levels a value reaches: first by a table of fine steps, of which each holds few levels, then exactly.
    table, beyond, near = _table(dense.levels.astype(np.float32).tobytes())
    reached = table[(values * np.float32(_FINE)).astype(np.intp)]
    for _ in range(near):
        reached += values >= beyond[reached]
    sizes = np.bincount(reached, minlength=beyond.size) * dense.pixel
    truth = np.bincount(reached[dense.defective], dense.truth, beyond.size)
    above = np.stack([sizes, truth], axis=1)[::-1].cumsum(axis=0)[::-1]
    return np.asarray(dense.quiet + above[1:], np.float32)


@cache
def _table(single: bytes) -> tuple[NDArray[np.intp], NDArray[np.float32], int]:
    """For each fine step the levels below it, the levels and infinity, and how many levels one step may hold."""
    found = np.frombuffer(single, np.float32)
    steps = np.arange(_FINE + 1, dtype=np.float32) / np.float32(_FINE)
    near = 1 if np.diff(found, prepend=0).min() > 1 / _FINE else 2
    return np.searchsorted(found, steps, side="right"), np.append(found, np.float32(np.inf)), near
