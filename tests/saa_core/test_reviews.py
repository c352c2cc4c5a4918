from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saa_core.errors import ReviewError
from saa_core.masks import Rle, decode, encode
from saa_core.reviews import (
    SAME,
    PredictedRegion,
    RegionReview,
    Review,
    ReviewedRegion,
    compare,
    disagreements,
    evidence,
)

HEIGHT, WIDTH = 2, 4


def mask(*pixels: int) -> Rle:
    """The mask of these pixels, numbered row by row."""
    flat = np.zeros(HEIGHT * WIDTH, np.bool_)
    flat[list(pixels)] = True
    return encode(flat.reshape(HEIGHT, WIDTH))


def predicted(id: str, *pixels: int, label: str = "hole") -> PredictedRegion:
    return PredictedRegion(id, label, "a hole", 0.5, mask(*pixels))


def reviewed(id: str | None, *pixels: int, label: str = "hole") -> ReviewedRegion:
    return ReviewedRegion(id, label, mask(*pixels))


def told(reviews: Sequence[RegionReview]) -> list[tuple[str, float | None]]:
    return [(review.outcome, review.iou) for review in reviews]


# ------------------------------------------------------------------------------------------------------------ by region


def test_each_outcome_by_id() -> None:
    shown = [predicted("a", 0, 1), predicted("b", 4, 5), predicted("c", 2), predicted("d", 3, 7)]
    left = [
        reviewed("new", 6),
        reviewed("d", 3, label="scratch"),
        reviewed("b", 4, 5, 6),
        reviewed("a", 0, 1),
    ]
    result = compare(shown, left)
    assert told(result) == [
        ("accepted", 1.0),
        ("adjusted", 2 / 3),
        ("rejected", None),
        ("relabelled", 0.5),
        ("added", None),
    ]
    assert [review.predicted for review in result] == [*shown, None]
    assert [review.reviewed for review in result] == [left[3], left[2], None, left[1], left[0]]


def test_an_id_counts_more_than_the_place() -> None:
    moved = compare([predicted("a", 0, 1)], [reviewed("a", 6, 7)])
    assert told(moved) == [("adjusted", 0.0)]
    same_place = compare([predicted("a", 0, 1)], [reviewed("b", 0, 1)])
    assert told(same_place) == [("rejected", None), ("added", None)]


def test_a_label_that_changed_with_the_mask_untouched() -> None:
    assert told(compare([predicted("a", 0)], [reviewed("a", 0, label="stain")])) == [("relabelled", 1.0)]


def test_what_has_no_id_is_matched_by_place_among_what_is_left() -> None:
    shown = [predicted("a", 0, 1, 2), predicted("b", 0, 1)]
    result = compare(shown, [reviewed("b", 0, 1), reviewed(None, 0, 1)])
    assert told(result) == [("adjusted", 2 / 3), ("accepted", 1.0)]


def test_masks_that_overlap_by_less_than_half_are_two_things() -> None:
    assert told(compare([predicted("a", 0, 1)], [reviewed(None, 0, 1, 2, 3)])) == [("adjusted", 0.5)]
    assert told(compare([predicted("a", 0, 1)], [reviewed(None, 1, 2)])) == [("rejected", None), ("added", None)]


def test_the_assignment_is_the_best_of_all_together() -> None:
    # The best pair alone, b with the first, would leave nothing for a.
    shown = [predicted("a", 0, 1), predicted("b", 0, 1, 2, 3)]
    left = [reviewed(None, 0, 1, 2), reviewed(None, 1, 2, 3, 4)]
    result = compare(shown, left)
    assert told(result) == [("adjusted", 2 / 3), ("adjusted", 3 / 5)]
    assert [review.reviewed for review in result] == left


def test_what_fits_equally_well_is_chosen_alike_in_any_order() -> None:
    halves = [reviewed(None, 0), reviewed(None, 1)]
    found, again = (compare([predicted("a", 0, 1)], left) for left in (halves, halves[::-1]))
    assert told(found) == [("adjusted", 0.5), ("added", None)]
    assert found == again


