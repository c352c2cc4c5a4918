"""Masks for those boxes only that can be among the K best: the same decision as with all masks, at a fraction of it.

A mask costs a pass of the refiner's decoder, and Eq. 8 shows K regions. A box without a mask has a bound already,

    language score * exp(gain * highest saliency that any region of the image can have)  >=  score after Eq. 7,

so masks are made in falling order of the bound, until none that is left reaches the K-th region found. Only a bound for
the whole image is exact: a refiner's mask may leave its box, so the saliency inside the box says nothing about it.

Why a box under the K-th score changes nothing, whatever its mask is: Eq. 6-7 score each region by itself; suppression
goes from the best region down, so that a region is removed only by a better one; floor and Eq. 8 cut the same order.
So a region that ranks after the K-th neither removes one before it nor takes its place, and Eq. 9 sees the chosen
alone. A floor works alike: a region under it removes and displaces none that reaches it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from saa_core import confidence, properties
from saa_core.maps import resize
from saa_core.prompts import PromptBundle
from saa_core.refiners.base import Refined
from saa_core.rules import judge, measured_areas, phrase_scores
from saa_core.saliency import rescore, saliency_prompt
from saa_core.types import BoolMask, Boxes, Candidates, FloatMap

Refine = Callable[[Boxes], Refined]
"""Masks of n >= 1 boxes, float32 (n, 4), of one image."""

_EPS = 2.0**-52
_SLACK = 1e-12
"""Rounding that the few operations on a score can add up to, as a share of it."""


def refine_lazily(
    candidates: Candidates, refine: Refine, saliency: FloatMap, bundle: PromptBundle, floor: float, chunk: int
) -> Candidates:
    """Masks of the boxes that can be shown under a bundle; the others stay pending.

    `decide` finds in the result the same regions, map and score as with the masks of all boxes, at any region floor
    from `floor` on; `best_confidence` is the same where one of the two reaches `floor`.

    Args:
        candidates: All boxes pending, for at least the bundle's phrases. Object masks and boxes are there already.
        refine: Makes masks; asked for at most `chunk` boxes at once, each once, and not at all where none can be shown.
        saliency: The saliency map s of Eq. 5 under the bundle, float32 (h, w).
        bundle: The prompts.
        floor: Lowest region floor that the image's set may give, in [0, 1].
        chunk: Boxes at once, at least 1. More are made than needed by less than so many.

    Raises:
        ValueError: The bundle has a phrase that the candidates were not proposed for.
    """
    saliency = resize(saliency, (candidates.height, candidates.width))  # as `judge` would do after every chunk
    bounds = _bounds(candidates, saliency, bundle)
    reaches = (bounds > 0) & (confidence.confidence(bounds) + _SLACK >= floor)
    waiting = confidence.top_k(np.where(reaches, bounds, 0.0), None)[: np.count_nonzero(reaches)]
    while waiting.size:
        rows, waiting = waiting[:chunk], waiting[chunk:]
        candidates = _drawn(candidates, rows, refine)
        # A bound that equals the K-th score still waits: of equal scores the lower row is chosen.
        waiting = waiting[bounds[waiting] >= _kth_score(candidates, saliency, bundle, floor)]
    return candidates


def complete(candidates: Candidates, refine: Refine) -> Candidates:
    """The candidates with the masks that are still pending; `refine` is not asked where none are."""
    if candidates.pending is None or not candidates.pending.any():
        return candidates
    return _drawn(candidates, np.flatnonzero(candidates.pending), refine)


def _bounds(candidates: Candidates, saliency: FloatMap, bundle: PromptBundle) -> NDArray[np.float64]:
    """Highest score after Eq. 7 that each box can have, float64 (n,); 0 for one that is removed without its mask."""
    best = phrase_scores(candidates, bundle).max(axis=1, initial=0)
    enters = (best >= bundle.decision.score_floor) & _may_fit(candidates, bundle)
    salient = np.full(len(candidates), _highest_saliency(saliency, bundle))
    bounds = rescore(np.where(enters, best, 0.0), saliency_prompt(salient, bundle.saliency.gain))
    return bounds * (1 + _SLACK)


def _may_fit(candidates: Candidates, bundle: PromptBundle) -> BoolMask:
    """Eq. 4 as far as boxes alone tell, bool (n,)."""
    if bundle.property.measure == "mask":
        return np.ones(len(candidates), np.bool_)
    areas, object_pixels = measured_areas(candidates, bundle)
    fits = properties.passes(areas, np.ones(len(candidates)), object_pixels, bundle.property)
    return np.asarray(fits.all(axis=1))


def _highest_saliency(saliency: FloatMap, bundle: PromptBundle) -> float:
    """At least what any region of the image can be measured at; a region without pixels is measured at 0.

    A region's sum is a difference of running sums over N pixels, of which each step rounds by up to 2^-53 of N max(s);
    its mean is off by as much. A contrast also has the mean of a frame, which may be the rest that a large region
    leaves of it: few pixels that bear the rounding of N.
    """
    low, high, pixels = float(saliency.min()), float(saliency.max()), saliency.size
    step = _EPS * pixels * max(abs(low), abs(high))
    if bundle.saliency.measure == "contrast":
        return high - low + 2 * pixels * step
    return max(high, 0.0) + step


def _kth_score(candidates: Candidates, saliency: FloatMap, bundle: PromptBundle, floor: float) -> float:
    """Score of the last of K chosen regions among those that have masks; 0 while there are fewer."""
    k = bundle.confidence.top_k
    if k is None:
        return 0.0
    judged = judge(candidates, saliency, bundle, floor)
    return float(judged.scores[judged.chosen[k - 1]]) if len(judged.chosen) >= k else 0.0


def _drawn(candidates: Candidates, rows: NDArray[np.intp], refine: Refine) -> Candidates:
    """The candidates with the masks of some pending rows."""
    refined = refine(candidates.boxes[rows])
    masks, quality = list(candidates.masks), candidates.quality.copy()
    for row, mask in zip(rows, refined.masks, strict=True):
        masks[row] = mask
    quality[rows] = refined.quality
    pending = np.ones(len(masks), np.bool_) if candidates.pending is None else candidates.pending.copy()
    pending[rows] = False
    return replace(candidates, masks=tuple(masks), quality=quality, pending=pending if pending.any() else None)
