"""Statistics against scipy and literal loops; calm series stay silent, shifted ones do not, by simulation."""

from collections.abc import Sequence
from dataclasses import replace
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import stats

from saa_core.refinement.drift import (
    ADVICE,
    FALSE_ALARMS,
    LEAST,
    LEAST_DISTANCE,
    Alarm,
    Sample,
    distance,
    distance_limit,
    drift,
    lowest_usual,
    mean_shift,
    stability_index,
    stability_limit,
)

Values = NDArray[np.float64]
FEW_LEVELS = hnp.arrays(np.float64, st.integers(1, 60), elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]))
NONE = np.zeros(0)


def lot(
    rng: np.random.Generator, name: str = "7", images: int = 200, *, lift: float = 0.0, grow: float = 1.0,
    rate: float = 0.8, share: float = 0.4, move: float = 0.0,
) -> Sample:  # fmt: skip
    """A lot of images, with one or two regions on some; each argument is one way to drift."""
    shown = int(rng.binomial(images, share))
    regions = shown + int(rng.binomial(shown, 0.5))
    return Sample(
        lot=name,
        confidences=np.clip(rng.beta(4, 4, regions) + lift, 0, 1),
        areas=np.minimum(rng.lognormal(-5, 1, regions) * grow, 1),
        images=images,
        shown=shown,
        accepted=int(rng.binomial(regions, rate)),
        reviewed=regions,
        descriptors=rng.normal(move, 1, (images, 16)) @ MIX,
    )


MIX = np.random.default_rng(99).normal(0, 1, (16, 24)) * np.geomspace(1, 0.01, 24)  # 24 channels, correlated, uneven


def drifted(seed: int, images: int = 400, **how: float) -> tuple[Alarm, ...]:
    rng = np.random.default_rng(seed)
    return drift(lot(rng, "before", 800), [lot(rng, images=images, **how)])


def names(alarms: Sequence[Alarm]) -> set[str]:
    return {alarm.what for alarm in alarms}


# ------------------------------------------------------------------------------------------------------ each statistic


@given(FEW_LEVELS, FEW_LEVELS)
def test_distance_is_that_of_scipy(a: Values, b: Values) -> None:
    a, b = np.tile(a, 2), np.tile(b, 2)  # scipy cannot compare one value with one
    assert distance(a, b) == pytest.approx(stats.ks_2samp(a, b, method="asymp").statistic, abs=1e-12)


@given(FEW_LEVELS, FEW_LEVELS)
def test_distance_of_a_rising_function_is_the_same(a: Values, b: Values) -> None:
    assert distance(a**3, b**3) == distance(a, b) == distance(b, a)


def test_the_limit_of_the_distance_has_the_level_of_scipy() -> None:
    limit = distance_limit(4000, 6000, 0.001)
    assert stats.kstwobign.sf(limit * np.sqrt(4000 * 6000 / 10_000)) == pytest.approx(0.001, rel=1e-6)


