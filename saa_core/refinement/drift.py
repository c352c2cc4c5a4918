"""Whether later lots still look like those that a bundle was proved on. An alarm proposes; it never does anything.

Seven tests of each lot against the reference, each where both sides hold at least `LEAST`:

    confidences, areas     greatest distance of the two distributions (Kolmogorov and Smirnov), limit by Smirnov's tail
    confidences, areas     population stability index, limit by its chi-square law (Yurdakul and Naranjo, Journal of
                           Risk Model Validation 14, 2020)
    accepted regions       lower line of a p-chart; images that show a region: both lines
    mean features          ANOVA-type statistic on standardised channels (Box, Annals of Mathematical Statistics 25,
                           1954; Brunner, Dette and Munk, Journal of the American Statistical Association 92, 1997)

The level `FALSE_ALARMS` is shared among all tests of a call (Bonferroni), so that a calm series stays silent. With many
regions every small difference becomes certain; so the limits of distances are never below a size that matters. The
lines of the p-chart are exact (Fisher's tail, which also counts the reference as the sample that it is) and never
nearer than 3 sigma (Shewhart, 1931).

The tests take regions as independent; where many come from few images, a lot alarms more easily than it should.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Values = NDArray[np.float64]

LEAST = 30
"""Regions, reviewed regions or images of the lot and of the reference without which a test is silent."""
FALSE_ALARMS = 0.05
"""Probability of any alarm while nothing has changed."""
LEAST_DISTANCE = 0.1
"""Of two distributions: a tenth of the regions has to be elsewhere. Ours."""
LEAST_INDEX = 0.25
"""Stability index that is taken as a change worth an action (Siddiqi, Credit Risk Scorecards, 2006)."""
LEAST_SHIFT = 0.2
"""Of mean features, in standard deviations: a small effect (Cohen, Statistical Power Analysis, 1988)."""
ADVICE = "look at its images; where the regions are wrong, refine, or roll back if the bundle is new"

_BINS = 10
_BIN_REGIONS = 10  # expected in each, so that chi-square is a fair law of the index
_THREE_SIGMA = float(special.ndtr(-3))
_LEAST_DEVIATION = 2e-3  # channels that vary less hold rounding; the same as for the order of review


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What one lot, or the reference, holds.

    Attributes:
        lot: Its name.
        confidences: float64 (n,), of its shown regions, in [0, 1].
        areas: float64 (n,), of the same, shares of the image in [0, 1].
        images: Images that these regions were looked for in.
        shown: Those of them on which a region is shown.
        accepted: Reviewed regions that an expert left as they were.
        reviewed: Shown regions that an expert judged.
        descriptors: float (m, C), mean features of images, in any units; they may be others, since no bundle is asked.
    """

    lot: str
    confidences: Values
    areas: Values
    images: int
    shown: int
    accepted: int
    reviewed: int
    descriptors: NDArray[np.floating]

    def __post_init__(self) -> None:
        if self.confidences.shape != self.areas.shape or self.descriptors.ndim != 2:
            raise ValueError(f"lot {self.lot}: confidences and areas must be (n,), descriptors (m, C)")
        if not 0 <= self.shown <= self.images or not 0 <= self.accepted <= self.reviewed:
            raise ValueError(f"lot {self.lot}: more images shown than there are, or more accepted than reviewed")

    @property
    def regions(self) -> int:
        """Shown regions."""
        return len(self.confidences)


@dataclass(frozen=True, slots=True)
class Alarm:
    """A lot that differs.

    Attributes:
        lot: Its name.
        what: The test that says so.
        statistic: What was found, in the units of the test.
        limit: The value that it went beyond.
        sentence: Both in words, with what to do.
    """

    lot: str
    what: str
    statistic: float
    limit: float
    sentence: str


def drift(reference: Sample, lots: Sequence[Sample]) -> tuple[Alarm, ...]:
    """Alarms of all lots, in their order; of a lot in the order of the tests.

    Args:
        reference: What the bundle was proved on. None of the lots should be part of it.
        lots: To compare with it, each alone.

    Raises:
        ValueError: Descriptors of different widths.
    """
    tests = [(lot, test) for lot in lots for test in _TESTS if test.size(reference) >= LEAST <= test.size(lot)]
    level = FALSE_ALARMS / max(len(tests), 1)
    return tuple(alarm for lot, test in tests for alarm in test.alarms(reference, lot, level))


# ----------------------------------------------------------------------------------------------------------- statistics


