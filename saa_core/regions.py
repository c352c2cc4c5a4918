"""Regions of a map: boxes around what stands out, at whatever level it does, and how far it stands out."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from saa_core.maps import resize
from saa_core.masks import Rle
from saa_core.saliency import mean_saliency
from saa_core.types import Boxes, FloatMap

_GRID = 200
"""Longest side of the grid on which a map is cut into components; saliency has no finer structure than that."""
_LEVELS = 12
_LOWEST = 0.1
"""Levels at which a map is cut, from this share of the way between its median and its maximum."""
_MIN_CELLS = 4
"""Smallest component, in cells of the grid."""
_NEWS = 1.3
"""A component is proposed beside the one that holds it, when that one is this much larger."""
_GROWTH = 0.08
"""Added to every side of a box as a share of it: saliency is blunt, and a cut at a level trims a region."""
_RING = 0.25
_FRAME = 0.5
"""Width of the ring that a box, and that a mask, is compared with, in square roots of its area."""


def propose_boxes(saliency: FloatMap, size: tuple[int, int], limit: int = 20) -> Boxes:
    """Boxes around the connected components of a map, cut at several levels.

    Components of different levels hold one another (the component tree; Matas et al., BMVC 2002, find stable regions in
    it). They come in the order of their prominence, mean inside less mean of the surroundings, which reach as far as
    the component is wide. Adding a constant to the map, or scaling it, changes nothing.

    Args:
        saliency: float32 (h, w).
        size: (H, W) of the image, pixels.
        limit: Most boxes to return.

    Returns:
        float32 (n, 4), XYXY pixels of the image, most prominent first, n <= limit. A constant map has none.

    Example:
        >>> peak = np.zeros((100, 100), np.float32)
        >>> peak[40:50, 20:60] = 1
        >>> propose_boxes(peak, (200, 200)).tolist()
        [[33.599998474121094, 78.4000015258789, 126.4000015258789, 101.5999984741211]]
    """
    grid = _reduced(saliency)
    start, top = np.median(grid), grid.max()
    if not top > start:
        return np.zeros((0, 4), np.float32)
    levels = start + (top - start) * np.linspace(_LOWEST, 1, _LEVELS, endpoint=False)
    boxes, scores = _components(grid, levels)
    best = np.argsort(-scores, kind="stable")[:limit]
    return _in_image(boxes[best], grid.shape, size)


def prominence(saliency: FloatMap, boxes: Boxes, size: tuple[int, int]) -> NDArray[np.float32]:
    """How far a map stands out in each box: mean inside less mean of the ring around it.

    Args:
        saliency: float32 (h, w) in [0, 1].
        boxes: float32 (n, 4), XYXY pixels of the image.
        size: (H, W) of the image, pixels.

    Returns:
        float32 (n,) in [0, 1]; 0 where the ring is at least as high.
    """
    grid = _reduced(saliency)
    scale = np.array([grid.shape[1] / size[1], grid.shape[0] / size[0]] * 2)
    cells = np.rint(boxes * scale).astype(np.intp)
    cells = np.clip(cells, 0, np.array([grid.shape[1] - 1, grid.shape[0] - 1] * 2))
    cells[:, 2:] = np.maximum(cells[:, 2:], cells[:, :2] + 1)
    area = np.prod(cells[:, 2:] - cells[:, :2], axis=1).astype(np.float64)
    return np.clip(_contrast(grid, cells, area, _sums(grid, cells), _RING), 0, 1).astype(np.float32)


def contrast(regions: Sequence[Rle], saliency: FloatMap) -> NDArray[np.float64]:
    """How far a map stands out in each region: its mean in the region less its mean in a frame around it.

    The frame reaches half the square root of the region's area beyond the region's box. As a score of nested or
    neighbouring regions it finds the one that fits; the mean inside alone prefers the tip of every peak.

    Args:
        regions: n masks of one size (H, W).
        saliency: float32 (h, w), of the same field of view.

    Returns:
        float64 (n,); for a map in [0, 1] in [-1, 1]. 0 for a region without pixels or without surroundings.
    """
    if not regions:
        return np.zeros(0)
    full = resize(saliency, regions[0].size)
    area = np.array([region.area for region in regions], np.float64)
    boxes = np.array([region.box for region in regions], np.intp)
    return _contrast(full, boxes, area, area * mean_saliency(regions, full), _FRAME)


def _reduced(saliency: FloatMap) -> FloatMap:
    """The map on a grid of at most _GRID cells a side."""
    height, width = saliency.shape
    scale = min(1.0, _GRID / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    single = saliency.astype(np.float32, copy=False)
    return cv2.resize(single, size, interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)


def _components(grid: FloatMap, levels: NDArray[np.floating]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Boxes of the components, XYXY in cells, and their prominence, without near copies of their holder."""
    holders = np.full(grid.shape, np.inf)  # at each cell, the area of the smallest component chosen so far
    boxes: list[NDArray[np.intp]] = [np.zeros((0, 4), np.intp)]
    scores: list[NDArray[np.float64]] = [np.zeros(0)]
    for level in levels:
        cut = (grid >= level).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(cut, connectivity=8)
        area = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
        held = np.empty(count)
        held[labels.ravel()] = holders.ravel()  # a component lies in one holder: any of its cells tells which
        chosen = (area >= _MIN_CELLS) & (held >= _NEWS * area)
        chosen[0] = False
        holders = np.where(chosen, area, held)[labels]
        total = np.bincount(labels.ravel(), grid.ravel(), count)
        first, extent = stats[chosen, :2], stats[chosen, 2:4]
        boxes.append(np.hstack([first, first + extent]).astype(np.intp))
        scores.append(_contrast(grid, boxes[-1], area[chosen], total[chosen], 1.0))
    return np.concatenate(boxes), np.concatenate(scores)


