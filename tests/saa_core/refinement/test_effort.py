"""Costs against those that made the times; what counts of a review."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saa_core.masks import encode
from saa_core.refinement.effort import DEFAULT, LEAST, LONGEST, fit, seconds, spent
from saa_core.refinement.outcome import Effort
from saa_core.reviews import Outcome, PredictedRegion, RegionReview, Review, ReviewedRegion

MASK = encode(np.ones((2, 2), np.bool_))
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TRUE = Effort(look=8.0, accept=3.0, adjust=15.0, delete=2.0, add=30.0, events=0)


def region(outcome: Outcome) -> RegionReview:
    predicted = None if outcome == "added" else PredictedRegion("r", "hole", "a hole", 0.5, MASK)
    reviewed = None if outcome == "rejected" else ReviewedRegion("r", "hole", MASK)
    return RegionReview(outcome, predicted, reviewed, None)


def review(image: str, *outcomes: Outcome, lead: float | None = None, aided: bool = True) -> Review:
    return Review(
        product="p", image=image, source="s", id="1", state="submitted", annotator="a", updated=NOON, verdict=None,
        words="", lead_seconds=lead, run=None, bundle=None, aided=aided, regions=tuple(map(region, outcomes)),
    )  # fmt: skip


def cost(review: Review, effort: Effort = TRUE) -> float:
    return float(seconds(effort, *(np.array(count, np.float64) for count in spent(review))))


def day(count: int, noise: float = 0.0, seed: int = 0) -> list[Review]:
    """Reviews whose lead times are those of `TRUE`, some percent off."""
    rng = np.random.default_rng(seed)
    kinds: list[Outcome] = ["accepted", "adjusted", "rejected", "added", "relabelled"]
    made = []
    for number in range(count):
        outcomes = [kinds[kind] for kind in rng.integers(0, 5, rng.integers(0, 5))]
        held = review(str(number), *outcomes, aided=bool(rng.random() < 0.9))
        made.append(replace(held, lead_seconds=cost(held) * rng.lognormal(0, noise)))
    return made


def costs(effort: Effort) -> list[float]:
    return [effort.look, effort.accept, effort.adjust, effort.delete, effort.add]


# ------------------------------------------------------------------------------------------------------- what was spent


def test_each_outcome_is_counted() -> None:
    outcomes: list[Outcome] = ["accepted", "accepted", "adjusted", "relabelled", "rejected", "added", "added", "added"]
    assert spent(review("a", *outcomes)) == (2, 2, 1, 3)
    assert spent(review("a")) == (0, 0, 0, 0)


def test_where_nothing_was_shown_all_that_remains_was_drawn() -> None:
    assert spent(review("a", "accepted", "adjusted", "rejected", "added", aided=False)) == (0, 0, 0, 3)


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 4), max_size=5))
def test_seconds_are_the_sum_of_what_is_done(images: list[tuple[int, int, int, int]]) -> None:
    counts = np.array(images, np.float64).reshape(-1, 4)
    assert seconds(TRUE, *counts.T).tolist() == [8.0 + 3 * a + 15 * b + 2 * c + 30 * d for a, b, c, d in images]


# -------------------------------------------------------------------------------------------------------------- the fit


def test_costs_are_found_again() -> None:
    effort = fit(day(200))
    assert costs(effort) == pytest.approx(costs(TRUE), rel=0.02, abs=0.1)
    assert effort.events == 200


def test_costs_are_found_again_from_uneven_times() -> None:
    assert costs(fit(day(1000, noise=0.2))) == pytest.approx(costs(TRUE), rel=0.1, abs=0.5)


def test_coffee_breaks_hardly_matter() -> None:
    reviews = day(200, noise=0.1)
    away = [replace(each, lead_seconds=400.0 * n) if (n := number % 10) == 5 else each
            for number, each in enumerate(reviews)]  # fmt: skip
    assert costs(fit(away)) == pytest.approx(costs(fit(reviews)), rel=0.1, abs=1.0)


def test_a_time_that_nobody_spends_counts_as_the_longest() -> None:
    reviews = day(LEAST)
    assert fit([*reviews, review("x", lead=1e9)]) == fit([*reviews, review("x", lead=LONGEST)])


def test_what_was_never_seen_keeps_its_default() -> None:
    effort = fit(
        [review(str(number), *["accepted"] * (number % 3), lead=8 + 3 * (number % 3)) for number in range(300)]
    )
    assert [effort.look, effort.accept] == pytest.approx([8, 3], rel=0.05)
    assert [effort.adjust, effort.delete, effort.add] == pytest.approx([20, 3, 40])


def test_what_is_always_seen_together_keeps_its_sum_and_the_difference_of_the_defaults() -> None:
    effort = fit([review(str(number), "added", lead=25) for number in range(300)])
    assert effort.look + effort.add == pytest.approx(25, rel=0.01)
    assert effort.look == 0  # the default is 40 for the region and 5 for the look


@given(st.lists(st.floats(0.1, 2000), min_size=LEAST, max_size=LEAST + 5), st.randoms())
def test_no_cost_is_negative_and_order_does_not_matter(times: list[float], random: object) -> None:
    reviews = [replace(each, lead_seconds=time) for each, time in zip(day(len(times)), times, strict=True)]
    effort = fit(reviews)
    assert min(costs(effort)) >= 0
    random.shuffle(reviews)  # type: ignore[attr-defined]
    assert fit(reviews) == effort


def test_too_few_reviews_leave_the_defaults() -> None:
    reviews = day(LEAST)
    assert fit([]) == fit(reviews[1:]) == DEFAULT
    assert fit(reviews).events == LEAST


def test_only_the_newest_submitted_version_with_a_time_counts() -> None:
    reviews = day(LEAST)
    later = replace(reviews[0], updated=NOON + timedelta(hours=1))
    for silent in (
        replace(later, state="skipped"),
        replace(later, state="withdrawn"),
        replace(later, lead_seconds=None),
    ):
        assert fit([silent, *reviews]) == DEFAULT
    older = replace(reviews[0], updated=NOON - timedelta(hours=1), lead_seconds=500.0)
    assert fit([older, *reviews]) == fit([*reviews, older]) == fit(reviews)
    other = replace(reviews[0], id="2")
    assert fit([*reviews, other]).events == LEAST + 1
