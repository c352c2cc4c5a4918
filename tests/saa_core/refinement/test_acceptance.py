"""Bounds against literal sums of the binomial, the procedure against a literal one, its promise by simulation."""

from collections.abc import Callable
from itertools import pairwise
from math import comb, inf

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saa_core.prompts import PromptBundle
from saa_core.refinement.acceptance import LEAST, accept, accepted, calibrate, calibrated, lower_bound, needed
from saa_core.refinement.outcome import Acceptance

Judged = list[tuple[float, bool]]

JUDGED = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.3, 0.5, 0.7, 1.0]), st.booleans()), max_size=40)
MOSTLY_RIGHT = st.lists(
    st.tuples(st.integers(0, 30).map(lambda level: level / 30), st.integers(0, 12).map(bool)), max_size=90
)


def run(judged: Judged, target: float = 0.95, confidence: float = 0.95) -> Acceptance:
    confidences = np.array([level for level, _ in judged], np.float64)
    return accept(confidences, np.array([right for _, right in judged], np.bool_), target, confidence)


# ------------------------------------------------------------------------------------------------- oracles, as defined


def tail(correct: int, regions: int, precision: float) -> float:
    """Probability of at least so many correct ones."""
    return sum(comb(regions, k) * precision**k * (1 - precision) ** (regions - k) for k in range(correct, regions + 1))


def needed_by_loop(target: float, confidence: float, errors: int) -> int:
    regions = errors + 1
    while tail(regions - errors, regions, target) > 1 - confidence:
        regions += 1
    return regions


def prefixes_by_loop(ranked: list[float], target: float, confidence: float) -> list[int]:
    n = len(ranked)
    sizes = [needed_by_loop(target, confidence, errors) for errors in range(n)] if n else []
    sizes = [size for size in sizes if n / 4 <= size <= n] + ([n] if sizes and sizes[0] <= n else [])
    return sorted({max(i + 1 for i in range(n) if ranked[i] == ranked[size - 1]) for size in sizes})


def threshold_by_loop(judged: Judged, target: float, confidence: float) -> float | None:
    ranked = sorted(judged, key=lambda each: -each[0])
    threshold = None
    for end in prefixes_by_loop([level for level, _ in ranked], target, confidence):
        if tail(sum(right for _, right in ranked[:end]), end, target) > 1 - confidence:
            return threshold
        threshold = ranked[end - 1][0]
    return threshold


def steps_by_loop(judged: Judged) -> list[tuple[float, float]]:
    """Pool adjacent violators: (lower end, precision)."""
    blocks = [[level, [r for c, r in judged if c == level]] for level in sorted({level for level, _ in judged})]
    changed = True
    while changed:
        changed = False
        for low, high in pairwise(blocks):
            if np.mean(low[1]) >= np.mean(high[1]):
                low[1] = low[1] + high[1]
                blocks.remove(high)
                changed = True
                break
    return [(level, float(np.mean(block))) for level, block in blocks]


# ----------------------------------------------------------------------------------------------------------- the bounds


@pytest.mark.parametrize(("target", "regions"), [(0.90, 29), (0.95, 59), (0.99, 299)])
def test_error_free_regions_that_prove_a_precision(target: float, regions: int) -> None:
    assert needed(target) == regions
    assert lower_bound(regions, regions) >= target > lower_bound(regions - 1, regions - 1)


@given(st.floats(0.05, 0.97), st.floats(0.5, 0.99), st.integers(0, 3))
def test_needed_is_the_smallest_number_that_the_binomial_allows(target: float, confidence: float, errors: int) -> None:
    regions = needed(target, confidence, errors)
    assert tail(regions - errors, regions, target) <= (1 - confidence) * (1 + 1e-9)
    assert regions == errors + 1 or tail(regions - 1 - errors, regions - 1, target) > (1 - confidence) * (1 - 1e-9)


@given(st.integers(1, 60), st.integers(0, 60), st.floats(0.5, 0.999))
def test_lower_bound_is_where_the_tail_is_as_improbable_as_said(correct: int, wrong: int, confidence: float) -> None:
    bound = lower_bound(correct, correct + wrong, confidence)
    assert tail(correct, correct + wrong, bound) == pytest.approx(1 - confidence, rel=1e-6)


def test_nothing_right_proves_nothing() -> None:
    assert lower_bound(0, 0) == lower_bound(0, 100) == 0.0


# -------------------------------------------------------------------------------------------------------- the procedure


@given(JUDGED, st.sampled_from([0.3, 0.5, 0.8]), st.sampled_from([0.6, 0.8]))
def test_the_procedure_is_the_literal_one_with_many_ties(judged: Judged, target: float, confidence: float) -> None:
    assert run(judged, target, confidence).threshold == threshold_by_loop(judged, target, confidence)


