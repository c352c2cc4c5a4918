import itertools
import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrations.outputs import ImageRecord
from integrations.simulated_expert import COSTS, Habits, SimulatedExpert, chosen_lots, review_run, wobbled
from saa_core.masks import Rle, decode, encode, intersections, iou, to_coco
from saa_core.prompts import LanguagePrompt, Phrase, PromptBundle
from saa_core.reviews import Review

SIZE = (64, 80)
AT = datetime(2026, 1, 2, tzinfo=UTC)
EXACT = Habits(find=1.0, wobble=0.0, skip=0.0, mistake=0.0)
GENERAL = PromptBundle(product="plate")
KINDS = PromptBundle(product="plate", language=LanguagePrompt(specific=(Phrase(text="dent"), Phrase(text="deep hole"))))


def block(top: int, left: int, height: int = 10, width: int = 10) -> Rle:
    mask = np.zeros(SIZE, np.bool_)
    mask[top : top + height, left : left + width] = True
    return encode(mask)


def record(*shown: Rle | tuple[Rle, str], key: str = "a" * 64) -> ImageRecord:
    found = [each if isinstance(each, tuple) else (each, "anomaly") for each in shown]
    regions: list[Any] = [
        {"label": label, "confidence": 0.5, "phrase_scores": {label: 0.5}, "segmentation": to_coco(mask)}
        for mask, label in found
    ]
    return {
        "key": key,
        "names": [f"{key}.png"],
        "size": list(SIZE),
        "bundle": GENERAL.id,
        "score": 0.5,
        "regions": regions,
        "maps": [],
        "masks": [],
    }


def review(
    image: ImageRecord,
    *truth: Rle | tuple[Rle, str],
    habits: Habits = EXACT,
    bundle: PromptBundle = GENERAL,
    aided: bool = True,
    seed: int = 0,
    run: str = "run1",
) -> Review:
    defects = [each if isinstance(each, tuple) else (each, "dent") for each in truth]
    expert = SimulatedExpert("ada", habits, seed)
    return expert.review(image, defects, product="plate", run=run, bundle=bundle, at=AT, aided=aided)


def outcomes(found: Review) -> list[str]:
    return [region.outcome for region in found.regions]


# --------------------------------------------------------------------------------------------------- region by region


def test_each_region_gets_what_it_deserves() -> None:
    truth = block(0, 0), block(20, 20), block(40, 40)
    right, shifted, nothing = block(0, 0, 10, 11), block(20, 25), block(50, 0)
    found = review(record(right, shifted, nothing), *truth)
    assert outcomes(found) == ["accepted", "adjusted", "rejected", "added"]
    assert set(found.masks) == {right, truth[1], truth[2]}
    assert (found.product, found.run, found.bundle, found.aided) == ("plate", "run1", GENERAL.id, True)
    assert (found.state, found.verdict, found.finding) == ("submitted", "defective", "defective")
    assert (found.annotator, found.source, found.updated) == ("ada", "simulated-expert", AT)


def test_a_region_over_several_defects_is_accepted_if_it_fits_their_union() -> None:
    truth = block(0, 0, 10, 5), block(0, 6, 10, 4)
    assert outcomes(review(record(block(0, 0)), *truth)) == ["accepted"]


def test_of_two_regions_on_one_defect_the_better_is_kept() -> None:
    found = review(record(block(0, 0, 10, 8), block(0, 0)), block(0, 0))
    assert outcomes(found) == ["rejected", "accepted"]


def test_an_image_without_defects_is_called_good_and_emptied() -> None:
    found = review(record(block(0, 0)))
    assert (outcomes(found), found.finding) == (["rejected"], "good")
    assert outcomes(review(record())) == []


def test_a_mask_without_pixels_is_no_defect() -> None:
    assert review(record(), encode(np.zeros(SIZE, np.bool_))).finding == "good"