def test_of_equal_overlaps_the_same_label_is_preferred() -> None:
    shown = [predicted("a", 0, label="stain"), predicted("b", 0)]
    assert told(compare(shown, [reviewed(None, 0)])) == [("rejected", None), ("accepted", 1.0)]


@pytest.mark.parametrize("id", ["a", None])
def test_a_region_that_was_erased_is_rejected(id: str | None) -> None:
    assert told(compare([predicted("a", 0)], [reviewed(id)])) == [("rejected", None)]


def test_an_added_region_without_pixels_is_none() -> None:
    assert compare([], [reviewed("new"), reviewed(None)]) == ()


@pytest.mark.parametrize("id", ["a", "new", None])
def test_masks_of_different_sizes(id: str | None) -> None:
    other = ReviewedRegion(id, "hole", encode(np.ones((3, 5), np.bool_)))
    with pytest.raises(ReviewError, match=rf"region {id or 'hole'}: its mask has 3 x 5 pixels, .* have 2 x 4"):
        compare([predicted("a", 0)], [other])


def test_an_id_that_occurs_twice() -> None:
    with pytest.raises(ReviewError, match="region b: its id occurs twice"):
        compare([predicted("a", 0)], [reviewed("a", 0), reviewed("b", 1), reviewed("b", 2)])
    with pytest.raises(ReviewError, match="region a: its id occurs twice"):
        compare([predicted("a", 0), predicted("a", 1)], [])


# ---------------------------------------------------------------------------------------------------- for any regions

pixels = st.sets(st.integers(0, HEIGHT * WIDTH - 1))
labels = st.sampled_from(["hole", "stain"])


@st.composite
def shown_regions(draw: st.DrawFn) -> list[PredictedRegion]:
    drawn = draw(st.lists(st.tuples(pixels.filter(bool), labels), max_size=4))
    return [predicted(f"p{i}", *held, label=label) for i, (held, label) in enumerate(drawn)]


@st.composite
def left_regions(draw: st.DrawFn, ids: bool = True) -> list[ReviewedRegion]:
    drawn = draw(st.lists(st.tuples(pixels, labels), max_size=4))
    numbers = draw(st.permutations(range(6)))
    named = [draw(st.booleans()) and ids for _ in drawn]
    return [
        reviewed(f"p{number}" if name else None, *held, label=label)
        for number, name, (held, label) in zip(numbers, named, drawn, strict=False)
    ]


@given(shown_regions(), left_regions())
def test_every_region_is_told_of_once(shown: list[PredictedRegion], left: list[ReviewedRegion]) -> None:
    result = compare(shown, left)
    assert [review.predicted for review in result][: len(shown)] == shown
    assert all(review.outcome == "added" for review in result[len(shown) :])
    assert Counter(r.reviewed for r in result if r.reviewed) == Counter(r for r in left if r.mask.area)


@given(shown_regions(), left_regions())
def test_an_outcome_says_what_is_there(shown: list[PredictedRegion], left: list[ReviewedRegion]) -> None:
    for review in compare(shown, left):
        before, after = review.predicted, review.reviewed
        if before is None or after is None:
            assert (review.outcome, review.iou) == ("added" if before is None else "rejected", None)
        else:
            assert review.iou == overlap(before.mask, after.mask)
            kept = "accepted" if before.mask == after.mask else "adjusted"
            assert review.outcome == (kept if before.label == after.label else "relabelled")
            assert (review.iou == 1) == (before.mask == after.mask)


@given(shown_regions(), st.lists(st.booleans(), min_size=4, max_size=4), st.randoms(use_true_random=False))
def test_what_was_left_alone_is_accepted(shown: list[PredictedRegion], named: list[bool], random: Any) -> None:
    left = [ReviewedRegion(p.id if name else None, p.label, p.mask) for p, name in zip(shown, named, strict=False)]
    random.shuffle(left)
    # With some ids known, a twin without an id still finds its own place among those that are left.
    assert {review.outcome for review in compare(shown, left)} <= {"accepted"}


