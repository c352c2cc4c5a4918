"""The account: figures of phrases, curves and images by hand, and what was tried in words."""

import math

import numpy as np
import pytest

from saa_core.refinement import account
from saa_core.refinement.knobs import Knobs
from saa_core.refinement.outcome import PhraseRow
from saa_core.refinement.search import Step
from tests.saa_core.refinement.squares import BUNDLE, PHRASES, Bench, Found, image, plates

START = Knobs.of(BUNDLE)
SCRATCH, DENT, DIRT = Found(3, (0.4, 0.8, 0.1)), Found(9, (0.6, 0.2, 0.1)), Found(20, (0.2, 0.1, 0.7))


def laid() -> Bench:
    """Two scratches and a dent that are shown, one scratch that no candidate reaches, dirt on three images of four."""
    return Bench(
        (
            image("both", [SCRATCH, DENT, DIRT], {3: "scratch", 9: "dent"}),
            image("one", [SCRATCH, DIRT], {3: "scratch"}),
            image("missed", [], {3: "scratch"}),
            image("good", [DIRT]),
        )
    )


def rows(bench: Bench, knobs: Knobs = START, **sources: str) -> tuple[PhraseRow, ...]:
    return account.phrase_rows(bench.judge, bench.tally, bench.menu, bench.weights, knobs, sources, {"dirt": ("dirt",)})


def said(step: Step, chosen: Knobs | None = None, **sources: str) -> tuple[str, str, bool, float | None]:
    searcher = laid().searcher()
    searcher.steps.append(step)
    (trial,) = account.trials(searcher, chosen or step.after, PHRASES, sources)
    return trial.what, trial.why, trial.taken, trial.objective


# -------------------------------------------------------------------------------------------------------------- phrases


def test_phrases_are_credited_with_what_they_score_best_on() -> None:
    general, scratch, dirt = rows(laid(), scratch="an expert's word")
    assert (general.coverage, general.precision, general.recall) == (1 / 4, 1, 1 / 4)
    assert (scratch.coverage, scratch.precision, scratch.recall) == (2 / 4, 1, 2 / 4)
    assert (dirt.coverage, dirt.precision, dirt.recall) == (0, 0, 0)
    assert [each.kind for each in (general, scratch, dirt)] == ["agnostic", "specific", "specific"]
    assert [each.source for each in (general, scratch, dirt)] == ["champion", "an expert's word", "champion"]
    assert [each.unknown_words for each in (general, scratch, dirt)] == [(), (), ("dirt",)]


def test_a_phrase_is_worth_what_is_lost_without_it() -> None:
    bench = laid()
    silent = START._replace(weights=(1.0, 1.0, 0.0))
    with_it, without = bench.objective(START, silent)
    assert rows(bench)[2].unique == pytest.approx(with_it - without)


def test_phrases_that_show_nothing_have_no_precision() -> None:
    silent = START._replace(weights=(1.0, 1.0, 0.0))
    dirt = rows(laid(), silent)[2]
    assert (dirt.weight, dirt.precision, dirt.recall, dirt.unique) == (0, None, 0, 0)


def test_images_that_do_not_count_are_left_out_of_the_phrases() -> None:
    bench = laid()
    bench.weights = np.array([0.0, 1.0, 0.0, 0.0])
    assert [each.recall for each in rows(bench)] == [0, 1, 0]


def test_phrases_overlap_with_the_one_that_is_most_like_them() -> None:
    bench = laid()
    assert [each.overlap for each in rows(bench)] == [
        max(value for place, value in enumerate(line) if place != row)
        for row, line in enumerate(bench.menu.correlation.tolist())
    ]
    single = BUNDLE.changed(language={"agnostic": [{"text": "defect"}], "specific": []})
    alone = Bench((image("a", [Found(3, (0.5,))], {3: "scratch"}, bundle=single),), single)
    (row,) = rows(alone, Knobs.of(single))
    assert row.overlap is None


# --------------------------------------------------------------------------------------------------------------- curves


def test_curves_pass_through_both_bundles() -> None:
    bench = laid()
    after = START._replace(threshold=0.45, region_floor=0.41)
    found = {
        each.name: each for each in account.curves(bench.judge, bench.tally, bench.menu, bench.weights, START, after)
    }
    cut = found["decision.threshold"]
    assert (cut.before, cut.after) == (0.3, 0.45)
    assert list(cut.values) == sorted({*bench.menu.sweeps["threshold"], 0.3, 0.45})
    assert cut.objective[cut.values.index(0.45)] == pytest.approx(bench.objective(after)[0])
    floor = found["decision.region_floor"]
    assert floor.false_alarms is not None
    assert floor.false_alarms[0] == 1
    assert floor.false_alarms[-1] == 0


def test_no_limit_is_no_point_of_a_curve() -> None:
    bench = laid()
    found = account.curves(bench.judge, bench.tally, bench.menu, bench.weights, START, START._replace(area_max=0.05))
    (area,) = [each for each in found if each.name == "property.area_max"]
    assert (area.before, area.after) == (None, 0.05)
    assert math.inf not in area.values