def test_names_become_labels_where_the_project_has_them_and_words_where_not() -> None:
    truth = (block(0, 0), "deep_hole"), (block(20, 20), "dent"), (block(40, 40), "stain")
    shown = (block(0, 0), "dent"), (block(20, 20), "dent"), (block(40, 40), "anomaly")
    found = review(record(*shown), *truth, bundle=KINDS)
    assert outcomes(found) == ["relabelled", "accepted", "accepted"]
    left = [region.reviewed for region in found.regions if region.reviewed]
    assert [(each.label, each.words) for each in left] == [("deep hole", ""), ("dent", ""), ("defect", "stain")]


def test_an_expert_of_few_words() -> None:
    found = review(record(block(0, 0)), block(0, 0), habits=replace(EXACT, words=False))
    assert [region.reviewed.words for region in found.regions if region.reviewed] == [""]


def test_who_sees_no_regions_draws_all() -> None:
    found = review(record(block(0, 0, 10, 9), block(50, 0)), block(0, 0), block(40, 40), aided=False)
    assert (outcomes(found), found.aided) == (["adjusted", "rejected", "added"], False)
    assert set(found.masks) == {block(0, 0), block(40, 40)}
    assert all(region.reviewed is None or region.reviewed.id is None for region in found.regions)


# -------------------------------------------------------------------------------------------------------------- habits


def test_what_no_region_points_at_may_be_overlooked() -> None:
    blind = replace(EXACT, find=0.0)
    found = review(record(block(0, 0)), block(0, 0), block(40, 40), habits=blind)
    assert outcomes(found) == ["accepted"]
    assert review(record(), block(40, 40), habits=blind).finding == "good"


def test_a_skipped_image_says_nothing() -> None:
    found = review(record(block(0, 0)), block(0, 0), habits=replace(EXACT, skip=1.0))
    assert (found.state, found.verdict, found.regions, found.finding) == ("skipped", None, (), None)


def test_mistakes() -> None:
    wrong = replace(EXACT, mistake=1.0)
    good = review(record(block(0, 0)), habits=wrong)
    assert (good.finding, outcomes(good)) == ("defective", ["accepted"])
    bad = review(record(block(0, 0)), block(0, 0), habits=wrong)
    assert (bad.finding, outcomes(bad)) == ("good", ["rejected"])


def test_habits_are_shares() -> None:
    habits = Habits(find=0.7, skip=0.2, mistake=0.1, wobble=0.0)
    keys = [f"{number:064x}" for number in range(1500)]
    found = [review(record(key=key), block(0, 0), habits=habits) for key in keys]
    states = Counter(each.state for each in found)
    findings = Counter(each.finding for each in found)
    assert abs(states["skipped"] / 1500 - 0.2) < 0.05
    assert abs(findings["defective"] / states["submitted"] - 0.7 * 0.9) < 0.05


@pytest.mark.parametrize("aided", [True, False])
def test_lead_times_are_the_costs_with_some_spread(aided: bool) -> None:
    shown, truth = (block(0, 0), block(20, 25), block(50, 0)), (block(0, 0), block(20, 20), block(40, 40))
    keys = [f"{number:064x}" for number in range(400)]
    found = [review(record(*shown, key=key), *truth, aided=aided).lead_seconds for key in keys]
    aided_cost = COSTS.look + COSTS.accept + COSTS.adjust + COSTS.delete + COSTS.add
    expected = aided_cost if aided else COSTS.look + 3 * COSTS.add
    seconds = [each for each in found if each is not None]
    assert len(seconds) == 400
    assert abs(float(np.median(seconds)) / expected - 1) < 0.1
    assert len(set(seconds)) > 300


# ------------------------------------------------------------------------------------------------------- determinism


def test_the_same_seed_says_the_same_and_another_something_else() -> None:
    image, habits = record(block(20, 25)), Habits(wobble=2.0)
    assert review(image, block(20, 20), habits=habits) == review(image, block(20, 20), habits=habits)
    drawn = {review(image, block(20, 20), habits=replace(habits, skip=0.0), seed=seed).masks for seed in range(5)}
    assert len(drawn) == 5


