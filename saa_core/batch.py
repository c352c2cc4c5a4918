"""The set as context: how unlike the other images of its set every part of an image is.

`BatchContext.fit` reads a capped number of reference images, one at a time, and keeps a few cells of each. Every set
statistic comes from those, so a context has the same size for a hundred images and for a million, and an image is
scored on its own, in any order, with the same result.

    features --views--> distance to the set's nearest cells, calibrated --> novelty --guided filter--> dense map
        `-- line channels --> relative to what calm images of the set show --> lines ------^
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from saa_core.features.base import FeatureLayout
from saa_core.maps import resize
from saa_core.types import RGB, FloatMap
from saa_core.untrusted import load_arrays
from saa_core.views import FittedView, View, sample_cells, views_of
from saa_core.whitening import Whitening

REFERENCES = 40
"""Reference images at most."""
_BORDER, _BORDER_WEIGHT = 0.04, 0.5
"""Filters see mirrored pixels near the border: trusted half there, fully from this part of the side on."""
_LINE_TAIL, _LINE_IMAGES = 0.998, 0.2
"""A line stands out when it exceeds the strongest 0.2 % of the cells of the calmest fifth of the images."""
_LINE_CEILING = 3.0
_WORK_AREA, _MOST_WORK_AREA = 200 * 200, 2**18
"""Pixels that a map is fitted on: about 4 a cell of the features, but at least and at most so many."""
_RADIUS, _EDGE = 6, 1e-3
_LINE_RADIUS, _LINE_EDGE = 2, 1e-4
"""Guided filters: radius in pixels of the working size, and the variance of grey in [0, 1] that counts as an edge."""
_TOP = 0.005
"""The image score is the mean over this part of the map, its highest."""


class Saliency(NamedTuple):
    """How an image differs from its set, on the feature grid.

    Attributes:
        novelty: float32 (h, w) in [0, 4]: 0 is typical, 1 as far out as one cell in 200 of the set.
        lines: float32 (h, w) in [0, 3]: log of how far a thin line exceeds what calm images show; 0 without lines.
    """

    novelty: FloatMap
    lines: FloatMap


@dataclass(frozen=True, slots=True, eq=False)
class BatchContext:
    """What a set of images has in common.

    Attributes:
        keys: Keys of the reference images.
        views: What each way of comparing knows of the set.
        line_level: float32 (L,), the median response of each of the features' line channels in the set.
        line_peak: float32 (L,), the relative response that calm images of the set reach.
    """

    keys: tuple[str, ...]
    views: tuple[FittedView, ...]
    line_level: FloatMap
    line_peak: FloatMap

    @classmethod
    def fit(cls, keys: Sequence[str], load: Callable[[str], FloatMap], layout: FeatureLayout) -> BatchContext:
        """Learn what the images have in common. With fewer than 3 of them, each is later compared with itself.

        Args:
            keys: Names of the images, by content; their order does not matter, a repeated one counts once.
            load: Features of an image, float32 (h, w, C). Called once for each of at most `REFERENCES` keys; nothing
                that it returns is kept.
            layout: How to read the channels.

        Raises:
            ValueError: There are no keys.
        """
        chosen = tuple(sorted(set(keys), key=_rank)[:REFERENCES])
        if not chosen:
            raise ValueError("a context needs at least one image")
        settings = views_of(layout)
        parts = [_summary(key, load(key), settings, layout.lines) for key in chosen]
        samples, medians, peaks = zip(*parts, strict=True)
        level = np.median(medians, axis=0).astype(np.float32)
        views = (FittedView.fit(view, _stack(cells), layout) for view, *cells in zip(settings, *samples, strict=True))
        return cls(chosen, tuple(views), level, _calm_peak(np.stack(peaks), np.stack(medians), level))

    def saliency(self, key: str, features: FloatMap) -> Saliency:
        """How an image differs from the set, itself left out.

        Args:
            key: The image's key; an image that was no reference is compared with all references.
            features: float32 (h, w, C) of the image.
        """
        own = self.keys.index(key) if key in self.keys else None
        described, lines = _split(features, len(self.line_level))
        novelty = np.zeros(features.shape[:2], np.float32)
        for fitted in self.views:
            novelty += np.float32(fitted.view.weight) * fitted.novelty(described, own)
        return Saliency(novelty * _border_weight(novelty.shape), self._lines(lines))

    def _lines(self, responses: FloatMap) -> FloatMap:
        relative = _relative(responses, _medians(responses), self.line_level) / self.line_peak
        excess = np.log(relative.max(axis=-1, initial=1))
        capped: FloatMap = np.minimum(excess, np.float32(_LINE_CEILING))
        return capped

    def to_bytes(self) -> bytes:
        """The context as an npz file; equal contexts give equal bytes."""
        arrays: dict[str, Any] = {
            "keys": np.array(self.keys),
            "line_level": self.line_level,
            "line_peak": self.line_peak,
        }
        for number, fitted in enumerate(self.views):
            arrays |= {f"{number}.{name}": array for name, array in _view_arrays(fitted).items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> BatchContext:
        """The inverse of `to_bytes`."""
        arrays = load_arrays(data)
        count = sum(name.endswith(".cells") for name in arrays)
        return cls(
            tuple(arrays["keys"].tolist()),
            tuple(_view_from(arrays, number) for number in range(count)),
            arrays["line_level"],
            arrays["line_peak"],
        )


def dense_map(saliency: Saliency, image: RGB) -> FloatMap:
    """The saliency fitted to the edges of its image by a guided filter (He et al., PAMI 2013).

    Args:
        saliency: On the feature grid of the image.
        image: uint8 (H, W, 3), RGB.

    Returns:
        float32 (h', w') in [0, 1) with the image's proportions and about 40 000 pixels, up to 2**18 where the
        features are finer: 1 - exp(-s), s the sum of novelty and lines. Comparable over the set, and calibrated by it.
    """
    area = min(max(_WORK_AREA, 4 * saliency.novelty.size), _MOST_WORK_AREA)
    guide = _guide(image, area)
    novelty = _guided(saliency.novelty, guide, _RADIUS, _EDGE)
    lines = _guided(saliency.lines, guide, _LINE_RADIUS, _LINE_EDGE)
    total: FloatMap = 1 - np.exp(-np.maximum(novelty, 0) - np.maximum(lines, 0))
    return total


def image_score(heat: FloatMap) -> float:
    """How anomalous an image is: the mean of the highest 0.5 % of its map, at least one pixel; 0 for an empty map."""
    values = heat.ravel()
    if not values.size:
        return 0.0
    count = max(1, int(_TOP * values.size))
    return float(np.partition(values, values.size - count)[values.size - count :].mean(dtype=np.float64))


def _rank(key: str) -> bytes:
    """Order in which images are taken as references: as good as random, and the same for every order of the set."""
    return hashlib.sha256(key.encode()).digest()


def _summary(
    key: str, features: FloatMap, settings: Sequence[View], lines: int
) -> tuple[list[FloatMap], FloatMap, FloatMap]:
    """What is kept of a reference image: cells for each view, median and peak of each line channel."""
    described, responses = _split(features, lines)
    peaks = np.quantile(responses, _LINE_TAIL, axis=(0, 1)).astype(np.float32) if lines else np.zeros(0, np.float32)
    return [sample_cells(described, view, key) for view in settings], _medians(responses), peaks


def _split(features: FloatMap, lines: int) -> tuple[FloatMap, FloatMap]:
    """The channels that describe a cell, and the line channels."""
    first = features.shape[-1] - lines
    return features[..., :first], features[..., first:]


def _stack(samples: Sequence[FloatMap]) -> FloatMap:
    """(N, R, C), R that of the image with the fewest cells; samples are in random order, so any first part will do."""
    size = min(len(sample) for sample in samples)
    return np.stack([sample[:size] for sample in samples])


def _medians(responses: FloatMap) -> FloatMap:
    """Median of each channel, float32 (L,)."""
    if not responses.shape[-1]:
        return np.zeros(0, np.float32)
    medians: FloatMap = np.median(responses, axis=(0, 1)).astype(np.float32)
    return medians


def _relative(responses: FloatMap, median: FloatMap, level: FloatMap) -> FloatMap:
    """Responses in units of what is usual in their image, and twice that in the set, for images that are too calm."""
    relative: FloatMap = responses / (median + 2 * level + np.float32(1e-3))
    return relative


def _calm_peak(peaks: FloatMap, medians: FloatMap, level: FloatMap) -> FloatMap:
    """The relative peak that the calmest fifth of the images stays under, at least 1: float32 (L,)."""
    calm = np.quantile(_relative(peaks, medians, level), _LINE_IMAGES, axis=0)
    peak: FloatMap = np.maximum(calm, 1).astype(np.float32)
    return peak


def _border_weight(shape: tuple[int, ...]) -> FloatMap:
    ramps = [np.minimum(np.arange(side) + 0.5, side - np.arange(side) - 0.5) / (_BORDER * side) for side in shape]
    nearest = np.minimum(ramps[0][:, None], ramps[1])
    weight: FloatMap = np.minimum(_BORDER_WEIGHT + (1 - _BORDER_WEIGHT) * nearest, 1).astype(np.float32)
    return weight


def _guide(image: RGB, area: int) -> FloatMap:
    """Grey in [0, 1] at the working size, of about `area` pixels."""
    height, width = image.shape[:2]
    factor = (area / (height * width)) ** 0.5
    size = max(1, round(width * factor)), max(1, round(height * factor))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), size, interpolation=method)
    return grey.astype(np.float32) / np.float32(255)


def _guided(values: FloatMap, guide: FloatMap, radius: int, edge: float) -> FloatMap:
    """The local linear function of the guide that fits the values best, of the guide's size."""
    values = resize(values, (guide.shape[0], guide.shape[1]))
    mean_guide, mean = _box(guide, radius), _box(values, radius)
    covariance = _box(guide * values, radius) - mean_guide * mean
    slope = covariance / (_box(guide * guide, radius) - mean_guide**2 + np.float32(edge))
    return _box(slope, radius) * guide + _box(mean - slope * mean_guide, radius)


def _box(values: FloatMap, radius: int) -> FloatMap:
    side = 2 * radius + 1
    return np.asarray(cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT), np.float32)


def _view_arrays(fitted: FittedView) -> dict[str, NDArray[Any]]:
    view = fitted.view
    arrays: dict[str, NDArray[Any]] = {
        "view": np.array([view.cells, view.references, view.unit, view.local, view.weight, view.tile], np.float64),
        "cells": fitted.cells,
        "level": fitted.level,
        "span": fitted.span,
    }
    if fitted.metric is not None:
        arrays |= {
            "median": fitted.metric.median,
            "mean": fitted.metric.mean,
            "projection": fitted.metric.projection,
        }
    return arrays


def _view_from(arrays: Mapping[str, NDArray[Any]], number: int) -> FittedView:
    part = {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{number}.")}
    cells, references, unit, local, weight, tile = part["view"].tolist()
    metric = Whitening(part["median"], part["mean"], part["projection"]) if "projection" in part else None
    view = View(int(cells), int(references), bool(unit), local, weight, int(tile))
    return FittedView(view, metric, part["cells"], part["level"], part["span"])
