"""How well maps, scores and regions agree with the known truth.

All pixel metrics pool the pixels of one class, as the paper does (arXiv 2305.10724, section 4), and are exact: they
count at every distinct float32 score, with no bins. A pixel is predicted anomalous at threshold t when its score is
at least t. Whatever is not defined (no anomalous pixel, no normal image, ...) is None, never a number.

One image after another goes into `PixelCounts` or `RegionCounts`; the functions of the same names as their results
(`max_f1_pixel(maps, masks)`, ...) do that for callers that want one figure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from saa_core import masks as codec
from saa_core.errors import MetricError
from saa_core.masks import Rle

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Scores = NDArray[np.float32]

EIGHT_CONNECTED = np.ones((3, 3), np.bool_)


class BestF1(NamedTuple):
    """The best F1 over all thresholds.

    Attributes:
        f1: in [0, 1].
        threshold: the score that gives it; the highest one on a tie.
        precision: at that threshold, in [0, 1].
        recall: at that threshold, in [0, 1].
    """

    f1: float
    threshold: float
    precision: float
    recall: float


# --------------------------------------------------------------------------------------------------- pixels of a class


@dataclass
class PixelCounts:
    """Exact counts of the pixels of one class, image after image.

    Kept is one row per distinct score, not the maps: 12 bytes for normal pixels, 20 for anomalous ones. Dense maps
    repeat scores only across images, so the table can reach the number of pixels; maps made of few regions stay tiny.

    Example:
        >>> counts = PixelCounts()
        >>> counts.update(np.array([[0.9, 0.2]], np.float32), np.array([[True, False]]))
        >>> counts.update(np.array([[0.1, 0.3]], np.float32), np.array([[False, False]]))
        >>> counts.best_f1().f1, counts.auroc()
        (1.0, 1.0)
    """

    _normal: "_Table" = field(default_factory=lambda: _Table(0), repr=False)
    _anomalous: "_Table" = field(default_factory=lambda: _Table(1), repr=False)
    _regions: int = 0

    def update(self, anomaly_map: NDArray[np.floating[Any]], mask: Bools) -> None:
        """Count one image.

        Args:
            anomaly_map: float (h, w), higher is more anomalous, any finite range; counted as float32.
            mask: bool (h, w), the truth at the map's size; all False for a good image.

        Raises:
            MetricError: wrong dtype, different shapes, no pixels, or a score that is not finite.
        """
        scores = _checked_map(anomaly_map, mask)
        labels, regions = ndimage.label(mask, EIGHT_CONNECTED)
        inside = labels[mask]
        self._normal.add(scores[~mask])
        self._anomalous.add(scores[mask], 1.0 / np.bincount(inside)[inside])
        self._regions += regions

    def best_f1(self) -> BestF1 | None:
        """The best F1 and its threshold, see `max_f1_pixel`."""
        return self._sweep().best_f1()

    def f1_at(self, threshold: float) -> float | None:
        """F1 of the pixels with a score of at least `threshold` (compared as float32); None without anomalous pixels."""
        return self._sweep().f1_at(float(np.float32(threshold)))

    def auroc(self) -> float | None:
        """See `pixel_auroc`."""
        return self._sweep().auroc()

    def average_precision(self) -> float | None:
        """See `average_precision`."""
        return self._sweep().average_precision()

    def aupro(self, limit: float = 0.3) -> float | None:
        """See `aupro`."""
        return self._sweep().area_up_to(limit)

    def _sweep(self) -> "_Sweep":
        scores, pixels, overlap = self._anomalous.rows()
        normal, counts, _ = self._normal.rows()
        return _sweep(scores, pixels, normal, counts, overlap / max(self._regions, 1))
