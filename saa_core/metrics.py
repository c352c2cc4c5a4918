"""How well maps, scores and regions agree with the known truth.

Pixel metrics pool the pixels of one class, as the paper does (arXiv 2305.10724), and are exact: they count at every
distinct float32 score, with no bins. A pixel is predicted anomalous at threshold t when its score is at least t.
Whatever is not defined, such as an AUROC without normal pixels, is None and never a number.

`PixelCounts` and `RegionCounts` take one image after another; the functions below them take all images of a class.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from saa_core.errors import MetricError
from saa_core.masks import Rle, check_mask, encode_crop, iou

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Map = NDArray[np.floating[Any]]

_EIGHT_CONNECTED = np.ones((3, 3), np.bool_)


class BestF1(NamedTuple):
    """The best F1 over all thresholds.

    Attributes:
        f1: In [0, 1].
        threshold: The score that gives it, the highest one on a tie.
        precision: At that threshold, in [0, 1].
        recall: At that threshold, in [0, 1].
    """

    f1: float
    threshold: float
    precision: float
    recall: float


@dataclass(frozen=True, eq=False)
class ScoreCurve:
    """Counts at every distinct score of an anomalous sample, highest first.

    The scores of normal samples alone need no place here: precision only falls there, and every area under the curve
    is a straight line between its neighbours.

    Attributes:
        scores: Float (n,), strictly falling.
        hits: Int64 (n,), anomalous samples with at least that score; the last is their number.
        alarms: Int64 (n,), normal samples with at least that score.
        alarms_above: Int64 (n,), normal samples with a higher score.
        overlap: Float64 (n,) in [0, 1], mean over regions of their share with at least that score; the last is 1
            up to rounding.
        normal: Number of normal samples.
    """

    scores: NDArray[Any]
    hits: Ints
    alarms: Ints
    alarms_above: Ints
    overlap: Floats
    normal: int

    def best_f1(self) -> BestF1 | None:
        """See `max_f1_pixel`; None without anomalous samples."""
        if not self.hits.size:
            return None
        f1 = 2 * self.hits / (self.hits + self.alarms + self.hits[-1])
        best = int(f1.argmax())
        hits, alarms = int(self.hits[best]), int(self.alarms[best])
        return BestF1(float(f1[best]), float(self.scores[best]), hits / (hits + alarms), hits / int(self.hits[-1]))

    def average_precision(self) -> float | None:
        """See `average_precision`; None without anomalous samples."""
        if not self.hits.size:
            return None
        return float(np.sum(np.diff(self.hits, prepend=0) * self.hits / (self.hits + self.alarms)) / self.hits[-1])

    def auroc(self) -> float | None:
        """See `pixel_auroc`; None without anomalous or without normal samples."""
        if not self.hits.size or not self.normal:
            return None
        # Twice the normal samples below each score, ties counted once.
        below = 2 * self.normal - self.alarms - self.alarms_above
        return int(np.sum(np.diff(self.hits, prepend=0) * below)) / (2 * int(self.hits[-1]) * self.normal)

    def aupro(self, limit: float = 0.3) -> float | None:
        """See `aupro`; None without anomalous or without normal samples."""
        if not 0 < limit <= 1:
            raise MetricError(f"the limit of the false-positive rate is in (0, 1], not {limit}")
        if not self.hits.size or not self.normal:
            return None
        # Each score is two points: all normal samples above it, then those that tie with it and the anomalous ones.
        rates = np.r_[0, _in_turn(self.alarms_above, self.alarms), self.normal] / self.normal
        overlaps = np.r_[0, _in_turn(np.r_[0, self.overlap[:-1]], self.overlap), 1]
        inside = rates <= limit
        last = np.interp(limit, rates, overlaps)
        return float(np.trapezoid(np.r_[overlaps[inside], last], np.r_[rates[inside], limit]) / limit)


# --------------------------------------------------------------------------------------------------------- accumulators


@dataclass
class PixelCounts:
    """Pixels of one class, image after image, without keeping the maps.

    Kept are the distinct scores of each image: 8 bytes for one of normal pixels, and 12 bytes for every anomalous
    pixel. A map made of regions has few; a dense one may have as many as pixels (512 MB for 400 images of 400 x 400).

    Example:
        >>> counts = PixelCounts()
        >>> counts.update(np.array([[0.9, 0.2]], np.float32), np.array([[True, False]]))
        >>> counts.update(np.array([[0.1, 0.3]], np.float32), np.array([[False, False]]))
        >>> counts.curve().auroc()
        1.0
        >>> counts.f1_at(0.3)
        0.6666666666666666
    """

    _normal: list[tuple[NDArray[np.float32], NDArray[np.uint32]]] = field(default_factory=list, repr=False)
    _anomalous: list[NDArray[np.float32]] = field(default_factory=list, repr=False)
    _weights: list[Floats] = field(default_factory=list, repr=False)
    _regions: int = 0

    def update(self, anomaly_map: Map, mask: Bools) -> None:
        """Count one image.

        Args:
            anomaly_map: Float (h, w), higher is more anomalous, any finite range; counted as float32.
            mask: Bool (h, w), the truth at the size of the map; all False for a good image.

        Raises:
            MetricError: Wrong dtype, different shapes, no pixels, or a score that is not finite.
        """
        scores = _checked_map(anomaly_map, mask)
        labels, regions = ndimage.label(mask, _EIGHT_CONNECTED)
        inside = labels[mask]
        values, counts = np.unique(scores[~mask], return_counts=True)
        self._normal.append((values, counts.astype(np.uint32)))
        self._anomalous.append(scores[mask])
        self._weights.append(1 / np.bincount(inside)[inside])
        self._regions += regions

    def curve(self) -> ScoreCurve:
        """Everything counted so far, ready for the metrics.

        Raises:
            MetricError: No image was counted.
        """
        self._check_not_empty()
        weights = np.concatenate(self._weights) / max(self._regions, 1)
        return _curve(np.concatenate(self._anomalous), weights, self._normal)

    def f1_at(self, threshold: float) -> float | None:
        """F1 of the pixels at one threshold, which is rounded to float32 like the scores.

        Returns:
            F1 in [0, 1]; None without anomalous pixels.

        Raises:
            MetricError: No image was counted.
        """
        self._check_not_empty()
        level = np.float32(threshold)
        alarms = sum(int(counts[np.searchsorted(values, level) :].sum()) for values, counts in self._normal)
        hits = sum(int(np.count_nonzero(scores >= level)) for scores in self._anomalous)
        total = sum(scores.size for scores in self._anomalous)
        return 2 * hits / (hits + alarms + total) if total else None

    def _check_not_empty(self) -> None:
        if not self._normal:
            raise MetricError("no image was counted")


@dataclass
class RegionCounts:
    """Predicted and true regions of one class, image after image.

    Regions are matched one to one within an image, so that as many pairs as possible have an IoU of at least
    `iou_threshold`.

    Attributes:
        iou_threshold: Least IoU of a match, in (0, 1].
        hits: Matched pairs.
        alarms: Predicted regions without a match.
        misses: True regions without a match.

    Raises:
        MetricError: The threshold is outside (0, 1].
    """

    iou_threshold: float = 0.5
    hits: int = field(default=0, init=False)
    alarms: int = field(default=0, init=False)
    misses: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not 0 < self.iou_threshold <= 1:
            raise MetricError(f"the IoU threshold is in (0, 1], not {self.iou_threshold}")

    def update(self, predicted: Sequence[Rle], truth: Sequence[Rle]) -> None:
        """Count one image.

        Args:
            predicted: Predicted regions.
            truth: True regions, all of the same size as the predicted ones.

        Raises:
            MaskError: The masks are not all of one size.
        """
        # Imported here because it takes longer than the rest of the package together.
        from scipy.optimize import linear_sum_assignment

        match = iou(predicted, truth) >= self.iou_threshold
        hits = int(match[linear_sum_assignment(match, maximize=True)].sum())
        self.hits += hits
        self.alarms += len(predicted) - hits
        self.misses += len(truth) - hits

    def f1(self) -> float | None:
        """2 hits / (2 hits + alarms + misses); None where there is neither a predicted nor a true region."""
        total = 2 * self.hits + self.alarms + self.misses
        return 2 * self.hits / total if total else None


# ------------------------------------------------------------------------------------------------------------ functions


def max_f1_pixel(maps: Iterable[Map], masks: Iterable[Bools]) -> float | None:
    """F1 of all pixels of a class pooled, at the best threshold: the metric of the paper.

    Args:
        maps: Float (h, w) per image, higher is more anomalous.
        masks: Bool (h, w) per image, the truth.

    Returns:
        F1 in [0, 1]; None without anomalous pixels. A constant map scores as if everything were predicted.

    Raises:
        MetricError: See `PixelCounts.update`; also when there is no image.
        ValueError: Not as many maps as masks.

    Example:
        >>> max_f1_pixel([np.array([[0.9, 0.2, 0.4]])], [np.array([[True, False, True]])])
        1.0
    """
    best = _counted(maps, masks).curve().best_f1()
    return None if best is None else best.f1


def f1_at(maps: Iterable[Map], masks: Iterable[Bools], threshold: float) -> float | None:
    """F1 of all pixels of a class pooled, at a given threshold.

    Args:
        maps: Float (h, w) per image, higher is more anomalous.
        masks: Bool (h, w) per image, the truth.
        threshold: Least score of a pixel that is predicted anomalous.

    Returns:
        F1 in [0, 1]; None without anomalous pixels.

    Raises:
        MetricError: See `PixelCounts.update`; also when there is no image.
        ValueError: Not as many maps as masks.

    Example:
        >>> f1_at([np.array([[0.9, 0.2, 0.4]])], [np.array([[True, False, True]])], 0.5)
        0.6666666666666666
    """
    return _counted(maps, masks).f1_at(threshold)


def pixel_auroc(maps: Iterable[Map], masks: Iterable[Bools]) -> float | None:
    """Area under the ROC curve of all pixels of a class pooled.

    It is the chance that an anomalous pixel scores higher than a normal one, ties counted half.

    Args:
        maps: Float (h, w) per image, higher is more anomalous.
        masks: Bool (h, w) per image, the truth.

    Returns:
        Area in [0, 1], 0.5 for a constant map; None without anomalous or without normal pixels.

    Raises:
        MetricError: See `PixelCounts.update`; also when there is no image.
        ValueError: Not as many maps as masks.

    Example:
        >>> pixel_auroc([np.array([[0.9, 0.2, 0.2]])], [np.array([[True, False, True]])])
        0.75
    """
    return _counted(maps, masks).curve().auroc()


def average_precision(maps: Iterable[Map], masks: Iterable[Bools]) -> float | None:
    """Average precision of all pixels of a class pooled: the sum of (R_n - R_n-1) P_n over the distinct scores.

    Args:
        maps: Float (h, w) per image, higher is more anomalous.
        masks: Bool (h, w) per image, the truth.

    Returns:
        Average precision in [0, 1]; None without anomalous pixels.

    Raises:
        MetricError: See `PixelCounts.update`; also when there is no image.
        ValueError: Not as many maps as masks.

    Example:
        >>> average_precision([np.array([[0.9, 0.5, 0.2, 0.1]])], [np.array([[True, False, True, False]])])
        0.8333333333333333
    """
    return _counted(maps, masks).curve().average_precision()


def aupro(maps: Iterable[Map], masks: Iterable[Bools], limit: float = 0.3) -> float | None:
    """Area under the per-region-overlap curve up to a false-positive rate (Bergmann et al., IJCV 2021).

    At each threshold: the mean, over all true regions of the class, of the share of the region that is found, against
    the share of normal pixels that raise an alarm. A region is an 8-connected component of a mask, as in MVTec's own
    evaluation. The curve is straight between its points, starts at (0, 0), is cut at `limit` by interpolation, and
    the area is divided by `limit`.

    Args:
        maps: Float (h, w) per image, higher is more anomalous.
        masks: Bool (h, w) per image, the truth.
        limit: Largest false-positive rate, in (0, 1].

    Returns:
        Area in [0, 1]; None without anomalous or without normal pixels.

    Raises:
        MetricError: See `PixelCounts.update`; also for no image, or a limit outside (0, 1].
        ValueError: Not as many maps as masks.

    Example:
        >>> aupro([np.array([[0.9, 0.5, 0.2, 0.1]])], [np.array([[True, False, True, False]])], limit=0.5)
        0.5
    """
    return _counted(maps, masks).curve().aupro(limit)


def image_auroc(scores: Sequence[float] | Floats, defective: Sequence[bool] | Bools) -> float | None:
    """Area under the ROC curve of the image scores.

    Args:
        scores: One finite score per image, higher is more anomalous.
        defective: Whether each image is defective.

    Returns:
        Area in [0, 1], ties counted half; None without defective or without good images.

    Raises:
        MetricError: Different lengths, labels that are not bool, or a score that is not finite.

    Example:
        >>> image_auroc([0.9, 0.4, 0.1], [True, False, False])
        1.0
    """
    values, labels = np.asarray(scores, np.float64), np.asarray(defective)
    if values.ndim != 1 or values.shape != labels.shape or (labels.size and labels.dtype != np.bool_):
        raise MetricError(f"one score and one bool per image, not {values.shape} and {labels.dtype} {labels.shape}")
    _check_finite(values)
    truth = labels.astype(np.bool_)
    anomalous = values[truth]
    weights = np.full(anomalous.size, 1 / max(anomalous.size, 1))
    return _curve(anomalous, weights, [np.unique(values[~truth], return_counts=True)]).auroc()


def region_f1(
    predicted: Iterable[Sequence[Rle]], truth: Iterable[Sequence[Rle]], iou_threshold: float = 0.5
) -> float | None:
    """F1 of the regions of a class, matched one to one within each image.

    Args:
        predicted: Predicted regions per image.
        truth: True regions per image, see `regions`.
        iou_threshold: Least IoU of a match, in (0, 1].

    Returns:
        F1 in [0, 1]; 0 where regions were predicted on good images only; None where there are no regions at all.

    Raises:
        MetricError: The threshold is outside (0, 1].
        MaskError: The masks of an image are not all of one size.
        ValueError: Not as many images predicted as true.

    Example:
        >>> left, right = regions(np.array([[True, False, True]]))
        >>> region_f1([[left]], [[left, right]])
        0.6666666666666666
    """
    counts = RegionCounts(iou_threshold)
    for found, known in zip(predicted, truth, strict=True):
        counts.update(found, known)
    return counts.f1()


def regions(mask: Bools) -> list[Rle]:
    """The 8-connected components of a mask, in row-major order of their first pixel.

    Args:
        mask: Bool (H, W).

    Raises:
        MaskError: Not a two-dimensional bool array, or without pixels.

    Example:
        >>> [region.area for region in regions(np.array([[True, False, False], [False, True, False]]))]
        [2]
    """
    check_mask(mask)
    height, width = mask.shape
    labels, _ = ndimage.label(mask, _EIGHT_CONNECTED)
    windows = ndimage.find_objects(labels)
    return [
        encode_crop(labels[window] == number, window[0].start, window[1].start, height, width)
        for number, window in enumerate(windows, 1)
    ]


# --------------------------------------------------------------------------------------------------------------- inside


def _counted(maps: Iterable[Map], masks: Iterable[Bools]) -> PixelCounts:
    counts = PixelCounts()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        counts.update(anomaly_map, mask)
    return counts


def _curve(anomalous: NDArray[Any], weights: Floats, normal: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> ScoreCurve:
    """The curve of anomalous scores (n,) with weights that sum to 1, and of normal scores with their counts."""
    scores, inverse, pixels = np.unique(anomalous, return_inverse=True, return_counts=True)
    # Slot 2 k + 1 is for normal scores that tie with the k-th anomalous one, slot 2 k for those between its
    # neighbours: exactly the number of anomalous scores below plus the number of those not above.
    slots = np.zeros(2 * scores.size + 1, np.int64)
    for values, counts in normal:
        slot = np.searchsorted(scores, values, "left") + np.searchsorted(scores, values, "right")
        slots += np.bincount(slot, counts, slots.size).astype(np.int64)
    at_least = np.cumsum(slots[::-1])
    overlap = np.bincount(inverse, weights, scores.size)
    return ScoreCurve(
        scores=scores[::-1],
        hits=np.cumsum(pixels[::-1]),
        alarms=at_least[1::2],
        alarms_above=at_least[0:-1:2],
        overlap=np.minimum(np.cumsum(overlap[::-1]), 1),  # the weights' sum may round to more
        normal=int(at_least[-1]),
    )


def _in_turn(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """The elements a0, b0, a1, b1, ..."""
    return np.stack([a, b], axis=1).ravel()


def _checked_map(anomaly_map: Map, mask: Bools) -> NDArray[np.float32]:
    """The map as float32, once it is known to fit the mask."""
    if anomaly_map.ndim != 2 or not anomaly_map.size or not np.issubdtype(anomaly_map.dtype, np.floating):
        raise MetricError(f"an anomaly map is a float array (h, w), not {anomaly_map.dtype} {anomaly_map.shape}")
    if mask.shape != anomaly_map.shape or mask.dtype != np.bool_:
        raise MetricError(f"the truth is bool {anomaly_map.shape} like its map, not {mask.dtype} {mask.shape}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        scores = anomaly_map.astype(np.float32, copy=False)
    _check_finite(scores)
    return scores


def _check_finite(scores: NDArray[Any]) -> None:
    wrong = np.count_nonzero(~np.isfinite(scores))
    if wrong:
        raise MetricError(f"{wrong} of {scores.size} scores are not finite")
