"""Whitening: a set's own covariance as the metric of features that have no natural units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saa_core.types import FloatMap

_SHRINK = 0.05
"""Added to each variance, as a share of the mean variance: directions without variance carry no evidence."""
_TINY = 1e-6


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
        median = np.median(sample, axis=0)
        median = np.maximum(np.where(median > _TINY, median, sample.mean(axis=0)), _TINY)
        compressed = _compress(cells, median).astype(np.float64)
        mean, deviation = compressed.mean(axis=0), compressed.std(axis=0)
        deviation = np.where(deviation > _TINY, deviation, 1)
        standard = (compressed - mean) / deviation
        projection = _inverse_root(standard.T @ standard / len(standard)) / deviation[:, None]
        return cls(median.astype(np.float32), mean.astype(np.float32), projection.astype(np.float32))

    def __call__(self, cells: FloatMap) -> FloatMap:
        """Whitened cells, float32 (n, C)."""
        whitened: FloatMap = (_compress(cells, self.median) - self.mean) @ self.projection
        return whitened


def _compress(cells: FloatMap, median: NDArray[np.floating]) -> FloatMap:
    compressed = cells.astype(np.float32)
    start = cells.shape[1] - len(median)
    np.log1p(np.maximum(compressed[:, start:], 0) / median.astype(np.float32), out=compressed[:, start:])
    return compressed


def _inverse_root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    values, axes = np.linalg.eigh(covariance)
    values = np.maximum(values, 0)
    shrunk = values + _SHRINK * values.mean() + _TINY
    root: NDArray[np.float64] = axes / np.sqrt(shrunk * len(values))
    return root
