"""The order of review: each term against its definition as a loop, and what must rank before what."""

import hashlib
from dataclasses import replace
from math import dist, inf, nan
from statistics import fmean, pstdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saa_core import priority
from saa_core.priority import Judged

UNIT = st.floats(0, 1)
COUNTS = st.integers(1, 12).filter(lambda count: count != 2)
"""Two points are equally far from their mean, but for rounding."""
PHRASES = st.dictionaries(st.sampled_from(["anomaly", "defect", "crack", "scratch", "dent"]), UNIT)
GENERIC = ("anomaly", "defect")


@st.composite
def judged_sets(draw: st.DrawFn) -> tuple[list[Judged], NDArray[np.float32]]:
    images = []
    for number in range(draw(st.integers(0, 8))):
        regions = draw(st.lists(st.tuples(UNIT, PHRASES), max_size=3))
        confidences = tuple(confidence for confidence, _ in regions)
        images.append(Judged(f"key {number}", draw(UNIT), confidences, tuple(scores for _, scores in regions)))
    channels, rng = draw(st.integers(0, 4)), np.random.default_rng(draw(st.integers(0, 99)))
    return images, rng.integers(0, 4, (len(images), channels)).astype(np.float32)


def uncertainty_by_loop(images: list[Judged], threshold: float) -> list[float]:
    def margin(image: Judged) -> float:
        if not image.confidences:
            return 1 - image.score
        return min(abs(confidence - threshold) for confidence in image.confidences)

    found = []
    for image in images:
        kind = [other for other in images if bool(other.confidences) == bool(image.confidences)]
        found.append(1 - sum(margin(other) < margin(image) for other in kind) / len(images))
    return found


def disagreement_by_loop(image: Judged) -> float:
    largest = 0.0
    for scores in image.phrase_scores:
        by_label: dict[str, float] = {}
        for phrase, score in scores.items():
            label = "generic" if phrase in GENERIC else phrase
            by_label[label] = max(score, by_label.get(label, 0.0))
        ranked = sorted(by_label.values(), reverse=True)
        if len(ranked) > 1 and ranked[0] > 0:
            largest = max(largest, ranked[1] / ranked[0])
    return largest


def k_centre_by_loop(points: list[list[float]], centres: int) -> tuple[list[int], list[float]]:
    mean = [fmean(channel) for channel in zip(*points, strict=True)]
    first = min(range(len(points)), key=lambda i: dist(points[i], mean))
    order, reach = [first], {first: inf}
    while len(order) < min(centres, len(points)):
        left = [i for i in range(len(points)) if i not in reach]
        apart = {i: min(dist(points[i], points[j]) for j in order) for i in left}
        best = max(left, key=lambda i: apart[i])
        order.append(best)
        reach[best] = apart[best]
    chosen = list(order)
    rest = {i: min(dist(p, points[j]) for j in chosen) for i, p in enumerate(points) if i not in reach}
    order += sorted(rest, key=lambda i: -rest[i])
    return order, [(reach | rest)[i] for i in range(len(points))]


def diversity_by_loop(descriptors: list[list[float]]) -> list[float]:
    channels = []
    for channel in zip(*descriptors, strict=True):
        mean, spread = fmean(channel), max(pstdev(channel), 2e-3)
        channels.append([(value - mean) / spread for value in channel])
    points = [list(point) for point in zip(*channels, strict=True)] or [[] for _ in descriptors]
    _, reach = k_centre_by_loop(points, len(points))
    return [sum(other < own for other in reach) / max(len(reach) - 1, 1) for own in reach]


def image(*confidences: float, score: float = 0.5, key: str = "a") -> Judged:
    return Judged(key, score, confidences, tuple({"defect": value} for value in confidences))


def term(name: str, images: list[Judged], descriptors: NDArray[np.float32] | None = None) -> list[float]:
    given = np.zeros((len(images), 1), np.float32) if descriptors is None else descriptors
    column = list(priority.WEIGHTS).index(name)
    found: list[float] = priority.terms(images, given, 0.3, GENERIC)[:, column].tolist()
    return found


# ------------------------------------------------------------------------------------------------------------ the whole