def test_without_good_images_there_are_no_false_alarms() -> None:
    bench = Bench((image("one", [SCRATCH], {3: "scratch"}),))
    found = account.curves(bench.judge, bench.tally, bench.menu, bench.weights, START, START)
    assert {each.false_alarms for each in found} == {None}


# --------------------------------------------------------------------------------------------------------------- images


def test_changes_begin_with_the_worst() -> None:
    bench = laid()
    after = START._replace(weights=(0.0, 1.0, 0.0), score_floor=0.15)  # the dent is not marked, the dirt is gone
    seen = np.array([True, False, True, True])
    found = account.changes(bench.judge, bench.tally, seen, START, after)
    assert [(each.name, each.held_out) for each in found] == [("both", False), ("one", True), ("good", False)]
    both, one, good = found
    assert (both.before, both.after) == pytest.approx((2 * 2 / (3 + 2), 2 * 1 / (1 + 2)))
    assert (one.before, one.after) == pytest.approx((2 / 3, 1))
    assert (good.before, good.after) == (0, 1)


def test_images_that_are_decided_alike_are_no_change() -> None:
    bench = laid()
    assert account.changes(bench.judge, bench.tally, np.ones(4, np.bool_), START, START) == ()


# ----------------------------------------------------------------------------------------------------------- acceptance


def test_acceptance_goes_by_reviews_that_masks_did_not_bias() -> None:
    found = [Found(3, (0.4, 0.8, 0.1))]
    images = [image(f"{n}", found, {3: "scratch"}, aided=n % 2 == 0) for n in range(120)]
    bench = Bench(tuple(images))
    accepted = account.acceptance(bench.judge, START, 0.95)
    assert (accepted.regions, accepted.correct) == (60, 60)
    assert accepted.threshold == pytest.approx(0.8 / 1.8)
    aided = Bench(tuple(each for each in images if each.aided))
    assert account.acceptance(aided.judge, START, 0.95).regions == 0


def test_a_region_is_right_where_it_matches() -> None:
    # The second is shown twice as wide as it is.
    images = [
        image("a", [SCRATCH], {3: "scratch"}, aided=False),
        image("b", [Found(6, (0.5, 0.5, 0.5), width=8)], {6: "dent"}, aided=False),
    ]
    accepted = account.acceptance(Bench(tuple(images)).judge, START, 0.95)
    assert (accepted.regions, accepted.correct) == (2, 1)


# ------------------------------------------------------------------------------------------------------- what was tried


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"threshold": 0.45}, "threshold 0.3 -> 0.45"),
        ({"area_max": 0.1, "top_k": 3.0}, "area_max inf -> 0.1, top_k 5 -> 3"),
        ({"weights": (1.0, 1.0, 0.0)}, "silence 'dirt'"),
        ({"weights": (1.0, 2.0, 1.0)}, "weight of 'scratch' 1 -> 2"),
        ({"thresholds": (0.0, 0.0, 0.2)}, "threshold of 'dirt' 0 -> 0.2"),
    ],
)
def test_a_step_says_what_it_changed(change: dict[str, object], words: str) -> None:
    assert said(Step(START, START._replace(**change), 0.5, 0.1, taken=True)) == (words, "gains +0.100", True, 0.5)


def test_a_phrase_that_begins_to_speak_says_where_it_comes_from() -> None:
    silent = START._replace(weights=(1.0, 0.0, 1.0))
    assert said(Step(silent, START, 0.5, 0.1, taken=True))[0] == "use 'scratch'"
    assert said(Step(silent, START, 0.5, 0.1, taken=True), scratch="an expert, 4 times")[0] == (
        "use 'scratch' (an expert, 4 times)"
    )


def test_a_step_says_why_it_was_taken_or_not() -> None:
    moved = START._replace(threshold=0.45)
    assert said(Step(START, moved, 0.4, 0.0, taken=False))[1:] == ("gains nothing (+0.000)", False, 0.4)
    assert said(Step(START, moved, 0.4, -0.02, taken=True))[1:] == (
        "simpler, and costs 0.020, less than its standard error", True, 0.4,
    )  # fmt: skip
    _, why, taken, objective = said(Step(START, moved, -math.inf, -math.inf, taken=False))
    assert "than the champion" in why
    assert (taken, objective) == (False, None)


def test_a_step_that_was_undone_is_not_part_of_the_bundle() -> None:
    moved = START._replace(threshold=0.45)
    _, why, taken, _ = said(Step(START, moved, 0.5, 0.1, taken=True), START)
    assert why == "gains +0.100, but a later step replaced it"
    assert not taken


def test_the_trials_of_a_search_are_its_steps() -> None:
    bench = Bench(plates())
    chosen, searcher = bench.search()
    trials = account.trials(searcher, chosen, PHRASES, {})
    assert len(trials) == len(searcher.steps)
    assert any(each.taken for each in trials)
