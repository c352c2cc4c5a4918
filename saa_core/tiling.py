"""Large images in tiles: what is small in the whole image is large in one of its tiles.

Networks and filters see an image at a size of their own, so a scratch of ten pixels in a photograph of twelve
megapixels is gone before they look. Each of the three models can be wrapped: it then sees the whole image and its
tiles, and what it finds comes back in coordinates of the image, once. An image that is not larger than one tile is seen
as ever.

    generator   boxes of all views, cut pieces put together, duplicates dropped; evidence stitched
    refiner     each box in the smallest view that shows it with its surroundings
    extractor   features of the tiles stitched into one finer grid, the whole image's averaged in

One view is looked at after the other, and crops are views of the image's memory: beside the image and one model's own
needs, memory holds a float32 grid of at most 128 MiB and boxes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from saa_core import masks
from saa_core.features.base import FeatureExtractor, FeatureLayout
from saa_core.generators.base import Proposals, RegionGenerator, Request
from saa_core.masks import Rle
from saa_core.prompts import SaliencyPrompt
from saa_core.refiners.base import Refined, RegionRefiner
from saa_core.saliency import normalise
from saa_core.types import RGB, BoolMask, Boxes, FloatMap, Query

Window = tuple[int, int, int, int]
"""y0, x0, y1, x1 in pixels, maximum exclusive."""
_Grid = NDArray[np.float16] | FloatMap

_LEAST_SIDE = 16
_MAP = 200
"""Cells along the longer side of a tile's saliency map, at least: as fine as a whole image's."""
_EVIDENCE = 2**18
"""Cells of a stitched evidence map at most, half a MiB a phrase; untiled ones have about 40 000."""
_VALUES = 2**25
"""Values of a stitched feature grid at most, 128 MiB of float32."""
_CONTEXT = 0.5
"""Weight of the whole image's features beside the tile's."""
_SEAM = 0.01
"""A box that comes this near to an inner side of its tile is cut there; part of the tile's side."""
_AGREE = 0.3
"""Two boxes are pieces of one region if, where both tiles look, their IoU is at least this."""
_SAME = 0.6
"""Boxes of different views with at least this IoU are one region."""
_HELD = 0.8
"""A cut piece of which at least this part is in a better box of whoever saw more of it is no region of its own."""
_MARGIN = 0.4
"""A view shows a box well with so much around it, part of the box's longer side."""
_OUTWARDS = np.array([-1, -1, 1, 1], np.float32)


