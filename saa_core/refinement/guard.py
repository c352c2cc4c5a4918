"""Whether a better-looking bundle is better: lots held out, the whole selection resampled, limits, plain refusals.

The figure that a search maximises is a promise about images that it saw. So the search is repeated on resamples of the
lots, and each choice is scored on the lots that its resample left out (the out-of-bag estimate of Efron's bootstrap;
Efron and Tibshirani, An Introduction to the Bootstrap, 1993): what that loses to the champion is what selection alone
gains. Lots, never regions or images, are drawn: images of one lot resemble each other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saa_core.refinement.judge import LABELS, Judge
from saa_core.refinement.knobs import Knobs
from saa_core.refinement.menu import Menu
from saa_core.refinement.objective import Tally
from saa_core.refinement.outcome import Interval
from saa_core.refinement.search import LABEL_LEAST, Scope, Searcher, run_together

Floats = NDArray[np.float64]

HELD_OUT = 0.2
"""Least share of the lots that no search ever sees."""
LABEL_LOSS = 0.1
"""How much of a label's reviewed regions a new bundle may stop finding, in [0, 1], beyond the standard error: of a
dozen regions, one more or less is an accident."""
_CERTAIN = 1e-9


@dataclass(frozen=True, slots=True)
class Gate:
    """How much evidence a promotion needs.

    Attributes:
        defective: Least number of reviewed images with masks.
        good: Least number of images reviewed as good.
        quantile: The quantile of the out-of-bag gains that has to be above `gain`, as their mean has to be above 0.
        gain: A smaller one is not worth a new bundle.
        alarms: How much the share of good images with a region may rise out of bag, in [0, 1].
    """

    defective: int
    good: int
    quantile: float
    gain: float
    alarms: float

    def missing(self, defective: int, good: int) -> dict[str, int]:
        """How many images of each kind are still to be reviewed."""
        short = {"defective": self.defective - defective, "good": self.good - good}
        return {kind: number for kind, number in short.items() if number > 0}


STRICT = Gate(defective=8, good=20, quantile=0.2, gain=0.005, alarms=0.05)
RISKY = Gate(defective=4, good=0, quantile=0.4, gain=0.0, alarms=0.1)
"""For a product's first bundle, when somebody asks for it: most promotions hold, some will not."""


def gate_for(*, risk: bool, first: bool) -> Gate:
    """The gate that counts: the looser one only for a first bundle."""
    return RISKY if risk and first else STRICT


@dataclass(frozen=True, slots=True)
class Resampled:
    """What the bootstrap says of a search.

    Attributes:
        gains: float64 (B,), out-of-bag gains of the objective, of the resamples in which one is defined.
        alarms: float64 (B,), how much the false-alarm rate rises out of bag; empty where there are no good images.
        found: For each label with a limit, how much the share of its regions that are found changes, all resamples
            pooled, and the standard error of that share.
    """

    gains: Floats
    alarms: Floats
    found: Mapping[str, tuple[float, float]]

    def interval(self) -> Interval | None:
        """Mean, 20 % and 80 % quantile of the gains; None where none is defined."""
        if not self.gains.size:
            return None
        lower, upper = np.quantile(self.gains, [0.2, 0.8])
        return Interval(float(self.gains.mean()), float(lower), float(upper))

    def refusals(self, gate: Gate) -> tuple[str, ...]:
        """Why the bundle must not be promoted; empty if it may."""
        if not self.gains.size:
            return ("too few lots: no resample leaves out a defective image",)
        reasons = []
        least, mean = float(np.quantile(self.gains, gate.quantile)), float(self.gains.mean())
        if least <= gate.gain + _CERTAIN:
            reasons.append(
                f"not certain enough: on images left out, {gate.quantile:.0%} of repetitions gain {least:+.3f} or less"
            )
        elif mean <= _CERTAIN:
            reasons.append(f"not better on average: {mean:+.3f} on images left out")
        if self.alarms.size and self.alarms.mean() > gate.alarms + _CERTAIN:
            reasons.append(f"more false alarms on good images: {self.alarms.mean():+.1%} on those left out")
        reasons += [
            f"finds fewer of {label!r}: {change:+.0%} of its regions on images left out"
            for label, (change, error) in self.found.items()
            if change + error < -LABEL_LOSS - _CERTAIN
        ]
        return tuple(reasons)