@given(MOSTLY_RIGHT)
def test_the_procedure_is_the_literal_one_with_few_ties(judged: Judged) -> None:
    assert run(judged, 0.85, 0.8).threshold == threshold_by_loop(judged, 0.85, 0.8)


@given(MOSTLY_RIGHT, st.randoms())
def test_order_of_the_regions_does_not_matter(judged: Judged, random: object) -> None:
    shuffled = list(judged)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert run(shuffled, 0.8, 0.8) == run(judged, 0.8, 0.8)


@given(MOSTLY_RIGHT)
def test_only_the_order_of_the_confidences_counts(judged: Judged) -> None:
    found = run(judged, 0.8, 0.8)
    squared = run([(level * level, right) for level, right in judged], 0.8, 0.8)
    assert squared.missing == found.missing
    assert squared.lower == found.lower
    assert squared.threshold == (None if found.threshold is None else found.threshold**2)


@given(MOSTLY_RIGHT)
def test_the_bound_above_the_threshold_reaches_the_target(judged: Judged) -> None:
    found = run(judged, 0.8, 0.8)
    if found.threshold is None:
        assert found.lower is None
        return
    above = [right for level, right in judged if level >= found.threshold]
    assert found.lower == lower_bound(sum(above), len(above), 0.8)
    assert (found.lower or 0) >= 0.8 - 1e-12
    assert found.missing == 0
    assert (found.regions, found.correct) == (len(judged), sum(right for _, right in judged))


@given(JUDGED, st.sampled_from([0.5, 0.8]))
def test_missing_is_the_least_number_at_the_top_that_changes_it(judged: Judged, target: float) -> None:
    found = run(judged, target, 0.8)
    assume(found.threshold is None)

    def opens(added: int) -> bool:
        return threshold_by_loop([(inf, True)] * added + judged, target, 0.8) is not None

    assert opens(found.missing)
    assert not any(opens(added) for added in range(found.missing))


def test_without_evidence_everything_is_reviewed() -> None:
    assert run([]) == Acceptance(0.95, None, 0, 0, None, 59, None)


def test_the_last_missing_region_opens() -> None:
    right = [(0.5 + i / 200, True) for i in range(59)]
    assert run(right[1:]).threshold is None
    assert run(right[1:]).missing == 1
    assert run(right) == Acceptance(0.95, 0.5, 59, 59, lower_bound(59, 59), 0, None)


def test_one_error_asks_for_93() -> None:
    judged = [(i / 100, i != 10) for i in range(92)]
    assert run(judged).threshold == 33 / 100  # above the 59 best
    assert run([*judged, (0.99, True)]).threshold == 0.0


def test_an_error_among_the_59_best_ends_it() -> None:
    found = run([(i / 100, i != 50) for i in range(93)])
    assert found.threshold is None
    assert found.missing == 59 - 42  # that many more, with the 42 above the error


def test_an_error_at_the_very_top_does_not_end_it_where_evidence_is_ample() -> None:
    judged = [(i / 1000, i != 999) for i in range(1000)]
    assert run(judged).threshold == 0.0


def test_errors_at_the_bottom_end_it_above_them() -> None:
    judged = [(i / 200, i >= 100) for i in range(200)]
    found = run(judged)
    assert found.threshold == pytest.approx((200 - 93) / 200)
    assert found.correct == 100


def test_ties_stay_together() -> None:
    judged = [(0.9, True)] * 58 + [(0.5, True)] * 20 + [(0.1, False)] * 2
    assert run(judged).threshold == 0.5
    assert run([*judged, (0.5, False)]).threshold is None


def test_constant_confidences_are_one_step() -> None:
    assert run([(0.4, True)] * 59).threshold == 0.4
    assert run([(0.4, True)] * 59 + [(0.4, False)]).threshold is None


def flat(precision: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    return lambda confidences: np.full(confidences.shape, precision)


@pytest.mark.parametrize("regions", [59, 150, 500])
@pytest.mark.parametrize(
    "precision",
    [
        pytest.param(flat(0.9499), id="just below the target everywhere"),
        pytest.param(lambda c: 0.8 + 0.2 * c, id="falling"),
        pytest.param(lambda c: np.where(c > 0.6, 0.98, 0.8), id="falling at once"),
        pytest.param(lambda c: np.where(c > 0.9, 0.5, 0.97), id="worst at the top"),
    ],
)
def test_a_threshold_below_the_target_is_accepted_in_one_of_twenty_trials_at_most(
    precision: Callable[[NDArray[np.float64]], NDArray[np.float64]], regions: int
) -> None:
    trials, rng = 400, np.random.default_rng(regions)
    grid = (np.arange(20_000) + 0.5) / 20_000
    above = np.cumsum(precision(grid)[::-1])[::-1] / np.arange(20_000, 0, -1)  # true precision from there on
    wrong = 0
    for _ in range(trials):
        confidences = rng.random(regions)
        found = accept(confidences, rng.random(regions) < precision(confidences))
        wrong += found.threshold is not None and above[int(found.threshold * 20_000)] < 0.95
    assert wrong / trials <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)


