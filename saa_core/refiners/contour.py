"""The refiner without weights: a box is a mixture of defect and background, and the ring around it is background.

Every pixel of the box gets the log-odds of being the defect,

    prior + _EVIDENCE * sum over channels c of log p(c | defect) / p(c | background)

The channels are lightness, the two colour axes of CIELAB and local contrast; their histograms are estimated from the
ring and from the odds themselves, and both are refined in turn (expectation-maximisation, as GrabCut does with Gaussian
mixtures: Rother et al., SIGGRAPH 2004). The prior says two weak things: a region fills the middle of its box, and it is
where the saliency is high for this box. So a box without any contrast of colour still gives a plausible blob, and a
thin line in a wide box is found by its colour. At last the odds are fitted to the edges of the image by a guided filter
(He et al., PAMI 2013).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from saa_core.masks import Rle, encode_crop
from saa_core.refiners.base import Refined
from saa_core.types import RGB, BoolMask, Boxes, FloatMap

_SIDE = 64
"""Longest side of a window in which borders are sought; a larger one is reduced, each axis on its own."""
_MARGIN = 0.4
_MIN_MARGIN = 4
"""The ring around a box: a share of its sides, and at least so many pixels."""
_BINS = 16
_RANGE = 3.0
"""Histograms span the window's values, but at least so many CIELAB units, so that faint noise stays noise."""
_FLOOR = 0.01
"""Added to every bin: bounds the evidence of a value seen on one side alone."""
_ROUNDS = 3
_EVIDENCE = 2.0
"""Weight of the evidence; channels are not independent of each other, nor are pixels."""
_SHAPE = 0.75
_SALIENCY = 1.5
"""Log-odds at a box's centre, and a half-range of saliency above its middle level."""
_LEVEL = 0.6
"""The middle level, between the ring's median (0) and the box's peak (1)."""
_TRACE = 1e-3
"""Share of the odds that the guided filter cannot take away."""
_GUIDE_RADIUS = 3
_GUIDE_EDGE = 3.0
"""Guided filter: radius in window cells, and the variance of lightness, CIELAB units squared, that is an edge."""


@dataclass(frozen=True, slots=True)
class Contour:
    """Masks from colour, local contrast and saliency; needs no weights.

    Example:
        >>> image = np.full((60, 60, 3), 200, np.uint8)
        >>> image[20:40, 15:45] = 90
        >>> boxes = np.array([[12, 17, 48, 43]], np.float32)
        >>> Contour()(image, boxes, np.zeros((8, 8), np.float32)).masks[0].area
        600
    """

    name: str = "contour"

    @property
    def id(self) -> str:
        """Name and version."""
        return f"{self.name}-1"

    @property
    def reads_set(self) -> bool:
        """The saliency is part of the prior."""
        return True

    def embed(self, image: RGB) -> None:
        """Nothing: every window is looked at for itself."""

    def __call__(self, image: RGB, boxes: Boxes, saliency: FloatMap, embedding: FloatMap | None = None) -> Refined:
        """Refine every box; see `RegionRefiner`. A box is refined without regard to the others."""
        found = [_refine(image, box, saliency) for box in boxes]
        quality = np.array([sure for _, sure in found], np.float32)
        return Refined(tuple(mask for mask, _ in found), quality)


@dataclass(frozen=True, slots=True, eq=False)
class _Window:
    """The part of the image around a box, on a grid of at most _SIDE x _SIDE cells.

    Attributes:
        frame: x0, y0, x1, y1 in whole pixels of the image.
        lab: float32 (h, w, 3), CIELAB.
        inside: bool (h, w), cells whose centre is in the box; at least one.
        radius: float32 (h, w), distance from the box's centre: 1 on the rim of a rounded box.
        saliency: float32 (h, w).
    """

    frame: tuple[int, int, int, int]
    lab: FloatMap
    inside: BoolMask
    radius: FloatMap
    saliency: FloatMap


def _refine(image: RGB, box: NDArray[np.float32], saliency: FloatMap) -> tuple[Rle, float]:
    window = _window(image, box, saliency)
    odds, sure = _odds(window)
    x0, y0, x1, y1 = window.frame
    # The filter may level a lone cell; a trace of the odds keeps it, and with it the mask from being empty.
    fitted = np.maximum(_fit(odds, window), _TRACE * odds)
    full = cv2.resize(fitted, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    # What is nowhere half certain is drawn where it is most likely.
    return encode_crop(full > min(0.5, 0.5 * float(full.max())), y0, x0, *image.shape[:2]), sure


def _window(image: RGB, box: NDArray[np.float32], saliency: FloatMap) -> _Window:
    height, width = image.shape[:2]
    (x0, x1), (y0, y1) = _side(box[0], box[2], width), _side(box[1], box[3], height)
    left, right, xs = _cells(x0, x1, width)
    top, bottom, ys = _cells(y0, y1, height)
    crop = cv2.resize(image[top:bottom, left:right], (xs.size, ys.size), interpolation=cv2.INTER_AREA)
    across = np.abs((2 * xs - x0 - x1) / (x1 - x0))[None]
    down = np.abs((2 * ys - y0 - y1) / (y1 - y0))[:, None]
    radius = np.cbrt(across**3 + down**3).astype(np.float32)
    inside = (across <= 1) & (down <= 1)  # never empty: sides are at least one pixel, and cells centred in pixels
    lab = cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).astype(np.float32, copy=False)
    return _Window((left, top, right, bottom), lab, inside, radius, _sample(saliency, xs / width, ys / height))