def test_what_is_shown_changes_neither_skips_nor_what_is_overlooked() -> None:
    keys = [f"{number:064x}" for number in range(60)]
    habits = Habits(find=0.5, skip=0.3, mistake=0.0)
    first = [review(record(key=key), block(0, 0), habits=habits) for key in keys]
    second = [review(record(block(50, 0), key=key), block(0, 0), habits=habits, run="run2") for key in keys]
    assert [each.state for each in first] == [each.state for each in second]
    assert [each.masks for each in first] == [each.masks for each in second]
    assert not {each.id for each in first} & {each.id for each in second}


# ------------------------------------------------------------------------------------------------------------- wobble


def test_no_wobble_is_the_truth() -> None:
    assert wobbled(block(3, 4), 0.0, np.random.default_rng(0)) == block(3, 4)


@given(
    top=st.integers(0, 63),
    left=st.integers(0, 79),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    wobble=st.floats(0.1, 4.0),
    seed=st.integers(0, 1000),
)
def test_a_wobbled_mask_stays_where_it_is(
    top: int, left: int, height: int, width: int, wobble: float, seed: int
) -> None:
    true = block(top, left, height, width)
    drawn = wobbled(true, wobble, np.random.default_rng(seed))
    assert drawn.size == SIZE
    assert intersections([true], [drawn])[0, 0] >= 0.2 * true.area
    pixels, room = decode(drawn), int(np.ceil(3 * wobble)) + 1
    inside = np.zeros(SIZE, np.bool_)
    inside[max(0, top - room) : top + height + room, max(0, left - room) : left + width + room] = True
    assert not (pixels & ~inside).any()


def test_more_wobble_is_worse() -> None:
    true = block(10, 10, 40, 40)
    fits = [
        np.mean([iou([true], [wobbled(true, wobble, np.random.default_rng(seed))])[0, 0] for seed in range(20)])
        for wobble in (0.5, 1.5, 4.0)
    ]
    assert 1 > fits[0] > fits[1] > fits[2] > 0.5
    assert fits[0] > 0.93


# ---------------------------------------------------------------------------------------------------------- whole runs


def images(count: int) -> list[ImageRecord]:
    return [record(block(0, 0), key=f"{number:064x}") for number in range(count)]


def reviews(records: list[ImageRecord], **options: Any) -> tuple[Review, ...]:
    truth = {f"{number:064x}.png": [(block(0, 0), "dent")] for number in range(0, len(records), 2)}
    expert = SimulatedExpert(habits=EXACT)
    return review_run(expert, records, truth, product="plate", run="run1", bundle=GENERAL, at=AT, **options)


def test_a_run_is_reviewed_by_the_truth_of_its_names() -> None:
    found = reviews(images(10))
    assert [each.finding for each in found] == ["defective", "good"] * 5
    assert sum(not each.aided for each in found) == 1


def test_half_of_the_lots() -> None:
    records = images(20)
    lots = {each["key"]: f"lot {number // 5}" for number, each in enumerate(records)}
    found = reviews(records, lots=lots, share=0.5)
    assert list(Counter(lots[each.image] for each in found).values()) == [5, 5]
    assert len(reviews(records, share=0.5)) == 10


def test_the_order_of_the_images_does_not_matter() -> None:
    records = images(20)
    shuffled = random.Random(0).sample(records, len(records))
    assert set(map(repr, reviews(shuffled, share=0.5))) == set(map(repr, reviews(records, share=0.5)))


def test_a_larger_share_holds_a_smaller_one() -> None:
    lots = [f"lot {number}" for number in range(9)]
    sizes = [chosen_lots(lots, share, 3) for share in (0.0, 0.2, 0.5, 1.0)]
    assert [len(each) for each in sizes] == [0, 2, 5, 9]
    assert all(small <= large for small, large in itertools.pairwise(sizes))
    assert chosen_lots(lots, 0.5, 3) != chosen_lots(lots, 0.5, 4)