def resample(
    judge: Judge,
    tally: Tally,
    menu: Menu,
    lots: Sequence[str],
    searched: NDArray[np.bool_],
    scope: Scope,
    seed: int,
    times: int,
) -> Resampled:
    """Repeat the whole search on resamples of the lots.

    Args:
        judge: Judges; its bundle is the champion.
        tally: Of the judge's images.
        menu: As the search had it.
        lots: Of each image.
        searched: bool (I,), images that the search may see.
        scope: What the search may move.
        seed: Of the resamples.
        times: B.
    """
    names, number = np.unique(np.array(lots), return_inverse=True)
    drawn = _draw(names.size, number, searched, tally, np.random.default_rng(seed), times)
    weights, left = drawn[:, number] * searched, (drawn[:, number] == 0) * searched
    usable = ((weights @ tally.truth) > 0) & ((left @ tally.truth) > 0)
    weights, left = weights[usable], left[usable].astype(np.float64)
    champion = Knobs.of(judge.bundle)
    searches = [Searcher(champion, menu, tally, each, number, scope) for each in weights]
    chosen = run_together(searches, judge)
    gains, rises, found = np.zeros(len(left)), np.zeros(len(left)), np.zeros((2, len(tally.labels)))
    for place, (knobs, out) in enumerate(zip(chosen, left, strict=True)):
        counts = judge.counts([champion, knobs])
        gains[place] = np.diff(tally.objective(counts, out))[0]
        rises[place] = np.diff(tally.false_alarms(counts, out))[0]
        found += np.tensordot(counts[..., LABELS:], out, axes=(1, 0))
    return Resampled(gains, rises[~np.isnan(rises)], _found(tally, found, left.sum(axis=0), searched))


def _found(tally: Tally, found: Floats, left: Floats, searched: NDArray[np.bool_]) -> dict[str, tuple[float, float]]:
    """`Resampled.found` of the regions that champion and choice found, (2, L), on images left out so often."""
    regions, distinct = left @ tally.label_regions, searched @ tally.label_regions
    limited = [place for place in range(len(tally.labels)) if distinct[place] >= LABEL_LEAST and regions[place]]
    changes = {}
    for place in limited:
        before, after = found[:, place] / regions[place]
        error = math.sqrt(after * (1 - after) / distinct[place])  # of a share of so many different regions
        changes[tally.labels[place]] = (float(after - before), error)
    return changes


def _draw(
    count: int,
    number: NDArray[np.intp],
    searched: NDArray[np.bool_],
    tally: Tally,
    rng: np.random.Generator,
    times: int,
) -> Floats:
    """How often each lot is drawn in each resample, (B, lots): as many with and without defects as there are."""
    defective = np.bincount(number, searched & ~tally.good, count) > 0
    present = np.bincount(number, searched, count) > 0
    drawn = np.zeros((times, count))
    for group in (np.flatnonzero(present & defective), np.flatnonzero(present & ~defective)):
        if group.size:
            drawn[:, group] = rng.multinomial(group.size, np.full(group.size, 1 / group.size), size=times)
    return drawn


def hold_out(product: str, known: Mapping[str, bool], lots: Mapping[str, bool]) -> dict[str, bool]:
    """Which new lots are held out for good.

    Lots are taken in the order of a hash, those with defects and those without apart, and one is held out whenever
    less than `HELD_OUT` of its kind would be. What was decided stays, so a lot that a search saw never becomes one
    that it did not.

    Args:
        product: The product.
        known: Lots that are assigned, and whether they are held out.
        lots: All lots, and whether an image of them is defective.

    Returns:
        For each lot that is not in `known`, whether it is held out.
    """
    found: dict[str, bool] = {}
    for kind in (True, False):
        group = [lot for lot, defective in lots.items() if defective is kind]
        held, total = sum(known.get(lot, False) for lot in group), sum(lot in known for lot in group)
        for lot in sorted((lot for lot in group if lot not in known), key=lambda lot: _place(product, lot)):
            total += 1
            # The first is searched: of a single lot of a kind the search needs it more.
            found[lot] = total > 1 and held < HELD_OUT * total
            held += found[lot]
    return found


def _place(product: str, lot: str) -> bytes:
    return hashlib.sha256(f"hold-out\n{product}\n{lot}".encode()).digest()
