"""From which confidence on a region needs no review, proved on judged regions of the random slice.

A threshold is accepted when the exact one-sided bound of Clopper and Pearson (Biometrika 26, 1934) puts the precision
above it at the target or higher. Thresholds are tried one after another, from high to low, each at the full level, and
the first that fails ends it: fixed-sequence testing (Maurer, Hothorn and Lehmacher, in Biometrie in der
chemisch-pharmazeutischen Industrie 6, 1995; for thresholds of a model Angelopoulos et al., Learn then Test, 2021). Of
all thresholds tried, one that is below the target is then accepted with a probability of 1 - confidence at most, since
the thresholds and their order hang on the confidences alone and never on what an expert said.

Which thresholds, is ours: prefixes of the ranked regions at the sizes at which one more error may be allowed (59, 93,
124, ... for 95 %), last of all regions together; between these a test could only be lost. The first is the smallest of
at least a quarter of the regions, so that with much evidence one error at the very top does not end everything.

The proof takes regions as independent, and holds for one look. Regions of one image or lot are alike, so that many
from few images prove less than they seem to; and testing again after every review gives chance more than one try.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from saa_core.prompts import PromptBundle
from saa_core.refinement.outcome import Acceptance, Calibration

Values = NDArray[np.float64]
Bools = NDArray[np.bool_]
Counts = NDArray[np.intp]

LEAST = 10
"""Regions without which no calibration is fitted."""
_FIRST = 4
"""The first threshold has at least one in so many regions above it."""


@cache
def needed(target: float, confidence: float = 0.95, errors: int = 0) -> int:
    """How many regions prove a precision, `errors` of them wrong: without errors 29, 59, 299 for .90, .95, .99.

    Args:
        target: Precision to prove, in (0, 1).
        confidence: Of the proof, in (0, 1).
        errors: At least 0.

    Raises:
        ValueError: A share that is not inside (0, 1).
    """
    _check_share("the target", target)
    _check_share("the confidence", confidence)
    most = errors + 1
    while not _proved(most - errors, most, target, confidence):
        most *= 2
    sizes = range(errors + 1, most + 1)
    return sizes[bisect_left(sizes, True, key=lambda size: _proved(size - errors, size, target, confidence))]


def lower_bound(correct: int, regions: int, confidence: float = 0.95) -> float:
    """Exact one-sided lower bound of a precision (Clopper and Pearson, 1934).

    Args:
        correct: Regions that an expert confirmed, in [0, `regions`].
        regions: How many were judged.
        confidence: Of the bound, in (0, 1).

    Returns:
        In [0, 1): a precision below it gives this many correct regions with a probability of less than
        1 - confidence.

    Raises:
        ValueError: `correct` outside its range, or a confidence outside (0, 1).
    """
    if not 0 <= correct <= regions:
        raise ValueError(f"{correct} correct regions of {regions}: must be between 0 and their number")
    _check_share("the confidence", confidence)
    return float(special.betaincinv(correct, regions - correct + 1, 1 - confidence)) if correct else 0.0


def accept(confidences: Values, correct: Bools, target: float = 0.95, confidence: float = 0.95) -> Acceptance:
    """The lowest confidence from which on a precision is proved, by the procedure at the top.

    Regions of one confidence stay together: the threshold shows all of them or none.

    Args:
        confidences: float64 (n,), of the judged regions of the random slice, in [0, 1].
        correct: bool (n,), which of them an expert confirmed.
        target: Precision to prove, in (0, 1).
        confidence: Of the proof, in (0, 1).

    Returns:
        Without a threshold when nothing is proved; then `missing` is the least number of further regions that could
        change it, if all of them are right and rank above those that were judged.

    Raises:
        ValueError: Arrays that are no pair, or a figure outside its range.
    """
    _check(confidences, correct)
    order = np.argsort(-confidences, kind="stable")
    ranked, errors = confidences[order], np.cumsum(~correct[order], dtype=np.intp)
    size = 0
    for end in _ends(ranked, target, confidence):
        if not _proved(end - int(errors[end - 1]), end, target, confidence):
            break
        size = end
    return Acceptance(
        target=target,
        threshold=float(ranked[size - 1]) if size else None,
        regions=correct.size,
        correct=int(correct.sum()),
        lower=lower_bound(size - int(errors[size - 1]), size, confidence) if size else None,
        missing=0 if size else _missing(ranked, errors, target, confidence),
        calibration=calibrate(confidences, correct),
    )


def calibrate(confidences: Values, correct: Bools) -> Calibration | None:
    """The rising step function from confidence to precision that fits best, by isotonic regression.

    Pool adjacent violators (Ayer et al., Annals of Mathematical Statistics 26, 1955; for scores Zadrozny and Elkan,
    KDD 2002); regions of one confidence are one point with their number as its weight.

    Args:
        confidences: float64 (n,), in [0, 1].
        correct: bool (n,), which regions an expert confirmed.

    Returns:
        None with fewer than `LEAST` regions, and where all of them are right or all are wrong: a step of 1 or 0 would
        be a claim that no evidence bears.

    Raises:
        ValueError: Arrays that are no pair, or a confidence outside [0, 1].
    """
    _check(confidences, correct)
    if correct.size < LEAST or correct.all() or not correct.any():
        return None
    from scipy.optimize import isotonic_regression  # half a second, which few need

    levels, places, counts = np.unique(confidences, return_inverse=True, return_counts=True)
    fit = isotonic_regression(np.bincount(places, correct) / counts, weights=counts)
    starts = fit.blocks[:-1]
    steps = tuple(float(value) for value in np.clip(fit.x[starts], 0, 1))  # means of 0 and 1, give or take a rounding
    return Calibration(tuple(float(level) for level in levels[starts]), steps, correct.size)


def calibrated(calibration: Calibration, confidences: Values) -> Values:
    """The precision that experience gives to confidences.

    Args:
        calibration: Of the same bundle.
        confidences: float64 (n,), in [0, 1].

    Returns:
        float64 (n,) in [0, 1], rising with the confidence; below the first step that step's precision.
    """
    steps = np.searchsorted(calibration.confidences, confidences, side="right") - 1
    precisions: Values = np.array(calibration.precisions, np.float64)[np.maximum(steps, 0)]
    return precisions


def accepted(bundle: PromptBundle, acceptance: Acceptance) -> PromptBundle:
    """The bundle with what was found of its own regions, in place of what a parent's were.

    The threshold is kept to the last bit: it is the confidence of a region that the proof counts.
    """
    found = acceptance.calibration
    steps = tuple(zip(found.confidences, found.precisions, strict=True)) if found else ()
    return bundle.changed(decision={"accept": acceptance.threshold, "calibration": steps})


# --------------------------------------------------------------------------------------------------------------- inside


def _proved(correct: int, regions: int, target: float, confidence: float) -> bool:
    """Whether so many would be correct with a probability of 1 - confidence at most, were the target just missed.

    The same as `lower_bound` >= `target`, without the rounding of its inversion.
    """
    return correct > 0 and bool(special.betainc(correct, regions - correct + 1, target) <= 1 - confidence)


def _ends(ranked: Values, target: float, confidence: float) -> Iterator[int]:
    """Sizes of the prefixes to test, rising; each ends where a confidence ends. `ranked` falls."""
    last = 0
    for size in _sizes(len(ranked), target, confidence):
        if size > last:  # else an earlier prefix had to be extended to it
            last = len(ranked) - int(np.searchsorted(ranked[::-1], ranked[size - 1]))
            yield last


def _sizes(regions: int, target: float, confidence: float) -> Iterator[int]:
    """Sizes at which one more error is allowed, from the first that is large enough; then all regions."""
    errors = 0
    while (size := needed(target, confidence, errors)) <= regions:
        if size * _FIRST >= regions:
            yield size
        errors += 1
    if errors:
        yield regions


def _missing(ranked: Values, errors: Counts, target: float, confidence: float) -> int:
    """How many regions at the top, all right, prove the first threshold."""
    added = max(needed(target, confidence) - len(ranked), 1)
    while not _opens(added, ranked, errors, target, confidence):
        added += 1
    return added


def _opens(added: int, ranked: Values, errors: Counts, target: float, confidence: float) -> bool:
    """Whether the first test succeeds when so many right regions rank above all."""
    end = next(_ends(np.r_[np.full(added, np.inf), ranked], target, confidence))
    wrong = int(errors[end - added - 1]) if end > added else 0
    return _proved(end - wrong, end, target, confidence)


def _check(confidences: Values, correct: Bools) -> None:
    if confidences.ndim != 1 or confidences.shape != correct.shape:
        raise ValueError(f"confidences {confidences.shape} and correct {correct.shape} must be one pair of (n,)")
    wrong = confidences[~((confidences >= 0) & (confidences <= 1))]  # NaN is neither
    if wrong.size:
        raise ValueError(f"a confidence must be in [0, 1], not {wrong[0]}")


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be inside (0, 1), not {value}")
