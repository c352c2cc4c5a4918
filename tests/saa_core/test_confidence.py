"""Eq. 8-9 against loops over regions and pixels, and worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from saa_core import masks
from saa_core.confidence import anomaly_map, confidence, set_floor, suppress, suppressors, top_k

Bools = NDArray[np.bool_]
Scored = tuple[list[Bools], list[float]]


@st.composite
def scored_masks(draw: st.DrawFn) -> Scored:
    """Masks of one size with scores, equal ones among them; masks may be empty, and there may be none."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    count = draw(st.integers(0, 6))
    found = [draw(hnp.arrays(np.bool_, shape)) for _ in range(count)]
    return found, [draw(st.integers(0, 12)) / 4 for _ in range(count)]


def map_by_loop(found: list[Bools], scores: list[float], size: tuple[int, int], form: str) -> list[list[float]]:
    rows = []
    for i in range(size[0]):
        row = []
        for j in range(size[1]):
            covering = [score for mask, score in zip(found, scores, strict=True) if mask[i, j]]
            count = len(covering) + (1 if form == "shrunk" else 0)
            row.append(sum(covering) / count if covering else 0.0)
        rows.append(row)
    return rows


def greedy_by_loop(found: list[Bools], scores: list[float], overlap: float) -> list[bool]:
    kept: list[int] = []
    for i in sorted(range(len(found)), key=lambda i: (-scores[i], i)):
        ious = [(found[i] & found[j]).sum() / max(min(found[i].sum(), found[j].sum()), 1) for j in kept]
        if all(iou <= overlap for iou in ious):
            kept.append(i)
    return [i in kept for i in range(len(found))]


@given(scored_masks(), st.sampled_from(["mean", "shrunk"]))
def test_eq_9_is_the_loop(scored: Scored, form: str) -> None:
    found, scores = scored
    size = found[0].shape if found else (2, 3)
    encoded = [masks.encode(mask) for mask in found]
    result = anomaly_map(encoded, np.array(scores), size, "shrunk" if form == "shrunk" else "mean")
    assert result.dtype == np.float32
    assert np.allclose(result, map_by_loop(found, scores, size, form), rtol=1e-6)


def test_eq_9_by_hand() -> None:
    # Two regions of 1.2 and 0.6 in a row of four pixels; both cover the second, none the last.
    found = [masks.encode(np.array([[1, 1, 0, 0]], bool)), masks.encode(np.array([[0, 1, 1, 0]], bool))]
    scores = np.array([1.2, 0.6])
    assert anomaly_map(found, scores, (1, 4)).tolist() == [pytest.approx([1.2, 0.9, 0.6, 0])]
    assert anomaly_map(found, scores, (1, 4), "shrunk").tolist() == [pytest.approx([0.6, 0.6, 0.3, 0])]


def test_duplicates_vote_in_the_released_form() -> None:
    found = [masks.encode(np.ones((1, 1), bool))] * 3
    assert anomaly_map(found, np.full(3, 0.8), (1, 1), "shrunk").item() == pytest.approx(2.4 / 4)
    assert anomaly_map(found, np.full(3, 0.8), (1, 1)).item() == pytest.approx(0.8)


@pytest.mark.parametrize("form", ["mean", "shrunk"])
def test_no_region_and_an_empty_one_leave_the_map_at_0(form: str) -> None:
    one = "shrunk" if form == "shrunk" else "mean"
    assert not anomaly_map([], np.zeros(0), (2, 3), one).any()
    assert not anomaly_map([masks.encode(np.zeros((2, 3), bool))], np.ones(1), (2, 3), one).any()


def test_eq_9_needs_a_score_for_each_mask() -> None:
    with pytest.raises(ValueError, match="shorter"):
        anomaly_map([masks.encode(np.ones((1, 1), bool))], np.zeros(0), (1, 1))


def test_eq_8_keeps_the_best_and_the_order_of_equals() -> None:
    scores = np.array([0.2, 0.9, 0.2, 1.4, 0.9])
    assert top_k(scores, 3).tolist() == [3, 1, 4]
    assert top_k(scores, None).tolist() == [3, 1, 4, 0, 2]
    assert top_k(scores, 50).tolist() == [3, 1, 4, 0, 2]
    assert top_k(np.zeros(0), 5).tolist() == []


@given(st.lists(st.integers(0, 5).map(float), max_size=9), st.integers(1, 10))
def test_eq_8_is_the_sort(scores: list[float], k: int) -> None:
    assert top_k(np.array(scores), k).tolist() == sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]


def test_confidence_is_in_range_and_keeps_the_order() -> None:
    scores = np.array([0.0, 0.1, 0.5, 1.0, 1.0001, 3.0, 500.0])
    sure = confidence(scores)
    assert sure[0] == 0
    assert sure[3] == 0.5
    assert sure[-1] < 1
    assert (np.diff(sure) > 0).all()


@given(scored_masks(), st.sampled_from([0.2, 0.5, 0.75, 1.0]))
def test_suppression_is_the_greedy_loop(scored: Scored, overlap: float) -> None:
    found, scores = scored
    stays = suppress([masks.encode(mask) for mask in found], np.array(scores), overlap)
    assert stays.tolist() == greedy_by_loop(found, scores, overlap)


def test_a_suppressed_region_suppresses_nothing() -> None:
    # Each region shares half of itself with the next; the second falls, so the third stays.
    row = [masks.encode(np.arange(8)[None] // 2 == i) for i in range(4)]
    chain = [masks.union(row[i : i + 2]) for i in range(3)]
    assert suppress(chain, np.array([0.9, 0.8, 0.7]), 0.4).tolist() == [True, False, True]
    assert suppress(chain, np.array([0.8, 0.9, 0.7]), 0.4).tolist() == [False, True, False]
    assert suppress(chain, np.array([0.9, 0.8, 0.7]), 0.5).all()


@pytest.mark.parametrize(
    ("best", "floor"),
    [
        ([0.9] * 10, 0.3),  # enough stands out: the bundle's own floor
        ([0.2] * 8 + [0.25] * 2, 0.25),  # little contrast: the strangest tenth shows
        ([0.01] * 10, 0.15),  # nothing stands out: half of the bundle's floor holds
        ([], 0.3),
    ],
)
def test_the_floor_of_a_set(best: list[float], floor: float) -> None:
    assert set_floor(np.array(best), 0.3) == pytest.approx(floor)


def test_a_floor_of_zero_stays_zero() -> None:
    assert set_floor(np.array([0.5, 0.1]), 0.0) == 0


@given(scored_masks(), st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]))
def test_what_goes_is_removed_by_the_best_that_stays_and_covers_it(scored: Scored, overlap: float) -> None:
    found, scores = scored
    encoded = [masks.encode(mask) for mask in found]
    by = suppressors(encoded, np.array(scores), overlap).tolist()
    stays = suppress(encoded, np.array(scores), overlap).tolist()
    shared = masks.containment(encoded, encoded) if encoded else np.zeros((0, 0))
    for i, better in enumerate(by):
        order = sorted((j for j in range(len(found)) if stays[j]), key=lambda j: (-scores[j], j))
        covering = [j for j in order if j != i and max(shared[i, j], shared[j, i]) > overlap]
        assert better == (-1 if stays[i] else covering[0])
