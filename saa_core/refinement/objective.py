"""What a search maximises, and all other figures of a bundle, from its counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saa_core.refinement.effort import seconds
from saa_core.refinement.evidence import ImageEvidence
from saa_core.refinement.judge import ALARM, HIT, LABELS, NEAR, REGION_HIT, SHOWN
from saa_core.refinement.outcome import Effort, Figures

Floats = NDArray[np.float64]
Counts = NDArray[np.floating[Any]]
"""(C, I, 5 + L), as `Judge.counts` gives them."""


@dataclass(frozen=True)
class Tally:
    """Sums over the reviewed images.

    Attributes:
        images: The I images, in the order of the counts.
        labels: The L labels, in the order of the counts.
    """

    images: Sequence[ImageEvidence]
    labels: Sequence[str]

    @cached_property
    def truth(self) -> Floats:
        """Defective share of each image, (I,)."""
        return np.array([image.truth for image in self.images], np.float64)

    @cached_property
    def regions(self) -> Floats:
        """Reviewed regions of each image, (I,)."""
        return np.array([len(image.labels) for image in self.images], np.float64)

    @cached_property
    def good(self) -> NDArray[np.bool_]:
        """Which images an expert found nothing on, (I,)."""
        return np.array([image.good for image in self.images], np.bool_)

    @cached_property
    def label_regions(self) -> Floats:
        """Reviewed regions of each image by label, (I, L)."""
        rows = [[image.labels.count(label) for label in self.labels] for image in self.images]
        return np.array(rows, np.float64).reshape(len(self.images), len(self.labels))

    def objective(self, counts: Counts, weights: Floats) -> Floats:
        """Mean of pixel F1 and region F1.

        Args:
            counts: (C, I, 5 + L).
            weights: (..., I), how often each image counts.

        Returns:
            float64 (..., C) in [0, 1]; NaN where no defective image counts.
        """
        hits, alarms, matched, shown = (weights @ counts[..., column].T for column in (HIT, ALARM, REGION_HIT, SHOWN))
        truth, regions = (weights @ self.truth)[..., None], (weights @ self.regions)[..., None]
        mean: Floats = (f1(hits, alarms, truth) + f1(matched, shown - matched, regions)) / 2
        return mean

    def false_alarms(self, counts: Counts, weights: Floats) -> Floats:
        """Share of the good images on which a region is shown, (..., C); NaN where no good image counts."""
        good = weights * self.good
        alarmed = good @ (counts[..., SHOWN] > 0).T
        share: Floats = _divided(alarmed, good.sum(axis=-1)[..., None])
        return share

    def found(self, counts: Counts, weights: Floats) -> Floats:
        """Share of the reviewed regions of each label that are found, (..., C, L); NaN where a label has none."""
        found = np.tensordot(weights, counts[..., LABELS:], axes=([-1], [1]))
        share: Floats = _divided(found, (weights @ self.label_regions)[..., None, :])
        return share

    def seconds(self, counts: Counts, weights: Floats, effort: Effort) -> Floats:
        """What an expert is expected to spend on an image, (C,), seconds."""
        near, matched, shown = (counts[..., column].astype(np.float64) for column in (NEAR, REGION_HIT, SHOWN))
        each = seconds(effort, near, matched - near, shown - matched, self.regions - matched)
        return np.asarray(each @ weights / weights.sum(), np.float64)

    def figures(self, counts: Counts, weights: Floats, effort: Effort) -> Figures:
        """All figures of one bundle; `counts` is (1, I, 5 + L)."""
        hits, alarms, matched, shown = (
            float(weights @ counts[0, :, column]) for column in (HIT, ALARM, REGION_HIT, SHOWN)
        )
        truth, regions = float(weights @ self.truth), float(weights @ self.regions)
        found = self.found(counts, weights)[0]
        return Figures(
            objective=_known(self.objective(counts, weights)[0]),
            pixel_f1=_known(f1(hits, alarms, truth)),
            pixel_precision=_known(_divided(hits, hits + alarms)),
            pixel_recall=_known(_divided(hits, truth)),
            region_f1=_known(f1(matched, shown - matched, regions)),
            region_precision=_known(_divided(matched, shown)),
            region_recall=_known(_divided(matched, regions)),
            false_alarms=_known(self.false_alarms(counts, weights)[0]),
            recall={label: float(share) for label, share in zip(self.labels, found, strict=True) if share == share},
            seconds=_known(self.seconds(counts, weights, effort)[0]) if weights.any() else None,
        )


def f1(hits: Any, alarms: Any, truth: Any) -> Any:
    """F1 of `hits` true positives, `alarms` false ones, and `truth` positives in all; NaN where there are none."""
    return np.where(truth > 0, _divided(2 * hits, hits + alarms + truth), np.nan)


def _divided(part: Any, whole: Any) -> Any:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(part, whole)


def _known(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
