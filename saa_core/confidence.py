"""Confidence prompts, Eq. 8-9: the K best regions, and the anomaly map that they make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from saa_core import masks as rle
from saa_core.masks import Rle
from saa_core.types import FloatMap


def top_k(scores: NDArray[np.float64], k: int | None) -> NDArray[np.intp]:
    """Eq. 8: rows of the K highest scores, best first; equal scores keep their order.

    Args:
        scores: float64 (n,).
        k: K; None keeps all.
    """
    order = np.argsort(-scores, kind="stable")
    return order if k is None else order[:k]


def anomaly_map(
    masks: Sequence[Rle],
    scores: NDArray[np.float64],
    size: tuple[int, int],
    form: Literal["mean", "shrunk"] = "mean",
) -> FloatMap:
    """Eq. 9: the mean score of the regions that cover a pixel.

    Args:
        masks: Region masks of the image's size.
        scores: float64 (n,), their scores after Eq. 7.
        size: (H, W) of the image.
        form: `mean` is sum r s / sum r, 0 where nothing covers the pixel; `shrunk` is the released program's
            sum r s / (1 + sum r).

    Returns:
        float32 (H, W), in the range of the scores.
    """
    total, cover = np.zeros(size, np.float64), np.zeros(size, np.float64)
    for mask, score in zip(masks, scores, strict=True):
        inside = rle.decode(mask)
        total[inside] += score
        cover[inside] += 1
    return (total / (1 + cover if form == "shrunk" else np.maximum(cover, 1))).astype(np.float32)


def confidence(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores >= 0 as confidences in [0, 1) in the same order: s / (1 + s). Eq. 7 may exceed 1, a confidence may not."""
    return scores / (1 + scores)


def set_floor(best: NDArray[np.float64], floor: NDArray[np.float64]) -> NDArray[np.float64]:
    """The floor of a set: a bundle's own, lowered where a set has little contrast, so that its strangest tenth shows.

    Args:
        best: float64 (..., n), confidence of each image's best region, 0 without one.
        floor: float64 (...), the bundle's region floor, in [0, 1].

    Returns:
        The 90 % quantile of `best`, each at least half of `floor`, but at most `floor`. Ours, not the paper's.
    """
    # What is under the half cannot be shown, and is known only as that where masks are made lazily.
    known = np.maximum(best, np.asarray(floor / 2)[..., None])
    tenth = np.quantile(known, 0.9, axis=-1) if best.shape[-1] else floor
    return np.asarray(np.clip(tenth, floor / 2, floor), np.float64)


def suppress(masks: Sequence[Rle], scores: NDArray[np.float64], overlap: float) -> NDArray[np.bool_]:
    """Greedy suppression of duplicates and of outlines inside outlines, which IoU would leave.

    Args:
        masks: n masks of one size.
        scores: float64 (n,); of two duplicates the one with the higher score stays, of equal ones the first.
        overlap: A mask that shares more than this part of the smaller of the two with a kept, better one goes; 1 keeps
            all.

    Returns:
        bool (n,): which masks stay.
    """
    return suppressors(masks, scores, overlap) < 0


def suppressors(masks: Sequence[Rle], scores: NDArray[np.float64], overlap: float) -> NDArray[np.intp]:
    """Which kept, better mask removes each mask in `suppress`, the best of them: intp (n,), -1 for those that stay."""
    by = np.full(len(masks), -1, np.intp)
    if overlap >= 1 or len(masks) < 2:
        return by
    shared = rle.containment(masks, masks)
    doubles = np.maximum(shared, shared.T) > overlap
    np.fill_diagonal(doubles, False)
    for row in top_k(scores, None):
        if by[row] < 0:
            # A kept, better mask cannot be among them: this one would not have stayed.
            by[doubles[row] & (by < 0)] = row
    return by
