"""What experts spend on an image, in seconds, from what they had to do on it.

    seconds = look + accept * accepted + adjust * adjusted + delete * deleted + add * added

A model of ours: it says how much a bundle saves, not how fast an expert is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from saa_core.refinement.outcome import Effort
from saa_core.reviews import Review

Values = NDArray[np.float64]

DEFAULT = Effort(look=5.0, accept=2.0, adjust=20.0, delete=3.0, add=40.0, events=0)
"""Guesses for a brush in a browser. Published times of drawing lie around them: 7 s for a box by four clicks, 35 s for
a tight box by hand (both Papadopoulos et al., ICCV 2017), 79 s for an outline (Lin et al., COCO, ECCV 2014)."""

LEAST = 30
"""Reviews with a lead time without which the defaults stay."""
LONGEST = 600.0
"""Seconds; a longer lead time counts as this one: the expert was away."""
_HUBER = 1.345  # standard deviations; 95 % as good as least squares where the times are normal
_ROUNDS = 30


def spent(review: Review) -> tuple[int, int, int, int]:
    """What an expert did: (accepted, adjusted, deleted, added) regions.

    A region with a new label counts as adjusted. Where nothing was shown, all that remains was drawn.
    """
    if not review.aided:
        return 0, 0, 0, len(review.masks)
    count = Counter(region.outcome for region in review.regions)
    return count["accepted"], count["adjusted"] + count["relabelled"], count["rejected"], count["added"]


def seconds(effort: Effort, accepted: Values, adjusted: Values, deleted: Values, added: Values) -> Values:
    """Seconds that an expert is expected to spend on each image.

    Args:
        effort: Seconds for each thing to do.
        accepted: float64 (n,) as the others, or shapes that broadcast; regions that are right.
        adjusted: Regions whose border is redrawn.
        deleted: Regions that are no defects.
        added: Regions that were missed.

    Returns:
        float64 (n,), seconds.
    """
    shown = effort.accept * accepted + effort.adjust * adjusted + effort.delete * deleted
    total: Values = effort.look + shown + effort.add * added
    return total


def fit(reviews: Sequence[Review]) -> Effort:
    """What experts of a product spend, by their lead times.

    Non-negative least squares, in which a time far from what is usual for its image pulls no more than one that is
    moderately far (Huber, Robust Statistics, 1981), so that a coffee break does not count; times over `LONGEST` are cut
    before. The defaults count as one review each: what was never seen keeps its default, and what is always seen
    together is told apart by it.

    Args:
        reviews: In any order. Of an annotation its newest version counts, if it was submitted with a lead time.

    Returns:
        `DEFAULT` with fewer than `LEAST` such reviews.
    """
    timed = [(review, review.lead_seconds) for review in _newest(reviews) if review.lead_seconds]
    if len(timed) < LEAST:
        return DEFAULT
    counts = np.array([(1, *spent(review)) for review, _ in timed], np.float64)
    times = np.minimum([time for _, time in timed], LONGEST)
    look, accept, adjust, delete, add = (float(cost) for cost in _robust(counts, times))
    return Effort(look, accept, adjust, delete, add, events=len(timed))


def _newest(reviews: Iterable[Review]) -> list[Review]:
    """The newest version of each annotation, where that is a submitted one."""
    ordered = sorted(reviews, key=lambda review: (review.image, review.source, review.id, review.updated, review.state))
    newest = {(review.image, review.source, review.id): review for review in ordered}
    return [review for review in newest.values() if review.state == "submitted"]


def _robust(counts: Values, times: Values) -> Values:
    """Costs >= 0, float64 (5,), that explain the times, by Huber's winsorised residuals."""
    costs = _least_squares(counts, times)
    for _ in range(_ROUNDS):
        usual = counts @ costs
        reach = _HUBER * 1.4826 * np.median(np.abs(times - usual))  # a standard deviation, from the median
        costs = _least_squares(counts, np.clip(times, usual - reach, usual + reach))
    return costs


def _least_squares(counts: Values, times: Values) -> Values:
    from scipy.optimize import nnls  # half a second, which few need

    known = [DEFAULT.look, DEFAULT.accept, DEFAULT.adjust, DEFAULT.delete, DEFAULT.add]
    costs: Values = nnls(np.vstack([counts, np.eye(5)]), np.concatenate([times, known]))[0]
    return costs