@given(judged_sets(), UNIT)
def test_the_priority_is_the_stated_sum(drawn: tuple[list[Judged], NDArray[np.float32]], threshold: float) -> None:
    images, descriptors = drawn
    terms = priority.terms(images, descriptors, threshold, GENERIC)
    assert terms.shape == (len(images), 4)
    assert ((terms >= 0) & (terms <= 1)).all()
    assert terms[:, 0].tolist() == pytest.approx(uncertainty_by_loop(images, threshold))
    assert terms[:, 1].tolist() == pytest.approx([disagreement_by_loop(image) for image in images])
    found = priority.priorities(images, descriptors, threshold, GENERIC)
    assert found.dtype == np.float64
    assert found.tolist() == pytest.approx([0.5 * u + 0.2 * d + 0.2 * v + 0.1 * c for u, d, v, c in terms])
    assert ((found >= 0) & (found <= 1)).all()


def test_the_same_set_has_the_same_priorities_in_every_order() -> None:
    rng = np.random.default_rng(0)
    images = [image(*rng.random(rng.integers(0, 3)), score=rng.random(), key=str(i)) for i in range(40)]
    descriptors = rng.random((40, 5), np.float32)
    order = rng.permutation(40)
    found = priority.priorities(images, descriptors, 0.3)
    shuffled = priority.priorities([images[i] for i in order], descriptors[order], 0.3)
    np.testing.assert_allclose(shuffled, found[order], rtol=0, atol=1e-12)


def test_a_doubtful_find_with_two_labels_and_a_look_of_its_own_comes_first() -> None:
    plain = [image(0.8, key=f"plain {i}") for i in range(5)]
    odd = Judged("odd", 0.5, (0.31,), ({"crack": 0.4, "scratch": 0.4},))
    descriptors = np.array([[0.0], [0.0], [0.0], [0.0], [0.0], [1.0]], np.float32)
    found = priority.priorities([*plain, odd], descriptors, 0.3)
    assert found.argmax() == 5
    assert found[5] >= 0.9


def test_no_images_and_one_image() -> None:
    assert priority.priorities([], np.zeros((0, 3), np.float32), 0.3).shape == (0,)
    (only,) = priority.terms([image(0.9)], np.ones((1, 3), np.float32), 0.3)
    assert only.tolist() == [1.0, 0.0, 0.0, priority.chance("a")]


# -------------------------------------------------------------------------------------------------------- uncertainty


def test_the_region_nearest_to_the_threshold_counts() -> None:
    assert term("uncertainty", [image(0.9, 0.31), image(0.5), image(0.4, 0.4), image(0.29)]) == [1.0, 0.25, 0.5, 1.0]


def test_of_images_without_regions_the_highest_score_comes_first() -> None:
    assert term("uncertainty", [image(score=0.1), image(score=0.7), image(score=0.4)]) == pytest.approx(
        [1 / 3, 1, 2 / 3]
    )


def test_finds_and_misses_take_turns_however_few_there_are() -> None:
    images = [image(0.9), *(image(score=number / 10) for number in range(9))]
    assert term("uncertainty", images)[0] == 1.0
    assert sorted(term("uncertainty", images)[1:]) == pytest.approx([n / 10 for n in range(2, 11)])


@given(st.lists(UNIT, min_size=1, max_size=4), UNIT)
def test_another_region_never_makes_an_image_surer(confidences: list[float], more: float) -> None:
    others = [image(value) for value in (0.1, 0.35, 0.5, 0.9)]
    before = term("uncertainty", [image(*confidences), *others])[0]
    assert term("uncertainty", [image(*confidences, more), *others])[0] >= before


def test_equal_images_are_equally_uncertain() -> None:
    assert term("uncertainty", [image(0.5)] * 3 + [image(score=0.2)] * 2) == [1.0] * 5


# ------------------------------------------------------------------------------------------------------- disagreement


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([], 0.0),
        ([{}], 0.0),
        ([{"crack": 0.9}], 0.0),
        ([{"anomaly": 0.5, "defect": 0.5}], 0.0),
        ([{"anomaly": 0.2, "defect": 0.3, "crack": 0.6}], 0.5),
        ([{"crack": 0.4, "scratch": 0.4}], 1.0),
        ([{"crack": 0.0, "scratch": 0.0}], 0.0),
        ([{"crack": 0.8, "scratch": 0.2, "dent": 0.4}, {"crack": 0.9, "dent": 0.0}], 0.5),
    ],
)
def test_labels_that_compete_for_a_region_disagree(scores: list[dict[str, float]], expected: float) -> None:
    assert priority.disagreement(scores, GENERIC) == pytest.approx(expected)