@given(shown_regions(), left_regions(), st.randoms(use_true_random=False))
def test_the_order_of_the_regions_changes_nothing(
    shown: list[PredictedRegion], left: list[ReviewedRegion], random: Any
) -> None:
    shuffled = random.sample(shown, len(shown)), random.sample(left, len(left))
    assert Counter(compare(*shuffled)) == Counter(compare(shown, left))


@given(shown_regions(), left_regions(ids=False))
def test_by_place_no_other_assignment_is_better(shown: list[PredictedRegion], left: list[ReviewedRegion]) -> None:
    found = [(review.predicted, review.reviewed) for review in compare(shown, left)]
    pairs = [(before, after) for before, after in found if before and after]
    assert all(overlap(before.mask, after.mask) >= SAME for before, after in pairs)
    assert worth(pairs) == pytest.approx(max(worth(each) for each in assignments(shown, left)), abs=1e-12)


def overlap(a: Rle, b: Rle) -> float:
    shared = either = 0
    for x, y in zip(decode(a).ravel(), decode(b).ravel(), strict=True):
        shared += bool(x and y)
        either += bool(x or y)
    return shared / either if either else 0.0


Pairs = Sequence[tuple[PredictedRegion, ReviewedRegion]]


def worth(pairs: Pairs) -> float:
    """Sum of the IoUs of pairs that count, and next to nothing for each with one label."""
    counted = [(before, after) for before, after in pairs if overlap(before.mask, after.mask) >= 0.5]
    same = sum(before.label == after.label for before, after in counted)
    return sum(overlap(before.mask, after.mask) for before, after in counted) + 1e-9 * same


def assignments(shown: list[PredictedRegion], left: list[ReviewedRegion]) -> Iterator[Pairs]:
    """Every way to give each shown region another of those that are left; the longer list is gone through."""
    if len(shown) <= len(left):
        yield from (list(zip(shown, chosen, strict=True)) for chosen in permutations(left, len(shown)))
    else:
        yield from (list(zip(chosen, left, strict=True)) for chosen in permutations(shown, len(left)))


# -------------------------------------------------------------------------------------------------------------- reviews

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def review(*masks: Rle, minutes: int = 0, **changes: Any) -> Review:
    regions = tuple(RegionReview("added", None, ReviewedRegion(None, "hole", each), None) for each in masks)
    plain = Review(
        product="bottle",
        image="i1",
        source="screen",
        id="1",
        state="submitted",
        annotator="ann",
        updated=NOON + timedelta(minutes=minutes),
        verdict=None,
        words="",
        lead_seconds=None,
        run=None,
        bundle=None,
        aided=True,
        regions=regions,
    )
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("said", "finding"),
    [
        (review(), "good"),
        (review(mask(0)), "defective"),
        (review(verdict="good"), "good"),
        (review(verdict="defective"), "defective"),
        (review(mask(0), verdict="defective"), "defective"),
        (review(mask(0), verdict="good"), None),
        (review(verdict="unsure"), None),
        (review(mask(0), verdict="unsure"), None),
        (review(mask(0), state="skipped"), None),
        (review(state="skipped", verdict="good"), None),
        (review(state="withdrawn"), None),
    ],
)
def test_what_a_review_finds(said: Review, finding: str | None) -> None:
    assert said.finding == finding
    assert said.contradictory == (said.state == "submitted" and said.verdict == "good" and bool(said.masks))


def test_rejected_regions_leave_a_good_image() -> None:
    result = compare([predicted("a", 0), predicted("b", 1)], [])
    assert review(regions=result).finding == "good"
    assert review(regions=result).masks == ()


def test_the_masks_that_remain() -> None:
    result = compare([predicted("a", 0), predicted("b", 1)], [reviewed("b", 1, 2), reviewed("c", 3)])
    assert review(regions=result).masks == (mask(1, 2), mask(3))


# ------------------------------------------------------------------------------------------------------------- evidence