def index_by_loop(reference: Values, values: Values) -> float:
    bins = min(10, max(2, min(len(reference), len(values)) // 10))
    edges = sorted({float(np.quantile(reference, i / bins)) for i in range(1, bins)})
    total = 0.0
    for low, high in zip([-np.inf, *edges], [*edges, np.inf], strict=True):
        p, q = (
            (sum(low <= value < high for value in each) + 0.5) / (len(each) + 0.5 * (len(edges) + 1))
            for each in (reference, values)
        )
        total += (q - p) * log(q / p)
    return total


@given(FEW_LEVELS, FEW_LEVELS)
def test_stability_index_is_that_of_the_loop(reference: Values, values: Values) -> None:
    index, bins = stability_index(reference, values)
    assert index == pytest.approx(index_by_loop(reference, values), abs=1e-12)
    assert index >= 0
    assert 2 <= bins <= 10


def test_the_limit_of_the_index_is_chi_square() -> None:
    assert stability_limit(10, 100, 300, 0.01) == pytest.approx(stats.chi2.isf(0.01, 9) * (1 / 100 + 1 / 300))


@given(st.integers(1, 60), st.integers(1, 60), st.data(), st.floats(1e-5, 0.5))
def test_lower_line_is_that_of_fishers_tail(drawn: int, before: int, data: st.DataObject, level: float) -> None:
    marked = data.draw(st.integers(0, drawn + before))
    lowest = lowest_usual(drawn, marked, drawn + before, level)
    law = stats.hypergeom(drawn + before, marked, drawn)
    level = min(level, stats.norm.sf(3))
    assert lowest == 0 or law.cdf(lowest - 1) <= level * (1 + 1e-9)
    assert lowest <= drawn
    assert law.cdf(lowest) >= level * (1 - 1e-9)


def shift_by_loop(reference: Values, values: Values) -> float:
    total = 0.0
    for channel in range(reference.shape[1]):
        a, b = reference[:, channel], values[:, channel]
        pooled = (a.var(ddof=1) * (len(a) - 1) + b.var(ddof=1) * (len(b) - 1)) / (len(a) + len(b) - 2)
        total += (b.mean() - a.mean()) ** 2 / pooled
    return float(np.sqrt(total / reference.shape[1]))


def test_mean_shift_is_that_of_the_loop_in_any_units() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (40, 3)), rng.normal(0.4, 1, (35, 3))
    found, limit = mean_shift(a, b, 0.01)
    assert found == pytest.approx(shift_by_loop(a, b))
    units = np.array([1000.0, -3.0, 0.5])
    assert mean_shift(a * units + 7, b * units + 7, 0.01) == pytest.approx((found, limit))
    assert mean_shift(b, a, 0.01) == pytest.approx((found, limit))


def test_mean_shift_of_one_channel_is_the_t_test() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, (40, 1)), rng.normal(0.8, 1, (35, 1))
    level = stats.ttest_ind(a[:, 0], b[:, 0]).pvalue
    found, limit = mean_shift(a, b, level)
    assert found == pytest.approx(limit)


def test_copies_of_a_channel_change_nothing() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(0, 1, (40, 1)), rng.normal(0.4, 1, (35, 1))
    assert mean_shift(np.tile(a, 9), np.tile(b, 9), 0.01) == pytest.approx(mean_shift(a, b, 0.01))


def test_a_channel_that_does_not_vary_is_no_reason_to_fail() -> None:
    still = np.ones((40, 2))
    assert mean_shift(still, still, 0.01)[0] == 0
    assert mean_shift(still, still + 1e-4, 0.01)[0] == pytest.approx(0.05)  # rounding
    found, limit = mean_shift(still, still + 0.1, 0.01)
    assert found > limit


# ----------------------------------------------------------------------------------------------------------- the alarms


def test_a_calm_series_alarms_in_one_of_twenty_trials_at_most() -> None:
    trials, rng = 150, np.random.default_rng(5)
    alarms = 0
    for _ in range(trials):
        reference = lot(rng, "before", int(rng.integers(60, 600)))
        alarms += bool(drift(reference, [lot(rng, images=int(rng.integers(40, 400))) for _ in range(6)]))
    assert alarms / trials <= FALSE_ALARMS + 3 * np.sqrt(FALSE_ALARMS * (1 - FALSE_ALARMS) / trials)


def test_each_shift_is_seen_by_its_test() -> None:
    assert names(drifted(1, lift=0.2)) == {"distance of confidences", "stability of confidences"}
    assert names(drifted(2, grow=4.0)) == {"distance of areas", "stability of areas"}
    assert names(drifted(3, rate=0.4)) == {"accept rate"}
    assert names(drifted(4, share=0.8)) == names(drifted(5, share=0.15)) == {"images with regions"}
    assert names(drifted(6, move=0.5)) == {"mean features"}


def test_a_shift_is_seen_nearly_always() -> None:
    for how in ({"lift": 0.2}, {"grow": 4.0}, {"rate": 0.4}, {"share": 0.8}, {"move": 0.5}):
        assert np.mean([bool(drifted(seed, 200, **how)) for seed in range(20)]) > 0.9


def test_more_accepted_regions_than_before_are_no_alarm() -> None:
    assert drifted(8, rate=1.0) == ()


