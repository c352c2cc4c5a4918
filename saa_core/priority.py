"""Which images of a set an expert should see first.

The priority of an image is a weighted sum of four terms, each in [0, 1] and each told in one sentence:

    0.5  uncertainty    how few others, of those that show regions or of those that show none, were closer calls
    0.2  disagreement   how well the second best label fits a region, beside the best one
    0.2  diversity      how many others show less that is new
    0.1  chance         drawn from the image's key, so that nothing waits for ever and every run draws the same

So an image ranks first when its weakest region has only just been shown, or when it shows none, but only just; when two
labels compete for a region; and when nothing like it ranks before it. Where figures have no common scale, their ranks
in the set are used: confidences of two profiles, or a confidence and an image score, cannot be compared.

The weights and the terms are ours. Uncertainty and disagreement are the usual ones of active learning (Settles, Active
Learning Literature Survey, 2009), diversity is the greedy k-centre (Gonzalez, 1985; for active learning Sener and
Savarese, ICLR 2018).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saa_core.types import FloatMap

Shares = NDArray[np.float64]
"""float64 (n,) in [0, 1], one for each image."""

WEIGHTS = {"uncertainty": 0.5, "disagreement": 0.2, "diversity": 0.2, "chance": 0.1}
"""Parts of the priority; their sum is 1."""
CENTRES = 1000
"""So many images are chosen one by one; the others follow by their distance to the nearest of these."""
_LEAST_DEVIATION = 2e-3
"""Channels that vary less hold rounding: half a grey level in features whose range is about 1."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What the method said of one image.

    Attributes:
        key: Key of the image.
        score: Image score in [0, 1].
        confidences: Of its regions, in [0, 1]; empty when none is shown.
        phrase_scores: Of its regions, score in [0, 1] by phrase.
    """

    key: str
    score: float
    confidences: tuple[float, ...]
    phrase_scores: tuple[Mapping[str, float], ...]


def priorities(
    images: Sequence[Judged], descriptors: FloatMap, threshold: float, synonyms: Collection[str] = ()
) -> Shares:
    """Review priority of every image, highest first in line.

    Args:
        images: The n images of the set.
        descriptors: float32 (n, C), what each looks like, e.g. the mean of its features; in any units.
        threshold: Confidence from which a region is shown, in [0, 1].
        synonyms: Phrases that stand for one label, which are the class-agnostic ones.

    Returns:
        float64 (n,) in [0, 1].

    Raises:
        ValueError: A figure is missing (NaN) or outside its range; or not one descriptor for each image.
    """
    total: Shares = terms(images, descriptors, threshold, synonyms) @ np.array(list(WEIGHTS.values()))
    return total


def terms(
    images: Sequence[Judged], descriptors: FloatMap, threshold: float, synonyms: Collection[str] = ()
) -> NDArray[np.float64]:
    """The four terms of the priority, to say why an image ranks where it does; arguments and errors as there.

    Returns:
        float64 (n, 4) in [0, 1], columns in the order of `WEIGHTS`.
    """
    _check(images, descriptors, threshold)
    columns = (
        uncertainty([image.confidences for image in images], [image.score for image in images], threshold),
        [disagreement(image.phrase_scores, synonyms) for image in images],
        diversity(descriptors),
        [chance(image.key) for image in images],
    )
    return np.array(columns, np.float64).T


def uncertainty(confidences: Sequence[Sequence[float]], scores: Sequence[float], threshold: float) -> Shares:
    """How close each image was to another decision: 1 less the share of the set that is of its kind and closer.

    An image that shows regions is as close as the one nearest to the threshold, since that one might not be there at
    all. Of those that show none, the image with the highest score is closest to show one. The two kinds are counted
    apart, so that in the queue doubtful finds and possible misses take turns, however few there are of either.

    Args:
        confidences: Of the regions of each of the n images, in [0, 1].
        scores: n image scores in [0, 1].
        threshold: Confidence from which a region is shown, in [0, 1].

    Returns:
        float64 (n,) in (0, 1], 1 for the closest of each kind.
    """
    shown = np.array([len(found) > 0 for found in confidences], np.bool_)
    margins = np.array(
        [
            min((abs(value - threshold) for value in found), default=1 - score)
            for found, score in zip(confidences, scores, strict=True)
        ],
        np.float64,
    )
    closer = np.zeros(len(margins))
    for kind in (shown, ~shown):
        closer[kind] = _smaller(margins[kind])
    share: Shares = 1 - closer / max(len(margins), 1)
    return share


def disagreement(phrase_scores: Sequence[Mapping[str, float]], synonyms: Collection[str] = ()) -> float:
    """How well the second best label of a region fits, relative to the best; the largest over an image's regions.

    Args:
        phrase_scores: For each region, score in [0, 1] by phrase.
        synonyms: Phrases that are one label; between them there is nothing to choose.

    Returns:
        In [0, 1]; 1 when two labels fit one region alike, 0 without regions, or with one label.
    """
    return max((_rivalry(scores, frozenset(synonyms)) for scores in phrase_scores), default=0.0)


def diversity(descriptors: FloatMap) -> Shares:
    """The share of the set that shows less that is new, by the reach of `k_centre` on standardised channels.

    Args:
        descriptors: float32 (n, C), in any units.

    Returns:
        float64 (n,) in [0, 1]; 0 for every copy of an image that comes before it.
    """
    values = np.asarray(descriptors, np.float64)
    if not len(values):
        return np.zeros(0)
    scaled = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), _LEAST_DEVIATION)
    share: Shares = _smaller(k_centre(scaled)[1]) / max(len(values) - 1, 1)
    return share


def k_centre(points: NDArray[np.float64], centres: int = CENTRES) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The greedy k-centre: each time the point that is farthest from all points chosen before (Gonzalez, 1985).

    The first is the one nearest to the mean, the most ordinary; ties go to the one that comes first. The order is
    whole: points after the last centre are sorted by their distance to the nearest centre, which is never more than
    that of a centre. Time n * min(n, centres) * C, memory n * C.

    Args:
        points: float64 (n, C), n at least 1.
        centres: How many points are chosen one by one, at least 1.

    Returns:
        intp (n,), the order; and float64 (n,), the reach of each point, in the order of `points`: its distance to what
        had been chosen before it, infinite for the first.
    """
    nearest, reach = np.full(len(points), np.inf), np.full(len(points), np.nan)
    centre = int(_squares(points, points.mean(axis=0)).argmin())
    chosen = []
    for _ in range(min(centres, len(points))):
        chosen.append(centre)
        reach[centre] = nearest[centre]
        np.minimum(nearest, _squares(points, points[centre]), out=nearest)
        nearest[centre] = -1.0  # never again, not even among copies of it
        centre = int(nearest.argmax())
    left = np.flatnonzero(np.isnan(reach))
    reach[left] = nearest[left]
    order = np.r_[np.array(chosen, np.intp), left[np.argsort(-nearest[left], kind="stable")]]
    return order, np.sqrt(reach)