def test_the_newest_finding_of_an_image_counts() -> None:
    old, new = review(minutes=1), review(mask(0), minutes=2, id="2", annotator="bob")
    other = review(image="i0")
    assert evidence([new, other, old]) == {"i0": other, "i1": new}
    assert list(evidence([new, other, old])) == ["i0", "i1"]


@pytest.mark.parametrize(
    "later", [{"state": "withdrawn"}, {"state": "skipped"}, {"verdict": "unsure"}, {"verdict": "good"}]
)
def test_an_annotation_that_was_taken_back_says_nothing_any_more(later: dict[str, str]) -> None:
    first, second = review(mask(0)), review(mask(0), mask(1), minutes=1)
    taken_back = review(mask(0), minutes=2, **later)
    assert evidence([first, second, taken_back]) == {}
    assert evidence([taken_back, second, first]) == {}


def test_other_annotations_stay_when_one_is_withdrawn() -> None:
    bob = review(minutes=1, id="2", annotator="bob")
    assert evidence([review(mask(0), minutes=5), review(minutes=6, state="withdrawn"), bob]) == {"i1": bob}


def test_an_annotation_that_came_back_counts_again() -> None:
    back = review(mask(0), minutes=3)
    assert evidence([back, review(minutes=1), review(minutes=2, state="withdrawn")]) == {"i1": back}


def test_a_withdrawal_at_the_moment_of_the_last_change_counts() -> None:
    assert evidence([review(state="withdrawn"), review()]) == {}


def test_one_mask_file_may_tell_of_two_images() -> None:
    one, two = review(image="i1", id="same"), review(image="i2", id="same", minutes=1)
    assert evidence([one, two]) == {"i1": one, "i2": two}


any_review = st.builds(
    review,
    minutes=st.integers(0, 3),
    image=st.sampled_from(["i1", "i2"]),
    id=st.sampled_from("12"),
    annotator=st.sampled_from(["ann", "bob"]),
    state=st.sampled_from(["submitted", "skipped", "withdrawn"]),
    verdict=st.sampled_from([None, "good", "defective", "unsure"]),
)


@given(st.lists(any_review, max_size=8, unique_by=lambda r: (r.source, r.id, r.updated, r.state)), st.data())
def test_the_order_of_reviews_changes_nothing(reviews: list[Review], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(reviews))
    assert evidence(shuffled) == evidence(reviews)
    assert disagreements(shuffled) == disagreements(reviews)
    assert all(each.finding is not None for each in evidence(reviews).values())


# -------------------------------------------------------------------------------------------------------- disagreements


def by_bob(*masks: Rle, **changes: Any) -> Review:
    return review(*masks, **({"annotator": "bob", "id": "2"} | changes))


def test_good_against_defective() -> None:
    (found,) = disagreements([by_bob(mask(0)), review()])
    assert (found.image, found.annotators) == ("i1", ("ann", "bob"))
    assert found.reason == "good or defective: ann says good, bob says defective"


def test_different_places() -> None:
    (found,) = disagreements([review(mask(0, 1), mask(2)), by_bob(mask(1, 2, 3, 4, 5, 6))])
    assert found.reason == "where the defect is: their masks have an IoU of 0.29"


@pytest.mark.parametrize(
    "other",
    [
        by_bob(mask(0, 1, 2)),
        by_bob(mask(1)),
        by_bob(verdict="defective"),
        by_bob(state="skipped"),
        by_bob(verdict="unsure"),
        review(id="3", minutes=1),
    ],
    ids=["same", "half", "no mask", "skipped", "unsure", "one annotator"],
)
def test_no_disagreement(other: Review) -> None:
    assert disagreements([review(mask(0), mask(1)), other]) == ()


def test_annotators_who_agree_in_the_end() -> None:
    assert disagreements([review(), by_bob(mask(0)), review(mask(0), minutes=1)]) == ()
    assert disagreements([review(), by_bob(mask(0)), by_bob(mask(0), minutes=1, state="withdrawn")]) == ()
