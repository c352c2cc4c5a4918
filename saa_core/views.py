"""Views of a set: each a grid size and a metric, with a few cells of every reference image and a calibrated scale."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from saa_core.features.base import FeatureLayout
from saa_core.maps import resize
from saa_core.mutual import Neighbours, nearest_images, nearest_own
from saa_core.saliency import normalise
from saa_core.types import FloatMap
from saa_core.whitening import Whitening

_TAIL = 0.995
"""Calibration: novelty 0 is the set's median, novelty 1 this quantile."""
_LEAST_SPAN = 0.02
"""Distances are about 1, and exact to about 3e-4: in a set without differences, rounding must not fill the scale."""
_LEAST_LENGTH = 0.05
"""A whitened vector shorter than this has no direction."""
_CEILING = 4.0
_OWN_LEVEL = 0.3
"""So much of an image's median novelty is its own level, not a defect."""
_SMOOTH = 0.7
"""Cells."""


@dataclass(frozen=True, slots=True)
class View:
    """One way to compare cells.

    Attributes:
        cells: The grid is reduced to at most about so many.
        references: Cells kept of each reference image.
        unit: Compare directions (cosine), not positions.
        local: Weight of the local outlier term.
        weight: Weight of the view's novelty.
        tile: Cells of one tile's grid, if images are seen in tiles: `cells` is then for each so many; else 0.
    """

    cells: int
    references: int
    unit: bool
    local: float
    weight: float
    tile: int = 0

    def most(self, cells: int) -> int:
        """So many cells at most has the reduced grid of one that has `cells`."""
        return self.cells * max(1, round(cells / self.tile)) if self.tile else self.cells


WHITENED = (View(6400, 60, False, 0.7, 0.4), View(2304, 120, False, 0.7, 0.4), View(2304, 120, True, 0.0, 0.2))
"""A fine and a coarse grid; the third sees what differs in kind but not in strength, as on objects of many parts."""
PLAIN = (View(2304, 200, True, 0.7, 1.0),)


def views_of(layout: FeatureLayout) -> tuple[View, ...]:
    """The views that features of a layout are compared in."""
    return tuple(replace(view, tile=layout.tile) for view in (WHITENED if layout.whiten else PLAIN))


@dataclass(frozen=True, slots=True, eq=False)
class FittedView:
    """A view and what it knows of the set.

    Attributes:
        view: The view.
        metric: The whitening, if features get whitened.
        cells: float32 (N, R, D), the references.
        level: float32 (N, R), each reference's own distance to its neighbours.
        span: float32 (2,), the scores that are novelty 0 and 1.
    """

    view: View
    metric: Whitening | None
    cells: FloatMap
    level: FloatMap
    span: FloatMap

    @classmethod
    def fit(cls, view: View, sample: FloatMap, layout: FeatureLayout) -> FittedView:
        """From the features of the references, float32 (N, R, C)."""
        flat = sample.reshape(-1, sample.shape[-1])
        metric = Whitening.fit(flat, layout.magnitudes) if layout.whiten else None
        cells = _vectors(flat, view, metric).reshape(*sample.shape[:2], -1)
        found = [_neighbours(own, cells, number) for number, own in enumerate(cells)]
        level = np.stack([near.distance for near in found])
        scores = np.stack([_outlier(near, level, view.local) for near in found])
        middle, tail = np.quantile(scores, [0.5, _TAIL])
        return cls(view, metric, cells, level, np.array([middle, max(tail, middle + _LEAST_SPAN)], np.float32))

    def novelty(self, features: FloatMap, own: int | None) -> FloatMap:
        """Novelty of an image, `own` its number among the references: float32 of the features' grid, in [0, 4]."""
        grid = reduce_grid(features, self.view.most(features.shape[0] * features.shape[1]))
        vectors = _vectors(grid.reshape(-1, grid.shape[-1]), self.view, self.metric)
        score = _outlier(_neighbours(vectors, self.cells, own), self.level, self.view.local)
        scaled = ((score - self.span[0]) / (self.span[1] - self.span[0])).reshape(grid.shape[:2])
        smooth = np.asarray(cv2.GaussianBlur(scaled, (0, 0), _SMOOTH, borderType=cv2.BORDER_REFLECT), np.float32)
        smooth -= np.float32(_OWN_LEVEL * np.median(smooth))
        height, width = features.shape[:2]
        return np.clip(resize(smooth, (height, width)), 0, _CEILING)


def sample_cells(features: FloatMap, view: View, key: str) -> FloatMap:
    """At most `view.references` cells of an image, float32 (R, C), drawn by its key in random order."""
    grid = reduce_grid(features, view.most(features.shape[0] * features.shape[1]))
    flat = grid.reshape(-1, grid.shape[-1])
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    return flat[np.random.default_rng(seed).permutation(len(flat))[: view.references]]


def reduce_grid(features: FloatMap, cells: int) -> FloatMap:
    """The same field of view in at most about `cells` cells: smoothed, then averaged over the area of each new cell.

    Args:
        features: float32 (h, w, C).
        cells: Returned as it is, if it has no more.
    """
    height, width = features.shape[:2]
    step = (height * width / cells) ** 0.5
    if step <= 1:
        return features
    rows, columns = _reduction(height, step), _reduction(width, step)
    reduced: FloatMap = np.tensordot(rows, columns @ features, axes=(1, 0))
    return reduced


@lru_cache(maxsize=64)
def _reduction(side: int, step: float) -> FloatMap:
    """Weights (new side, side) of a Gaussian of half a step, then the mean over each new cell."""
    count = max(1, round(side / step))
    edges = np.linspace(0, side, count + 1)
    left, right = edges[:-1, None], edges[1:, None]
    cell = np.arange(side)
    overlap = np.clip(np.minimum(right, cell + 1) - np.maximum(left, cell), 0, None) * (count / side)
    weights: FloatMap = gaussian_filter1d(overlap, step / 2, axis=1, mode="reflect").astype(np.float32)
    return weights


def _vectors(cells: FloatMap, view: View, metric: Whitening | None) -> FloatMap:
    if metric is None:
        return normalise(cells) if view.unit else cells
    vectors = metric(cells)
    if view.unit:
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _LEAST_LENGTH)
    return vectors


def _neighbours(vectors: FloatMap, references: FloatMap, own: int | None) -> Neighbours:
    """In the other images, if there are at least two; else in the image itself."""
    images, size, _ = references.shape
    if images - (own is not None) >= 2:
        return nearest_images(vectors, references, own)
    found = nearest_own(vectors, references[own or 0])
    return Neighbours(found.distance, found.references + size * (own or 0))


def _outlier(near: Neighbours, level: NDArray[np.float32], local: float) -> FloatMap:
    """Distance less `local` times the mean level of the neighbours."""
    score: FloatMap = near.distance - np.float32(local) * level.ravel()[near.references].mean(axis=1)
    return score