def chance(key: str) -> float:
    """A number in [0, 1) drawn from an image's key, as good as random and the same every time."""
    return int.from_bytes(hashlib.sha256(f"order of review {key}".encode()).digest()[:6], "big") / 2**48


# --------------------------------------------------------------------------------------------------------------- inside


def _smaller(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """For each value, how many are smaller."""
    return np.searchsorted(np.sort(values), values, side="left")


def _squares(points: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distances, by differences, so that they are exactly 0 between equal points."""
    apart = points - centre
    squares: NDArray[np.float64] = np.einsum("ij,ij->i", apart, apart)
    return squares


def _rivalry(scores: Mapping[str, float], synonyms: frozenset[str]) -> float:
    labels = [score for phrase, score in scores.items() if phrase not in synonyms]
    labels.append(max((score for phrase, score in scores.items() if phrase in synonyms), default=0.0))
    second, best = sorted([0.0, *labels])[-2:]
    return second / best if best > 0 else 0.0


def _check(images: Sequence[Judged], descriptors: FloatMap, threshold: float) -> None:
    if descriptors.ndim != 2 or len(descriptors) != len(images):
        raise ValueError(f"{len(images)} images need descriptors of shape ({len(images)}, C), not {descriptors.shape}")
    wrong = np.flatnonzero(~np.isfinite(descriptors).all(axis=1))
    if wrong.size:
        raise ValueError(f"image {images[wrong[0]].key}: its descriptor is not finite")
    _check_shares("the threshold", [threshold])
    for image in images:
        scores = [score for found in image.phrase_scores for score in found.values()]
        _check_shares(f"image {image.key}: a score or confidence", [image.score, *image.confidences, *scores])


def _check_shares(name: str, values: Sequence[float]) -> None:
    for value in values:
        if not 0 <= value <= 1:  # NaN is not
            raise ValueError(f"{name} must be in [0, 1], not {value}")
