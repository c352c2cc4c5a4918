"""Whitening: a set's own covariance as the metric of features that have no natural units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saa_core.types import FloatMap

_SHRINK = 0.05
"""Added to the variance along each axis, whose mean is 1: directions without variance carry no evidence."""
_LEAST_MAGNITUDE = 2e-5
_LEAST_DEVIATION = 2e-3
"""Less than this is rounding: half a grey level is 2e-3 of the range that features have by convention, about 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Whitening:
    """Maps features to vectors whose Euclidean distance is about a Mahalanobis distance, 1 per typical difference.

    Magnitudes are compressed by log(1 + x / median) first: their noise is multiplicative.

    Attributes:
        median: float32 (M,), medians of the M magnitudes, which are the last channels.
        mean: float32 (C,), of the channels after compression.
        projection: float32 (C, C), principal axes over their shrunk standard deviations.
    """

    median: FloatMap
    mean: FloatMap
    projection: FloatMap

    @classmethod
    def fit(cls, cells: FloatMap, magnitudes: int) -> Whitening:
        """Fit to a sample.

        Args:
            cells: float32 (n, C), n >= 1; the last `magnitudes` channels are at least 0.
            magnitudes: In [0, C].
        """
        sample = cells[:, cells.shape[1] - magnitudes :]
        middle = np.median(sample, axis=0)
        usual = np.where(middle > _LEAST_MAGNITUDE, middle, sample.mean(axis=0))
        median = np.maximum(usual, _LEAST_MAGNITUDE).astype(np.float32)
        compressed = _compress(cells, median).astype(np.float64)
        mean, deviation = compressed.mean(axis=0), np.hypot(compressed.std(axis=0), _LEAST_DEVIATION)
        standard = (compressed - mean) / deviation
        projection = _inverse_root(standard.T @ standard / len(standard)) / deviation[:, None]
        return cls(median, mean.astype(np.float32), projection.astype(np.float32))

    def __call__(self, cells: FloatMap) -> FloatMap:
        """Whitened cells, float32 (n, C)."""
        return np.asarray((_compress(cells, self.median) - self.mean) @ self.projection, np.float32)


def _compress(cells: FloatMap, median: FloatMap) -> FloatMap:
    compressed: FloatMap = cells.astype(np.float32)
    start = cells.shape[1] - len(median)
    np.log1p(np.maximum(compressed[:, start:], 0) / median, out=compressed[:, start:])
    return compressed


def _inverse_root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    values, axes = np.linalg.eigh(covariance)
    root: NDArray[np.float64] = axes / np.sqrt((np.maximum(values, 0) + _SHRINK) * len(values))
    return root
