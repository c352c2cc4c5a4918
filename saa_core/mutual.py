"""Mutual saliency: a cell is anomalous when the other images of its set have nothing like it.

Source: MuSc, Li et al., ICLR 2024: the mean of the lowest part of a cell's distances to the other images, each the
distance to that image's most similar cell. The local outlier term follows Breunig et al., SIGMOD 2000: a cell far from
its neighbours is less remarkable where these are far from theirs too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saa_core.types import FloatMap

_BLOCK = 1 << 20
"""Distances held at once."""
SHARE = 0.1
"""Part of the other images that counts: a defect may recur in the rest of them."""
OWN_SHARE = 0.05
"""Part of an image's own cells that counts where there is no set."""


class Neighbours(NamedTuple):
    """What each of P cells is compared with.

    Attributes:
        distance: float32 (P,), mean Euclidean distance to the k nearest references.
        references: intp (P, k), which these are, as positions among all references.
    """

    distance: FloatMap
    references: NDArray[np.intp]


def nearest_images(cells: FloatMap, references: FloatMap, own: int | None = None, share: float = SHARE) -> Neighbours:
    """Mutual score: the mean over the k images with the nearest cell, k = max(2, share of the images compared with).

    Args:
        cells: float32 (P, D).
        references: float32 (N, R, D), R cells of each of N images.
        own: The reference image that the cells belong to, which is left out.
        share: In [0, 1].

    Raises:
        ValueError: There are fewer than two images to compare with.
    """
    others = [image for image in range(len(references)) if image != own]
    if len(others) < 2:
        raise ValueError("mutual saliency compares an image with at least two others")
    size, count = references.shape[1], max(2, round(share * len(others)))

    def choose(square: FloatMap) -> tuple[FloatMap, NDArray[np.intp]]:
        best = square.reshape(len(square), -1, size).argmin(axis=2) + size * np.arange(len(references))
        return _smallest(square, best[:, others], count)

    return _search(cells, references.reshape(-1, references.shape[2]), choose)


def nearest_own(cells: FloatMap, references: FloatMap, share: float = OWN_SHARE) -> Neighbours:
    """The same inside one image: the mean over its k most similar cells after the first, k = max(1, share of them).

    The first may be the cell itself, so it never counts; all cells of the image are thus judged alike.

    Args:
        cells: float32 (P, D).
        references: float32 (R, D), R cells of the image.
        share: In [0, 1].
    """
    count = min(1 + max(1, round(share * len(references))), len(references))

    def choose(square: FloatMap) -> tuple[FloatMap, NDArray[np.intp]]:
        best = np.argpartition(square, count - 1, axis=1)[:, :count]
        found, index = _smallest(square, best, count)
        order = found.argsort(axis=1, kind="stable")[:, min(1, count - 1) :]
        return np.take_along_axis(found, order, axis=1), np.take_along_axis(index, order, axis=1)

    return _search(cells, references, choose)


def _smallest(square: FloatMap, candidates: NDArray[np.intp], count: int) -> tuple[FloatMap, NDArray[np.intp]]:
    """The `count` smallest of each row's candidate columns, values and columns."""
    values = np.take_along_axis(square, candidates, axis=1)
    chosen = np.argpartition(values, count - 1, axis=1)[:, :count]
    return np.take_along_axis(values, chosen, axis=1), np.take_along_axis(candidates, chosen, axis=1)


def _search(
    cells: FloatMap, references: FloatMap, choose: Callable[[FloatMap], tuple[FloatMap, NDArray[np.intp]]]
) -> Neighbours:
    """Neighbours by a choice among distances; block by block, since all distances at once would fill the memory."""
    rows = max(1, _BLOCK // len(references))
    # With a 1 behind each cell and the squared length behind each reference, one product gives distances.
    crossed = np.vstack([-2 * references.T, (references**2).sum(axis=1)])
    joined = np.hstack([cells, np.ones((len(cells), 1), np.float32)])
    distance = np.empty(len(cells), np.float32)
    index = []
    for start in range(0, len(cells), rows):
        block = cells[start : start + rows]
        # Squared distance to a reference less the cell's own squared length, which does not change any choice.
        found, chosen = choose(joined[start : start + rows] @ crossed)
        found = np.sqrt(np.maximum(found + (block**2).sum(axis=1)[:, None], 0))
        distance[start : start + rows] = found.mean(axis=1)
        index.append(chosen)
    return Neighbours(distance, np.concatenate(index))
