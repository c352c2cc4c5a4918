"""Saliency prompts, Eq. 5-7, with the image itself or its other objects as context; `batch` has the set as context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from saa_core.errors import MaskError
from saa_core.masks import Rle
from saa_core.types import BoolMask, FloatMap

_BLOCK = 2**23
"""Similarities held at once, 32 MiB of them, however many cells there are."""


def image_context(features: FloatMap, neighbours: int = 400, *, farthest: bool = False) -> FloatMap:
    """Eq. 5: how far each cell is from its N neighbours in the feature space of its own image.

    Args:
        features: float32 (h, w, C), one feature a cell.
        neighbours: N. The cell itself counts as its own nearest, as in the released program. Capped at h * w.
        farthest: False is the paper: the mean of 1 - cos over the N nearest, in [0, 2]. True is the released program:
            the mean of (1 - cos) / 2 over the N farthest, in [0, 1].

    Returns:
        float32 (h, w). A cell without a feature (all zero) is at distance 1 from every cell.

    Source:
        Eq. 5 of arXiv 2305.10724; the farthest variant as released with it.
    """
    cells = normalise(features).reshape(-1, features.shape[-1])
    count = min(neighbours, len(cells))
    distance = [_mean_distance(cells[rows] @ cells.T, count, farthest) for rows in _blocks(len(cells), len(cells))]
    scale = 0.5 if farthest else 1.0
    return (scale * np.concatenate(distance)).reshape(features.shape[:2]).astype(np.float32)


def object_context(features: FloatMap, objects: Sequence[BoolMask]) -> FloatMap:
    """Eq. 5 among objects: how unlike a cell is to its best match in the other objects of the image.

    Args:
        features: float32 (h, w, C).
        objects: m masks (h, w) on the feature grid; they may overlap, since objects are found without suppression.

    Returns:
        float32 (h, w) in [0, 1]: (1 - max cos) / 2 over the cells of the other objects; 0 outside all objects, and
        everywhere with fewer than two objects that own a cell, since then there is nothing to compare with.
        A cell that two objects share counts, among the other's cells, as one without a feature (cos 0): an object is
        never compared with itself under another box. Of its objects' saliencies a shared cell takes the highest.

    Source:
        The released program's saliency for several objects.
    """
    saliency = np.zeros(features.shape[:2], np.float32)
    cells, cover = normalise(features), np.sum(objects, axis=0)
    for mine in objects:
        others = cover > mine
        if mine.any() and others.any():
            least = 0.0 if (others & mine).any() else -1.0
            distance = _distance_to_best(cells[mine], cells[others & ~mine], least)
            # Never under the 0 it starts from, even where rounding leaves a cosine just above 1.
            saliency[mine] = np.maximum(saliency[mine], distance)
    return saliency


def normalise(features: FloatMap) -> FloatMap:
    """Features of unit length along the last axis; a zero feature stays zero."""
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    unit: FloatMap = (features / np.where(length > 0, length, 1)).astype(np.float32, copy=False)
    return unit


def mean_saliency(masks: Sequence[Rle], saliency: FloatMap) -> NDArray[np.float64]:
    """The mean of Eq. 6, sum r s / sum r, for every mask.

    Args:
        masks: n masks of the image's size.
        saliency: float32 of the same size.

    Returns:
        float64 (n,); 0 for a mask without pixels.

    Raises:
        MaskError: A mask has another size.
    """
    if any(mask.size != saliency.shape for mask in masks):
        raise MaskError(f"masks of another size than their saliency map, {saliency.shape}")
    # Masks are column-major runs, so a sum over a mask is a difference of the column-major running sum.
    running = np.concatenate(([0.0], np.cumsum(saliency.ravel(order="F"), dtype=np.float64)))
    return np.array([_sum_of_runs(mask, running) / max(mask.area, 1) for mask in masks])


def saliency_prompt(mean: NDArray[np.float64], gain: float) -> NDArray[np.float64]:
    """Eq. 6: exp(g * mean saliency) of every region; g = 1 in the paper, 3 in the released program, 0 is no prompt."""
    return np.exp(gain * mean)


def rescore(scores: NDArray[np.float64], prompt: NDArray[np.float64]) -> NDArray[np.float64]:
    """Eq. 7: S_S = p * s. May exceed 1."""
    return scores * prompt


def _blocks(cells: int, others: int) -> Iterator[slice]:
    """Slices of the cells such that a block of similarities, slice x others, stays within `_BLOCK`."""
    rows = max(1, _BLOCK // max(1, others))
    return (slice(start, start + rows) for start in range(0, cells, rows))


def _mean_distance(similarity: FloatMap, count: int, farthest: bool) -> FloatMap:
    cells = similarity.shape[1]
    if count < cells:
        similarity.partition(count if farthest else cells - count, axis=1)
    chosen = similarity[:, :count] if farthest else similarity[:, cells - count :]
    # Rounding may leave the mean of cosines just above 1.
    distance: FloatMap = np.maximum(1 - chosen.mean(axis=1), 0)
    return distance


def _distance_to_best(cells: FloatMap, others: FloatMap, least: float) -> FloatMap:
    """(1 - max cos) / 2 of each cell (n, C) to the others (k, C); the maximum is at least `least`."""
    best = [(cells[rows] @ others.T).max(axis=1, initial=least) for rows in _blocks(len(cells), len(others))]
    distance: FloatMap = 0.5 * (1 - np.concatenate(best))
    return distance


def _sum_of_runs(mask: Rle, running: NDArray[np.float64]) -> float:
    edges = np.cumsum(np.asarray(mask.counts, np.int64))
    starts, ends = edges[0:-1:2], edges[1::2]
    return float((running[ends] - running[starts]).sum())