def test_a_difference_without_weight_is_no_alarm_however_certain() -> None:
    a = np.linspace(0, 1, 100_000)
    before = Sample("before", a, a, 0, 0, 0, 0, np.zeros((0, 2)))
    later = replace(before, lot="7", confidences=a * 0.95)
    assert distance_limit(100_000, 100_000, 1e-6) < distance(a, a * 0.95) < LEAST_DISTANCE
    assert drift(before, [later]) == ()


def test_each_alarm_says_what_was_found_and_what_to_do() -> None:
    alarms = [
        *drifted(1, lift=0.2),
        *drifted(3, rate=0.4),
        *drifted(4, share=0.8),
        *drifted(5, share=0.15),
        *drifted(6, move=0.5),
    ]
    assert all(alarm.lot == "7" and alarm.sentence.startswith("Lot 7: ") for alarm in alarms)
    assert all(alarm.sentence.endswith(f"): {ADVICE}.") for alarm in alarms)
    below = {"accept rate": True, "mean features": False}
    assert all((alarm.statistic < alarm.limit) == below[alarm.what] for alarm in alarms if alarm.what in below)
    higher, lower = (alarm for alarm in alarms if alarm.what == "images with regions")
    assert higher.statistic > higher.limit > lower.limit > lower.statistic


def test_the_figures_of_an_alarm() -> None:
    before = Sample("before", NONE, NONE, 0, 0, 80, 100, np.zeros((0, 2)))
    (alarm,) = drift(before, [replace(before, lot="7", accepted=20, reviewed=50)])
    lowest = next(k for k in range(51) if stats.hypergeom(150, 100, 50).cdf(k) > stats.norm.sf(3))
    assert (alarm.statistic, alarm.limit) == (0.4, lowest / 50)
    assert alarm.sentence == (
        f"Lot 7: experts accepted 40% of its regions, before 80% (limit {lowest / 50:.0%}): {ADVICE}."
    )


def test_too_little_is_silent() -> None:
    rng = np.random.default_rng(3)
    before = lot(rng, "before", 800)
    few, enough = (
        Sample("7", np.ones(size), np.ones(size), size, size, 0, size, np.full((size, 24), 9.0))
        for size in (LEAST - 1, LEAST)
    )
    assert drift(before, []) == drift(before, [few]) == drift(few, [before]) == ()
    assert len(drift(before, [enough])) == 7


def test_lots_come_in_their_order_and_more_lots_widen_the_limits() -> None:
    rng = np.random.default_rng(4)
    before, far, calm = lot(rng, "before"), lot(rng, "far", 50, move=0.8), lot(rng, "calm")
    alone = drift(before, [far])
    among = drift(before, [calm] * 40 + [far])
    assert {alarm.lot for alarm in among} == {"far"}
    assert among[0].limit > alone[0].limit
    assert [alarm.lot for alarm in drift(before, [replace(far, lot="b"), replace(far, lot="a")])] == ["b", "a"]


@given(st.integers(0, 1000))
def test_the_order_within_a_lot_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = lot(rng, "before", 100), lot(rng, lift=0.3, move=1.0)
    order, images = rng.permutation(after.regions), rng.permutation(after.images)
    shuffled = replace(
        after,
        confidences=after.confidences[order],
        areas=after.areas[order],
        descriptors=after.descriptors[images],
    )
    found, same = drift(before, [after]), drift(before, [shuffled])
    assert [alarm.sentence for alarm in found] == [alarm.sentence for alarm in same]


@pytest.mark.parametrize(
    "wrong",
    [
        {"areas": np.zeros(3)},
        {"descriptors": np.zeros(3)},
        {"shown": 3},
        {"shown": -1},
        {"accepted": 2},
        {"accepted": -1},
    ],
)
def test_a_sample_that_contradicts_itself_is_refused(wrong: dict[str, object]) -> None:
    sample = Sample("7", np.zeros(2), np.zeros(2), 2, 1, 1, 1, np.zeros((2, 4)))
    with pytest.raises(ValueError, match="lot 7: "):
        replace(sample, **wrong)  # type: ignore[arg-type]


def test_descriptors_of_different_models_are_refused() -> None:
    with pytest.raises(ValueError, match="24 and 3 channels"):
        mean_shift(np.zeros((40, 24)), np.zeros((40, 3)), 0.01)