def test_ample_good_evidence_is_nearly_always_enough() -> None:
    rng = np.random.default_rng(7)
    opened = [accept(rng.random(800), rng.random(800) < 0.99).threshold is not None for _ in range(200)]
    assert np.mean(opened) > 0.95


# ---------------------------------------------------------------------------------------------------------- calibration


@given(JUDGED)
def test_calibration_is_pooling_by_the_loop(judged: Judged) -> None:
    found = run(judged, 0.8, 0.8).calibration
    rights = {right for _, right in judged}
    if len(judged) < LEAST or len(rights) < 2:
        assert found is None
        return
    assert found is not None
    steps = steps_by_loop(judged)
    assert found.confidences == tuple(level for level, _ in steps)
    assert found.precisions == pytest.approx([precision for _, precision in steps], abs=1e-12)
    assert found.regions == len(judged)


@given(JUDGED)
def test_calibrated_confidences_rise_and_keep_the_mean(judged: Judged) -> None:
    judged = [*judged, *[(0.3, True), (0.6, False)] * LEAST]
    confidences = np.array([level for level, _ in judged], np.float64)
    correct = np.array([right for _, right in judged], np.bool_)
    found = calibrate(confidences, correct)
    assert found is not None
    values = calibrated(found, np.sort(confidences))
    assert (np.diff(values) >= 0).all()
    assert values.mean() == pytest.approx(correct.mean())


def test_calibrated_below_between_and_above_the_steps() -> None:
    levels = np.array([0.2] * 5 + [0.6] * 5)
    found = calibrate(levels, np.array([True, False, False, False, False, True, True, True, True, False]))
    assert found is not None
    assert calibrated(found, np.array([0.0, 0.2, 0.59, 0.6, 1.0])).tolist() == [0.2, 0.2, 0.2, 0.8, 0.8]
    assert calibrated(found, np.zeros(0)).shape == (0,)


# ----------------------------------------------------------------------------------------------------------- the bundle


@given(MOSTLY_RIGHT)
def test_a_bundle_says_what_was_found_of_its_regions(judged: Judged) -> None:
    found = run([*judged, *[(0.9, True)] * 60, (0.1, False)])
    bundle = PromptBundle(product="plate")
    decision = accepted(bundle, found).decision
    assert decision.accept == found.threshold
    assert found.calibration is not None
    for level in (0.0, 0.1, 0.35, 0.9, 1.0):
        assert decision.precision(level) == calibrated(found.calibration, np.array([level]))[0]
        assert decision.needs_review(level) == (found.threshold is None or level < found.threshold)
    assert accepted(bundle, found).id == accepted(accepted(bundle, found), found).id
    assert PromptBundle.from_yaml(accepted(bundle, found).to_yaml()) == accepted(bundle, found)


def test_a_bundle_keeps_nothing_of_its_parents_proof() -> None:
    plain = PromptBundle(product="plate")
    proved = plain.changed(decision={"accept": 0.7, "calibration": [[0.2, 0.5]]})
    assert accepted(proved, run([])) == plain


# -------------------------------------------------------------------------------------------------------------- refusal


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: needed(1.0), "the target must be inside"),
        (lambda: needed(0.9, 0.0), "the confidence must be inside"),
        (lambda: lower_bound(3, 2), "3 correct regions of 2"),
        (lambda: lower_bound(-1, 2), "-1 correct regions of 2"),
        (lambda: lower_bound(1, 2, float("nan")), "the confidence must be inside"),
        (lambda: run([(0.5, True)], target=0.0), "the target must be inside"),
        (lambda: run([(float("nan"), True)]), "not nan"),
        (lambda: run([(1.5, True)]), r"must be in \[0, 1\], not 1.5"),
        (lambda: calibrate(np.zeros(3), np.zeros(2, np.bool_)), "one pair"),
        (lambda: calibrate(np.zeros((3, 1)), np.zeros((3, 1), np.bool_)), "one pair"),
    ],
)
def test_what_cannot_be_judged_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