@dataclass(frozen=True, slots=True)
class Tiling:
    """How an image is cut into tiles.

    Attributes:
        side: Side of a tile in pixels, at least 16.
        overlap: Neighbouring tiles share at least this part of their side, in [0, 0.5]. A region that is smaller than
            the overlap is whole in one tile.

    Raises:
        ValueError: A number is out of its range.

    Example:
        >>> Tiling(100, 0.2).windows(90, 170)
        ((0, 0, 90, 100), (0, 70, 90, 170))
        >>> Tiling(100).windows(100, 100)
        ()
    """

    side: int
    overlap: float = 0.2

    def __post_init__(self) -> None:
        if self.side < _LEAST_SIDE:
            raise ValueError(f"tiles need a side of at least {_LEAST_SIDE} pixels, not {self.side}")
        if not 0 <= self.overlap <= 0.5:
            raise ValueError(f"tiles overlap by 0 to 0.5 of their side, not by {self.overlap:g}")

    @property
    def tag(self) -> str:
        """What it adds to a model's id, such as "-tile1024-0.2"."""
        return f"-tile{self.side}-{self.overlap:g}"

    def windows(self, height: int, width: int) -> tuple[Window, ...]:
        """The tiles of an image, row by row; none, if it is not larger than one.

        All are of one size: `side`, or the image's own where that is less. They are spread evenly.
        """
        if max(height, width) <= self.side:
            return ()
        return tuple((y0, x0, y1, x1) for y0, y1 in self._spans(height) for x0, x1 in self._spans(width))

    def _spans(self, length: int) -> list[tuple[int, int]]:
        rest, step = length - self.side, self.side - math.ceil(self.side * self.overlap)
        if rest <= 0:
            return [(0, length)]
        count = -(-rest // step)
        return [(rest * place // count, rest * place // count + self.side) for place in range(count + 1)]


# ------------------------------------------------------------------------------------------------------------ generator


class TiledGenerator:
    """A generator that looks at the whole image and at its tiles.

    The inspected object is looked for in the whole image alone: a tile shows it in part.

    Evidence is stitched from the tiles, since what a tile sees of a small defect is the point of it, averaged where
    they overlap; the whole image's joins by the maximum, as attributes of one phrase do, for what is larger than a
    tile. It has at most 2**18 cells: a phrase costs half a MiB, whatever the size of the image.

    Args:
        inner: The generator.
        tiling: The tiles.
    """

    def __init__(self, inner: RegionGenerator, tiling: Tiling) -> None:
        self.inner, self.tiling = inner, tiling

    @property
    def name(self) -> str:
        """The inner one's."""
        return self.inner.name

    @property
    def id(self) -> str:
        """The inner one's, and the tiling."""
        return self.inner.id + self.tiling.tag

    @property
    def reads_set(self) -> bool:
        """As the inner one."""
        return self.inner.reads_set

    def parts(self, query: Query) -> tuple[Query, ...]:
        """As the inner one: tiles of a part depend on no other part."""
        return self.inner.parts(query)

    def __call__(self, requests: Sequence[Request]) -> list[Proposals]:
        """Propose boxes; see `RegionGenerator`. The inner generator is called once, with all views of all requests.

        Requests that share an image share its tiles too.
        """
        crops: dict[tuple[int, Window], RGB] = {}
        views = [self._views(request, crops) for request in requests]
        found = self.inner([view for each in views for view in each])
        ends = np.cumsum([0, *(len(each) for each in views)])
        return [
            self._joined(request, found[start:end])
            for request, (start, end) in zip(requests, pairwise(ends), strict=True)
        ]

    def _views(self, request: Request, crops: dict[tuple[int, Window], RGB]) -> list[Request]:
        """The whole image, then its tiles; the whole alone, where only the object is asked for."""
        height, width = request.image.shape[:2]
        if request.query.object is not None and not request.query.phrases:
            return [request]
        query = replace(request.query, object=None)
        views = [request]
        for window in self.tiling.windows(height, width):
            crop = crops.setdefault((id(request.image), window), _crop(request.image, window))
            seen = _crop_map(request.saliency, window, (height, width)) if self.reads_set else request.saliency
            views.append(Request(crop, query, seen))
        return views

    def _joined(self, request: Request, found: Sequence[Proposals]) -> Proposals:
        whole = found[0]
        if len(found) == 1:
            return whole
        size = request.image.shape[0], request.image.shape[1]
        windows = self.tiling.windows(*size)
        frames, reach = _frames(windows, size), _SEAM * self.tiling.side
        pieces = _united(_pieces(found, frames, reach), frames, reach)
        rows = _distinct(pieces)
        return Proposals(
            boxes=pieces.boxes[rows],
            scores=pieces.scores[rows],
            evidence=_evidence(found, windows, size),
            unknown_words=whole.unknown_words,
            peaks=None if pieces.peaks is None else pieces.peaks[rows],
            object_boxes=whole.object_boxes,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces:
    """Boxes that V views saw: the whole image and its tiles.

    Attributes:
        boxes: float32 (n, 4), XYXY pixels of the image.
        scores: float32 (n, P).
        peaks: float32 (n,), or None.
        views: bool (n, V), who saw the box.
        cut: bool (n, 4), its sides that are where a tile ends and the image does not.
    """

    boxes: Boxes
    scores: NDArray[np.float32]
    peaks: NDArray[np.float32] | None
    views: BoolMask
    cut: BoolMask


def _pieces(found: Sequence[Proposals], frames: Boxes, reach: float) -> _Pieces:
    view = np.repeat(np.arange(len(found)), [len(each.boxes) for each in found])
    frame = frames[view]
    boxes = np.concatenate([each.boxes for each in found]) + frame[:, [0, 1, 0, 1]]
    # A detector may guess beyond what it sees; the next tile knows.
    boxes = np.where(view[:, None] > 0, _meet(boxes, frame), boxes).astype(np.float32)
    peaks = [each.peaks for each in found if each.peaks is not None]
    return _Pieces(
        boxes=boxes,
        scores=np.concatenate([each.scores for each in found]),
        peaks=np.concatenate(peaks) if peaks else None,
        views=view[:, None] == np.arange(len(found)),
        cut=((boxes - frame) * _OUTWARDS >= -reach) & (frame != frames[0]),
    )


def _united(pieces: _Pieces, frames: Boxes, reach: float) -> _Pieces:
    """Pieces of one region as one box around all of them, with the best of their scores."""
    groups = _groups(_pairs(pieces, frames, reach), pieces.views)
    order = np.array([row for group in groups for row in group], np.intp)
    sizes = np.array([len(group) for group in groups], np.intp)
    starts = np.cumsum(sizes) - sizes
    outer = pieces.boxes[order] * _OUTWARDS
    hull = np.maximum.reduceat(outer, starts)
    reaches = outer == np.repeat(hull, sizes, axis=0)
    return _Pieces(
        boxes=hull * _OUTWARDS,
        scores=np.maximum.reduceat(pieces.scores[order], starts),
        peaks=None if pieces.peaks is None else np.maximum.reduceat(pieces.peaks[order], starts),
        views=np.logical_or.reduceat(pieces.views[order], starts),
        cut=np.logical_or.reduceat(pieces.cut[order] & reaches, starts),
    )


def _pairs(pieces: _Pieces, frames: Boxes, reach: float) -> list[tuple[int, int]]:
    """Cut pieces and the boxes that go on where they are cut, those first that agree best on what both views see."""
    boxes, view, label = pieces.boxes, pieces.views.argmax(axis=1), _labels(pieces)
    pairs: list[tuple[float, int, int]] = []
    for row in np.flatnonzero(pieces.cut.any(axis=1)):
        goes_on = (((boxes - boxes[row]) * _OUTWARDS > reach) & pieces.cut[row]).any(axis=1)
        agreement = _iou(_meet(boxes[row], frames[view]), _meet(boxes, frames[view[row]]))
        good = goes_on & (agreement >= _AGREE) & (view != view[row]) & (label == label[row])
        pairs += [(-float(agreement[other]), int(row), int(other)) for other in np.flatnonzero(good)]
    return [(row, other) for _, row, other in sorted(pairs)]


def _groups(pairs: Iterable[tuple[int, int]], views: BoolMask) -> list[list[int]]:
    """All rows, those of a pair in one group; a view has at most one in a group, since it tells its own boxes apart."""
    home = [[row] for row in range(len(views))]
    seen = [set(np.flatnonzero(row).tolist()) for row in views]
    for row, other in pairs:
        group, joining = home[row], home[other]
        if seen[group[0]].isdisjoint(seen[joining[0]]):
            seen[group[0]] |= seen[joining[0]]
            group += joining
            for member in joining:
                home[member] = group
    return [group for row, group in enumerate(home) if group[0] == row]


def _distinct(pieces: _Pieces) -> list[int]:
    """Rows that stay, best first: no duplicate of a better one from other views, no cut piece of a better one.

    A cut piece may lie in a larger box of the whole image, which shows less of it than its tile; that one says nothing.
    """
    boxes, views, label = pieces.boxes, pieces.views, _labels(pieces)
    area, cut = _area(boxes), pieces.cut.any(axis=1)
    gone, kept = np.zeros(len(boxes), np.bool_), list[int]()
    for row in np.argsort(-pieces.scores.max(axis=1, initial=0), kind="stable").tolist():
        if gone[row]:
            continue
        kept.append(row)
        mine = np.flatnonzero(views[row])
        apart = ~views[:, mine].any(axis=1)
        gone |= apart & (_iou(boxes, boxes[row]) >= _SAME)
        if mine.size > 1 or mine[0] > 0:
            inside = _area(_meet(boxes, boxes[row])) >= _HELD * area
            gone |= cut & inside & (label == label[row]) & (apart | (mine.size > 1))
    return kept


def _labels(pieces: _Pieces) -> NDArray[np.intp]:
    """The phrase that describes each box best, intp (n,); 0 without phrases."""
    return pieces.scores.argmax(axis=1) if pieces.scores.shape[1] else np.zeros(len(pieces.boxes), np.intp)


def _evidence(
    found: Sequence[Proposals], windows: Sequence[Window], size: tuple[int, int]
) -> NDArray[np.float16] | None:
    grids = [np.moveaxis(each.evidence, 0, -1) for each in found if each.evidence is not None]
    if not grids:
        return None
    whole, *tiles = grids
    fine = _stitched(tiles, windows, size, _EVIDENCE * whole.shape[-1])
    np.maximum(fine, _resampled(whole, fine.shape), out=fine)
    return np.ascontiguousarray(np.moveaxis(fine, -1, 0), np.float16)


# -------------------------------------------------------------------------------------------------------------- refiner


class TiledRefiner:
    """A refiner that sees each box in the smallest view that shows it with its surroundings: a tile, or all.

    Only views with boxes are looked at, one after the other, and a mask leaves its view as run-lengths: no stack of
    masks of the image's size is ever held.

    Args:
        inner: The refiner.
        tiling: The tiles.
    """

    def __init__(self, inner: RegionRefiner, tiling: Tiling) -> None:
        self.inner, self.tiling = inner, tiling

    @property
    def name(self) -> str:
        """The inner one's."""
        return self.inner.name

    @property
    def id(self) -> str:
        """The inner one's, and the tiling."""
        return self.inner.id + self.tiling.tag

    @property
    def reads_set(self) -> bool:
        """As the inner one."""
        return self.inner.reads_set

    def embed(self, image: RGB) -> FloatMap | None:
        """The inner one's embeddings of the whole image and of each tile, stacked: float32 (1 + tiles, ...).

        SAM's take 4 MiB a view. Without tiles, the inner one's embedding itself.
        """
        whole = self.inner.embed(image)
        windows = self.tiling.windows(*image.shape[:2])
        if whole is None or not windows:
            return whole
        stack = np.empty((1 + len(windows), *whole.shape), np.float32)
        stack[0] = whole
        for place, window in enumerate(windows, 1):
            stack[place] = self.inner.embed(_crop(image, window))
        return stack

    def __call__(self, image: RGB, boxes: Boxes, saliency: FloatMap, embedding: FloatMap | None = None) -> Refined:
        """Refine every box; see `RegionRefiner`. Without an embedding only views with boxes are embedded."""
        size = image.shape[0], image.shape[1]
        windows = self.tiling.windows(*size)
        if not windows:
            return self.inner(image, boxes, saliency, embedding)
        home = _homes(boxes, _frames(windows, size))
        found, quality = [masks.empty(*size)] * len(boxes), np.zeros(len(boxes), np.float32)
        for view in np.unique(home).tolist():
            rows = np.flatnonzero(home == view)
            window = windows[view - 1] if view else (0, 0, *size)
            refined = self._in_view(
                image, window, boxes[rows], saliency, None if embedding is None else embedding[view]
            )
            quality[rows] = refined.quality
            for row, mask in zip(rows.tolist(), refined.masks, strict=True):
                found[row] = _put_back(mask, window, size)
        return Refined(tuple(found), quality)

    def _in_view(
        self, image: RGB, window: Window, boxes: Boxes, saliency: FloatMap, embedding: FloatMap | None
    ) -> Refined:
        y0, x0 = window[:2]
        size = image.shape[0], image.shape[1]
        seen = _crop_map(saliency, window, size) if self.reads_set else saliency
        return self.inner(_crop(image, window), boxes - np.array([x0, y0, x0, y0], np.float32), seen, embedding)


def _homes(boxes: Boxes, frames: Boxes) -> NDArray[np.intp]:
    """The view that each box is refined in, intp (n,): the tile around whose middle it is with its margin, or 0."""
    margin = _MARGIN * (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True)
    needed = _meet(boxes + margin * _OUTWARDS, frames[0])
    room = ((frames[1:] - needed[:, None]) * _OUTWARDS).min(axis=2)
    return np.where(room.max(axis=1) >= 0, 1 + room.argmax(axis=1), 0)


def _put_back(mask: Rle, window: Window, size: tuple[int, int]) -> Rle:
    if mask.size == size or not mask.area:
        return mask if mask.size == size else masks.empty(*size)
    crop, top, left = masks.decode_crop(mask)
    return masks.encode_crop(crop, window[0] + top, window[1] + left, *size)


# ------------------------------------------------------------------------------------------------------------ extractor


class TiledExtractor:
    """An extractor whose grid is as fine as one tile's, over the whole image.

    Tiles are averaged where they overlap, each the less the nearer its border is, since filters see mirrored pixels
    there. The features of the whole image are averaged in with half the weight: they tell what is larger than a tile,
    and where in the product a cell is. To join channel to channel instead would double them, and with them all that is
    stored and compared. Features that are compared by cosine are of unit length before they are averaged.

    The grid has at most 2**25 values (128 MiB); with many channels it is therefore coarser than a tile's.

    Args:
        inner: The extractor.
        tiling: The tiles.
    """

    def __init__(self, inner: FeatureExtractor, tiling: Tiling) -> None:
        self.inner, self.tiling = inner, tiling

    @property
    def name(self) -> str:
        """The inner one's."""
        return self.inner.name

    @property
    def id(self) -> str:
        """The inner one's, and the tiling."""
        return self.inner.id + self.tiling.tag

    @cached_property
    def layout(self) -> FeatureLayout:
        """The inner one's, and how many cells its grid of a tile has, which one empty tile tells."""
        side = self.tiling.side
        rows, columns, _ = self.inner(np.zeros((side, side, 3), np.uint8)).shape
        return replace(self.inner.layout, tile=rows * columns)

    def at(self, prompt: SaliencyPrompt, objects: int) -> TiledExtractor:
        """The same tiles, seen as the bundle wants it; itself where the inner one has no such settings."""
        inner = self.inner.at(prompt, objects)
        return self if inner is self.inner else TiledExtractor(inner, self.tiling)

    def __call__(self, image: RGB) -> FloatMap:
        """Features of an image; see `FeatureExtractor`. Tiles are looked at one after the other."""
        size = image.shape[0], image.shape[1]
        windows = self.tiling.windows(*size)
        whole = self.inner(image)
        if not windows:
            return whole
        fine = _stitched((self._comparable(self.inner(_crop(image, w))) for w in windows), windows, size, _VALUES)
        fine += np.float32(_CONTEXT) * _resampled(self._comparable(whole), fine.shape)
        fine /= np.float32(1 + _CONTEXT)
        return fine

    def _comparable(self, features: FloatMap) -> FloatMap:
        return features if self.inner.layout.whiten else normalise(features)


# ------------------------------------------------------------------------------------------------------- crops and maps


def _crop(image: RGB, window: Window) -> RGB:
    """The window's pixels, in the image's own memory."""
    y0, x0, y1, x1 = window
    return image[y0:y1, x0:x1]


def _crop_map(values: FloatMap, window: Window, size: tuple[int, int]) -> FloatMap:
    """What a map says of a window of its image (H, W): float32 (h, w), bilinear, not coarser than the map."""
    scale = values.shape[0] / size[0], values.shape[1] / size[1]
    y0, x0, y1, x1 = window[0] * scale[0], window[1] * scale[1], window[2] * scale[0], window[3] * scale[1]
    finer = max(1.0, _MAP / max(y1 - y0, x1 - x0))
    down = _sampling(y0, y1, values.shape[0], math.ceil((y1 - y0) * finer))
    across = _sampling(x0, x1, values.shape[1], math.ceil((x1 - x0) * finer))
    return np.asarray(down @ values @ across.T, np.float32)


def _stitched(tiles: Iterable[_Grid], windows: Sequence[Window], size: tuple[int, int], most: int) -> FloatMap:
    """One grid of all tiles, their weighted mean where they overlap.

    Args:
        tiles: (h, w, C) of each window, all of one shape; taken one at a time.
        windows: The tiles.
        size: (H, W) of the image.
        most: Values of the grid at most, about.

    Returns:
        float32 (h', w', C), as fine as the tiles or as `most` allows.
    """
    total: FloatMap = np.zeros(0, np.float32)
    weight: FloatMap = total
    for window, tile in zip(windows, tiles, strict=True):
        if not weight.size:
            total = np.zeros(_grid(tile.shape, window, size, most), np.float32)
            weight = np.zeros(total.shape[:2], np.float32)
        (top, bottom, down), (left, right, across) = (
            _place(window[axis], window[axis + 2], size[axis], tile.shape[axis], total.shape[axis]) for axis in (0, 1)
        )
        tent = np.minimum(_ramp(bottom - top)[:, None], _ramp(right - left))
        total[top:bottom, left:right] += tent[..., None] * _sampled(tile, down, across)
        weight[top:bottom, left:right] += tent
    total /= weight[..., None]
    return total


def _grid(tile: tuple[int, ...], window: Window, size: tuple[int, int], most: int) -> tuple[int, int, int]:
    """Shape of the stitched grid."""
    y0, x0, y1, x1 = window
    height, width = tile[0] * size[0] / (y1 - y0), tile[1] * size[1] / (x1 - x0)
    scale = min(1.0, (most / max(1, height * width * tile[2])) ** 0.5)
    return max(1, round(height * scale)), max(1, round(width * scale)), tile[2]


def _place(start: int, end: int, size: int, cells: int, count: int) -> tuple[int, int, FloatMap]:
    """The first and last of the grid's `count` cells whose centres a tile shows, and how its own cells give them."""
    step = size / count
    first, last = math.ceil(start / step - 0.5), math.ceil(end / step - 0.5)
    scale = cells / (end - start)
    return first, last, _sampling((first * step - start) * scale, (last * step - start) * scale, cells, last - first)


def _resampled(grid: _Grid, shape: tuple[int, ...]) -> FloatMap:
    """A grid over the same field of view with another number of cells."""
    down, across = (_sampling(0, old, old, new) for old, new in zip(grid.shape[:2], shape[:2], strict=True))
    return _sampled(grid, down, across)


def _sampled(grid: _Grid, down: FloatMap, across: FloatMap) -> FloatMap:
    # Two large products: a product for each row would be many small ones.
    lower = np.tensordot(down, grid.astype(np.float32, copy=False), axes=(1, 0))
    return np.asarray(np.tensordot(across, lower, axes=(1, 1)).swapaxes(0, 1), np.float32)


def _sampling(start: float, end: float, cells: int, count: int) -> FloatMap:
    """Weights float32 (count, cells) of places spread evenly from `start` to `end`, in cells, along one axis.

    Bilinear with half-cell centres and edges repeated; places wider than a cell average over as much.
    """
    step = (end - start) / max(1, count)
    centres = start + (np.arange(count) + 0.5) * step - 0.5
    weights = np.clip(1 - np.abs(centres[:, None] - np.arange(cells)) / max(1.0, step), 0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _ramp(count: int) -> FloatMap:
    """Distance of each cell to the nearer end."""
    return np.asarray(np.minimum(np.arange(count) + 0.5, count - np.arange(count) - 0.5), np.float32)


# ---------------------------------------------------------------------------------------------------------------- boxes


def _frames(windows: Sequence[Window], size: tuple[int, int]) -> Boxes:
    """The views as boxes, float32 (1 + tiles, 4), XYXY pixels: the whole image, then its tiles."""
    return np.array([(0, 0, size[1], size[0]), *((x0, y0, x1, y1) for y0, x0, y1, x1 in windows)], np.float32)


def _meet(a: Boxes, b: Boxes) -> Boxes:
    """What two boxes share; a side may become negative."""
    return np.concatenate([np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])], axis=-1)


def _area(boxes: Boxes) -> FloatMap:
    return np.asarray(np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1), np.float32)


def _iou(a: Boxes, b: Boxes) -> FloatMap:
    shared = _area(_meet(a, b))
    return np.asarray(shared / np.maximum(_area(a) + _area(b) - shared, 1e-9), np.float32)