@given(UNIT, UNIT, UNIT)
def test_a_stronger_rival_is_more_disagreement(best: float, a: float, b: float) -> None:
    low, high = sorted((a * best, b * best))
    weaker, stronger = ([{"crack": best, "dent": rival}] for rival in (low, high))
    assert priority.disagreement(weaker) <= priority.disagreement(stronger)


# ---------------------------------------------------------------------------------------------------------- diversity


@given(COUNTS, st.integers(1, 4), st.integers(1, 12), st.integers(0, 999))
def test_k_centre_follows_the_loop(count: int, channels: int, centres: int, seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(count, channels))
    order, reach = priority.k_centre(points, centres)
    expected_order, expected_reach = k_centre_by_loop(points.tolist(), centres)
    assert order.tolist() == expected_order
    assert reach.tolist() == pytest.approx(expected_reach)
    assert (np.diff(reach[order][1:]) <= 0).all()


@given(COUNTS, st.integers(0, 4), st.integers(0, 999))
def test_diversity_follows_the_loop(count: int, channels: int, seed: int) -> None:
    descriptors = np.random.default_rng(seed).random((count, channels), np.float32)
    assert priority.diversity(descriptors).tolist() == pytest.approx(diversity_by_loop(descriptors.tolist()))


def test_greedy_centres_reach_all_within_twice_the_best_radius() -> None:
    rng = np.random.default_rng(4)
    clusters = rng.permutation(np.repeat(np.array([[0.0, 0.0], [10, 0], [0, 10], [10, 10]]), 25, axis=0))
    points = clusters + rng.uniform(-0.5, 0.5, clusters.shape)
    order, _ = priority.k_centre(points, 4)
    assert {tuple(clusters[i]) for i in order[:4]} == {(0, 0), (10, 0), (0, 10), (10, 10)}


def test_copies_add_nothing() -> None:
    looks = np.array([[0.1, 0.7]] * 3 + [[0.9, 0.2]] * 2, np.float32)
    found = term("diversity", [image()] * 5, looks)
    assert found[1:3] == [0.0, 0.0]
    assert found[0] > found[3] > found[4] == 0.0
    assert term("diversity", [image()] * 4, np.full((4, 68), 0.1, np.float32)) == [1.0, 0.0, 0.0, 0.0]


def test_units_of_the_channels_do_not_matter() -> None:
    looks = np.random.default_rng(1).random((20, 3), np.float32)
    np.testing.assert_array_equal(
        priority.diversity(looks), priority.diversity(looks * np.array([1, 64, 1024], np.float32))
    )


# ------------------------------------------------------------------------------------------------------------- chance


def test_chance_is_drawn_from_the_key_alone() -> None:
    keys = [hashlib.sha256(bytes([i])).hexdigest() for i in range(256)]
    drawn = [priority.chance(key) for key in keys]
    assert drawn == [priority.chance(key) for key in keys]
    assert all(0 <= value < 1 for value in drawn)
    assert abs(fmean(drawn) - 0.5) < 0.06
    assert pstdev(drawn) == pytest.approx(12**-0.5, abs=0.03)
    assert priority.chance("image") == pytest.approx(0.5143307546604952)  # and on every machine


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("value", [nan, inf, -0.01, 1.01])
def test_figures_outside_their_range_are_refused(value: float) -> None:
    good, looks = image(0.5), np.zeros((1, 2), np.float32)
    for bad in (
        replace(good, score=value),
        replace(good, confidences=(0.5, value)),
        replace(good, phrase_scores=({"crack": value},)),
    ):
        with pytest.raises(ValueError, match=r"image a: a score or confidence must be in \[0, 1\]"):
            priority.priorities([bad], looks, 0.3)
    with pytest.raises(ValueError, match="the threshold must be"):
        priority.priorities([good], looks, value)


@pytest.mark.parametrize("value", [nan, inf])
def test_descriptors_that_are_not_finite_are_refused(value: float) -> None:
    looks = np.array([[0.0, 1.0], [value, 0.0]], np.float32)
    with pytest.raises(ValueError, match="image b: its descriptor is not finite"):
        priority.priorities([image(), image(key="b")], looks, 0.3)


@pytest.mark.parametrize("shape", [(1, 2), (3, 2), (2,)])
def test_every_image_has_one_descriptor(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"2 images need descriptors of shape \(2, C\)"):
        priority.priorities([image(), image()], np.zeros(shape, np.float32), 0.3)