def _side(start: float, end: float, size: int) -> tuple[float, float]:
    """One side of a box, brought into the image and to at least one pixel."""
    start = min(max(float(start), 0.0), size - 1.0)
    return start, min(max(float(end), start + 1.0), float(size))


def _cells(start: float, end: float, size: int) -> tuple[int, int, NDArray[np.float64]]:
    """First and last pixel of the window along one axis, and the centres of its cells in pixels."""
    margin = max(_MARGIN * (end - start), _MIN_MARGIN)
    first, last = max(0, int(np.floor(start - margin))), min(size, int(np.ceil(end + margin)))
    count = min(last - first, _SIDE)
    return first, last, first + (np.arange(count, dtype=np.float64) + 0.5) * ((last - first) / count)


def _sample(values: FloatMap, xs: NDArray[np.float64], ys: NDArray[np.float64]) -> FloatMap:
    """The map at relative positions in [0, 1], bilinear."""
    height, width = values.shape
    columns, rows = np.meshgrid(np.float32(xs * width - 0.5), np.float32(ys * height - 0.5))
    single = values.astype(np.float32, copy=False)
    return cv2.remap(single, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)


def _odds(window: _Window) -> tuple[FloatMap, float]:
    """Probability of the defect in every cell, 0 outside the box, and how well the colours tell the two apart."""
    prior, inside, values = _prior(window), window.inside, _values(window.lab)
    odds = np.where(inside, _logistic(prior), 0)
    sure = 0.0
    for _ in range(_ROUNDS):
        defect, background = _histograms(values, odds), _histograms(values, 1 - odds)
        evidence = np.log(defect / background).ravel()[values].sum(axis=0).reshape(inside.shape)
        odds = np.where(inside, _logistic(prior + _EVIDENCE * evidence), 0)
        sure = 0.5 * float(np.abs(defect - background).sum(axis=1).max()) / (1 + _BINS * _FLOOR)
    return odds.astype(np.float32), sure


def _prior(window: _Window) -> FloatMap:
    inside, ring = window.saliency[window.inside], window.saliency[~window.inside]
    base = float(np.median(ring)) if ring.size else float(inside.min())
    half = max((float(inside.max()) - base) / 2, 1e-6)
    level = np.clip((window.saliency - base) / half - 2 * _LEVEL, -1, 1) if inside.max() > base else 0.0
    prior: FloatMap = _SHAPE * (1 - window.radius) + _SALIENCY * level
    return prior


def _values(lab: FloatMap) -> NDArray[np.intp]:
    """The bin of every cell in each channel's histogram, (4, h * w), numbered on through the channels."""
    lightness = np.ascontiguousarray(lab[..., 0])
    mean, square = (cv2.GaussianBlur(part, (0, 0), 1.0) for part in (lightness, lightness * lightness))
    contrast = np.sqrt(np.maximum(square - mean * mean, 0))
    channels = np.stack([*np.moveaxis(cv2.GaussianBlur(lab, (0, 0), 0.5), -1, 0), contrast]).reshape(4, -1)
    low, high = np.percentile(channels, (1, 99), axis=1)[..., None]
    place = (channels - (low + high) / 2) / np.maximum(high - low, _RANGE) + 0.5
    values: NDArray[np.intp] = np.clip(place * _BINS, 0, _BINS - 1).astype(np.intp) + _BINS * np.arange(4)[:, None]
    return values


def _histograms(values: NDArray[np.intp], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smoothed histograms of all channels under a weight for each cell: (4, _BINS), no bin empty."""
    counts = np.bincount(values.ravel(), np.tile(weight.ravel(), len(values)), len(values) * _BINS)
    padded = np.pad(counts.reshape(-1, _BINS), ((0, 0), (1, 1)), "edge")
    smooth = 0.25 * padded[:, :-2] + 0.5 * padded[:, 1:-1] + 0.25 * padded[:, 2:]
    shares: NDArray[np.float64] = smooth / np.maximum(smooth.sum(axis=1, keepdims=True), 1e-9) + _FLOOR
    return shares


def _logistic(logit: NDArray[np.floating]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(logit, -30, 30, dtype=np.float64)))
    return shares


def _fit(odds: FloatMap, window: _Window) -> FloatMap:
    """Guided filter with the lightness as guide, 0 outside the box."""
    guide = np.ascontiguousarray(window.lab[..., 0])
    mean, mean_odds = _average(guide), _average(odds)
    variance = np.maximum(_average(guide * guide) - mean * mean, 0)
    slope = (_average(guide * odds) - mean * mean_odds) / (variance + _GUIDE_EDGE)
    fitted = _average(slope) * guide + _average(mean_odds - slope * mean)
    return np.where(window.inside, fitted, 0).astype(np.float32)


def _average(values: NDArray[np.floating]) -> FloatMap:
    side = 2 * _GUIDE_RADIUS + 1
    return cv2.blur(values, (side, side)).astype(np.float32, copy=False)