def distance(a: Values, b: Values) -> float:
    """The greatest distance of two empirical distribution functions, in [0, 1] (Kolmogorov and Smirnov).

    Args:
        a: float64 (n,), n at least 1.
        b: float64 (m,), m at least 1.
    """
    points = np.concatenate([a, b])
    shares = [np.searchsorted(np.sort(each), points, side="right") / len(each) for each in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())


def distance_limit(n: int, m: int, level: float) -> float:
    """The distance that samples of n and m from one distribution exceed with a probability of about `level`.

    From the first term of Smirnov's tail, 2 exp(-2 d² n m / (n + m)).
    """
    return float(np.sqrt(-np.log(level / 2) / 2 * (1 / n + 1 / m)))


def stability_index(reference: Values, values: Values) -> tuple[float, int]:
    """Population stability index: the sum over the bins of (q - p) ln(q / p), p and q the shares of the two samples.

    Bins are quantiles of the reference, ten or fewer, so that the smaller sample has about 10 values in each. Half a
    value is added to each bin, so that an empty one has a logarithm.

    Args:
        reference: float64 (n,), n at least 1.
        values: float64 (m,), m at least 1.

    Returns:
        The index, at least 0, and the number of bins, at least 2.
    """
    bins = int(np.clip(min(len(reference), len(values)) // _BIN_REGIONS, 2, _BINS))
    edges = np.unique(np.quantile(reference, np.arange(1, bins) / bins))
    p, q = (_shares(np.searchsorted(edges, each, side="right"), len(edges) + 1) for each in (reference, values))
    return float(((q - p) * np.log(q / p)).sum()), len(edges) + 1


def stability_limit(bins: int, n: int, m: int, level: float) -> float:
    """The index that samples of n and m from one distribution exceed with a probability of about `level`.

    The index is (1/n + 1/m) times a chi-square variable of bins - 1 degrees of freedom (Yurdakul and Naranjo, 2020).
    """
    return float((1 / n + 1 / m) * special.chdtri(bins - 1, level))


def lowest_usual(drawn: int, marked: int, total: int, level: float) -> int:
    """Lower line of a p-chart: the lowest count that is no alarm.

    Args:
        drawn: Size of the lot, at most `total`.
        marked: Of lot and reference together, how many are counted, such as accepted.
        total: Size of both together.
        level: Probability of a lower count where lot and reference have one rate; at most that of 3 sigma is used.

    Returns:
        In [0, `drawn`]; 0 where no count would be unlikely enough.
    """
    counts = np.arange(drawn + 1)
    chances = np.exp(_choose(marked, counts) + _choose(total - marked, drawn - counts) - _choose(total, drawn))
    return int(np.searchsorted(chances.cumsum(), min(level, _THREE_SIGMA), side="right"))


def mean_shift(reference: NDArray[np.floating], values: NDArray[np.floating], level: float) -> tuple[float, float]:
    """How far the mean has moved, in standard deviations, and how far it may.

    The mean square of the channels' standardised shifts; under no change it follows F with h and n + m - 2 degrees of
    freedom, h = C² / sum r² over all pairs of channels, r their correlation within the two samples. It is defined with
    more channels than images too, where Hotelling's is not; r is then too large, h too small, the limit too wide.

    Args:
        reference: float (n, C), n at least 2.
        values: float (m, C), m at least 2.
        level: Probability to be beyond the limit while nothing has changed.

    Returns:
        Root mean square over the channels of shift / standard deviation, and its limit.

    Raises:
        ValueError: Descriptors of different widths.
    """
    if reference.shape[1] != values.shape[1]:
        raise ValueError(f"descriptors of {reference.shape[1]} and {values.shape[1]} channels cannot be compared")
    samples = [np.asarray(each, np.float64) for each in (reference, values)]
    inside = np.concatenate([each - each.mean(axis=0) for each in samples])
    freedom = len(inside) - 2
    deviations = np.maximum(np.sqrt((inside**2).sum(axis=0) / freedom), _LEAST_DEVIATION)
    shift = (samples[1].mean(axis=0) - samples[0].mean(axis=0)) / deviations
    limit = special.fdtri(_dimensions(inside / deviations, freedom), freedom, 1 - level)
    apart = 1 / len(reference) + 1 / len(values)
    return float(np.sqrt((shift**2).mean())), float(np.sqrt(limit * apart))


def _shares(places: NDArray[np.intp], bins: int) -> Values:
    counts = np.bincount(places, minlength=bins) + 0.5
    shares: Values = counts / counts.sum()
    return shares


def _choose(n: int, k: int | NDArray[np.intp]) -> Values:
    """Logarithm of n over k, minus infinity where k is no count of n."""
    ways: Values = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    return np.where((k >= 0) & (k <= n), ways, -np.inf)


def _dimensions(inside: Values, freedom: int) -> float:
    """As how many independent channels these count; `inside` is standardised."""
    correlations = inside.T @ inside / freedom
    np.fill_diagonal(correlations, 1)  # also of a channel that does not vary
    return float(len(correlations) ** 2 / (correlations**2).sum())


# ----------------------------------------------------------------------------------------------------------- the alarms


@dataclass(frozen=True, slots=True)
class _Test:
    """One way to compare: how much of a sample it goes by, and its alarms at a level."""

    size: Callable[[Sample], int]
    alarms: Callable[[Sample, Sample, float], Iterator[Alarm]]


def _distances(name: str, values: Callable[[Sample], Values]) -> _Test:
    def alarms(reference: Sample, lot: Sample, level: float) -> Iterator[Alarm]:
        found = distance(values(reference), values(lot))
        limit = max(distance_limit(reference.regions, lot.regions, level), LEAST_DISTANCE)
        if found > limit:
            said = f"at least {found:.0%} of its regions have other {name} than before (limit {limit:.0%})"
            yield _alarm(lot, f"distance of {name}", found, limit, said)

    return _Test(lambda sample: sample.regions, alarms)


def _indices(name: str, values: Callable[[Sample], Values]) -> _Test:
    def alarms(reference: Sample, lot: Sample, level: float) -> Iterator[Alarm]:
        found, bins = stability_index(values(reference), values(lot))
        limit = max(stability_limit(bins, reference.regions, lot.regions, level), LEAST_INDEX)
        if found > limit:
            said = f"the {name} of its regions have a stability index of {found:.2f} (limit {limit:.2f})"
            yield _alarm(lot, f"stability of {name}", found, limit, said)

    return _Test(lambda sample: sample.regions, alarms)


def _accepted(reference: Sample, lot: Sample, level: float) -> Iterator[Alarm]:
    total, marked = reference.reviewed + lot.reviewed, reference.accepted + lot.accepted
    lowest = lowest_usual(lot.reviewed, marked, total, level)
    if lot.accepted < lowest:
        rate, limit = lot.accepted / lot.reviewed, lowest / lot.reviewed
        said = f"experts accepted {rate:.0%} of its regions, before {reference.accepted / reference.reviewed:.0%}"
        yield _alarm(lot, "accept rate", rate, limit, f"{said} (limit {limit:.0%})")


def _shown(reference: Sample, lot: Sample, level: float) -> Iterator[Alarm]:
    total, marked = reference.images + lot.images, reference.shown + lot.shown
    lowest = lowest_usual(lot.images, marked, total, level / 2)
    highest = lot.images - lowest_usual(lot.images, total - marked, total, level / 2)
    if not lowest <= lot.shown <= highest:
        rate, limit = lot.shown / lot.images, (lowest if lot.shown < lowest else highest) / lot.images
        said = f"{rate:.0%} of its images show a region, before {reference.shown / reference.images:.0%}"
        yield _alarm(lot, "images with regions", rate, limit, f"{said} (limit {limit:.0%})")


def _features(reference: Sample, lot: Sample, level: float) -> Iterator[Alarm]:
    found, usual = mean_shift(reference.descriptors, lot.descriptors, level)
    limit = max(usual, LEAST_SHIFT)
    if found > limit:
        said = f"its images look different: mean features moved by {found:.2f} standard deviations (limit {limit:.2f})"
        yield _alarm(lot, "mean features", found, limit, said)


def _alarm(lot: Sample, what: str, statistic: float, limit: float, said: str) -> Alarm:
    return Alarm(lot.lot, what, statistic, limit, f"Lot {lot.lot}: {said}: {ADVICE}.")


_TESTS = (
    _distances("confidences", lambda sample: sample.confidences),
    _distances("areas", lambda sample: sample.areas),
    _indices("confidences", lambda sample: sample.confidences),
    _indices("areas", lambda sample: sample.areas),
    _Test(lambda sample: sample.reviewed, _accepted),
    _Test(lambda sample: sample.images, _shown),
    _Test(lambda sample: len(sample.descriptors), _features),
)