def _contrast(
    grid: FloatMap,
    boxes: NDArray[np.intp],
    area: NDArray[np.float64],
    total: NDArray[np.float64],
    reach: float,
) -> NDArray[np.float64]:
    """Mean of regions less the mean around them; 0 without a region or without anything around it.

    Args:
        grid: float32 (h, w).
        boxes: (n, 4), the regions' boxes, XYXY in cells.
        area: (n,), cells of the regions.
        total: (n,), sums of the map over the regions.
        reach: How far around its box a region's surroundings go, in square roots of its area.
    """
    width = np.maximum(2, np.rint(reach * np.sqrt(area)))[:, None] * np.array([-1, -1, 1, 1])
    around = np.clip(boxes + width.astype(np.intp), 0, np.array([grid.shape[1], grid.shape[0]] * 2))
    rest = np.prod(around[:, 2:] - around[:, :2], axis=1) - area
    difference = total / np.maximum(area, 1) - (_sums(grid, around) - total) / np.maximum(rest, 1)
    compared: NDArray[np.float64] = np.where((area > 0) & (rest > 0), difference, 0.0)
    return compared


def _sums(grid: FloatMap, boxes: NDArray[np.intp]) -> NDArray[np.float64]:
    """Sum of the map over each box of cells, by the integral image."""
    integral = cv2.integral(grid, sdepth=cv2.CV_64F)
    x0, y0, x1, y1 = boxes.T
    sums: NDArray[np.float64] = integral[y1, x1] - integral[y0, x1] - integral[y1, x0] + integral[y0, x0]
    return sums


def _in_image(cells: NDArray[np.intp], grid: tuple[int, ...], size: tuple[int, int]) -> Boxes:
    """Boxes of grid cells, grown by _GROWTH and clipped, in pixels of the image."""
    growth = _GROWTH * np.tile(cells[:, 2:] - cells[:, :2], 2) * np.array([-1, -1, 1, 1])
    scale = np.array([size[1] / grid[1], size[0] / grid[0]] * 2)
    boxes: Boxes = np.clip((cells + growth) * scale, 0, np.array([size[1], size[0]] * 2)).astype(np.float32)
    return boxes
