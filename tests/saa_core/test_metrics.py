"""Every metric against a literal loop written from its definition, and against scikit-learn."""

import doctest
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from saa_core import metrics
from saa_core.errors import MaskError, MetricError
from saa_core.masks import Rle, encode, iou, union

Bools = NDArray[np.bool_]
Images = tuple[list[NDArray[np.float32]], list[Bools]]


@st.composite
def small_classes(draw: st.DrawFn) -> Images:
    """One to three small images; few levels of score, so that ties of every kind occur."""
    maps, truths = [], []
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
        levels = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.75, 3.0])
        maps.append(draw(hnp.arrays(np.float32, shape, elements=levels)))
        truths.append(draw(hnp.arrays(np.bool_, shape)))
    return maps, truths


def large_class(seed: int = 0, count: int = 6, side: int = 60) -> Images:
    """Images with square defects and a map that finds them in part; nearly all scores differ."""
    rng = np.random.default_rng(seed)
    maps, truths = [], []
    for number in range(count):
        truth = np.zeros((side, side), bool)
        for top, left in rng.integers(0, side - 8, (number, 2)):
            truth[top : top + rng.integers(1, 8), left : left + rng.integers(1, 8)] = True
        maps.append((rng.normal(0, 1, truth.shape) + 1.5 * truth).astype(np.float32))
        truths.append(truth)
    return maps, truths


def pooled(maps: list[NDArray[np.float32]], truths: list[Bools]) -> tuple[NDArray[np.float32], Bools]:
    return np.concatenate([found.ravel() for found in maps]), np.concatenate([truth.ravel() for truth in truths])


# ------------------------------------------------------------------------------------------------- oracles, as defined


def f1_by_loop(scores: NDArray[Any], truth: Bools, threshold: float) -> float | None:
    tp = fp = fn = 0
    for score, anomalous in zip(scores, truth, strict=True):
        tp += score >= threshold and anomalous
        fp += score >= threshold and not anomalous
        fn += score < threshold and anomalous
    return 2 * tp / (2 * tp + fp + fn) if tp + fn else None


def max_f1_by_loop(scores: NDArray[Any], truth: Bools) -> float | None:
    found = [f1_by_loop(scores, truth, threshold) for threshold in set(scores.tolist())]
    return None if found[0] is None else max(value for value in found if value is not None)


def auroc_by_loop(scores: NDArray[Any], truth: Bools) -> float | None:
    pairs = [(p > n) + (p == n) / 2 for p in scores[truth] for n in scores[~truth]]
    return float(sum(pairs) / len(pairs)) if pairs else None


def average_precision_by_loop(scores: NDArray[Any], truth: Bools) -> float | None:
    if not truth.any():
        return None
    area, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        predicted = scores >= threshold
        new = (predicted & truth).sum() / truth.sum()
        area += (new - recall) * (predicted & truth).sum() / predicted.sum()
        recall = new
    return float(area)


def components_by_loop(truth: Bools) -> list[set[tuple[int, int]]]:
    """8-connected components by flooding."""
    left = {(int(row), int(column)) for row, column in np.argwhere(truth)}
    components = []
    while left:
        todo = [min(left)]
        left.discard(todo[0])
        component = set(todo)
        while todo:
            row, column = todo.pop()
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            component |= near
            todo.extend(near)
        components.append(component)
    return components


def aupro_by_loop(maps: list[NDArray[np.float32]], truths: list[Bools], limit: float) -> float | None:
    scores, truth = pooled(maps, truths)
    if truth.all() or not truth.any():
        return None
    points = [(0.0, 0.0)]
    for threshold in sorted(set(scores.tolist()), reverse=True):
        overlaps = [
            np.mean([found[pixel] >= threshold for pixel in component])
            for found, mask in zip(maps, truths, strict=True)
            for component in components_by_loop(mask)
        ]
        points.append((float(np.mean(scores[~truth] >= threshold)), float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def most_matches_by_trying_all(match: Bools) -> int:
    small, large = sorted(match.shape)
    table = match if match.shape[0] == small else match.T
    return max(
        sum(table[row, column] for row, column in enumerate(order)) for order in permutations(range(large), small)
    )


# ---------------------------------------------------------------------------------------------------------- the oracles


@settings(deadline=None)
@given(small_classes(), st.sampled_from([0.1, 0.3, 0.5, 1.0]))
def test_pixel_metrics_follow_their_definitions(images: Images, limit: float) -> None:
    scores, truth = pooled(*images)
    assert metrics.max_f1_pixel(*images) == pytest.approx(max_f1_by_loop(scores, truth), abs=1e-12)
    assert metrics.pixel_auroc(*images) == pytest.approx(auroc_by_loop(scores, truth), abs=1e-12)
    assert metrics.average_precision(*images) == pytest.approx(average_precision_by_loop(scores, truth), abs=1e-12)
    assert metrics.aupro(*images, limit) == pytest.approx(aupro_by_loop(*images, limit), abs=1e-12)
    for threshold in (-2.0, 0.25, 0.3, 3.0, 4.0):
        assert metrics.f1_at(*images, threshold) == pytest.approx(f1_by_loop(scores, truth, threshold), abs=1e-12)


def test_pixel_metrics_on_scores_that_nearly_all_differ() -> None:
    maps, truths = large_class(count=3, side=24)
    scores, truth = pooled(maps, truths)
    assert metrics.max_f1_pixel(maps, truths) == pytest.approx(max_f1_by_loop(scores, truth), abs=1e-12)
    assert metrics.aupro(maps, truths) == pytest.approx(aupro_by_loop(maps, truths, 0.3), abs=1e-12)


def test_scikit_learn_agrees() -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn comes with fiftyone")
    for seed in range(3):
        maps, truths = large_class(seed)
        maps = [np.round(found, 2) if seed else found for found in maps]  # with ties, and without
        scores, truth = pooled(maps, truths)
        precision, recall, _ = sklearn.precision_recall_curve(truth, scores)
        best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
        assert metrics.max_f1_pixel(maps, truths) == pytest.approx(best, abs=1e-12)
        assert metrics.pixel_auroc(maps, truths) == pytest.approx(sklearn.roc_auc_score(truth, scores), abs=1e-12)
        expected = sklearn.average_precision_score(truth, scores)
        assert metrics.average_precision(maps, truths) == pytest.approx(expected, abs=1e-12)


@given(small_classes())
def test_the_best_threshold_gives_the_best_f1(images: Images) -> None:
    counts = metrics.PixelCounts()
    for found, truth in zip(*images, strict=True):
        counts.update(found, truth)
    best = counts.curve().best_f1()
    if best is None:
        assert counts.f1_at(0) is None
        return
    assert counts.f1_at(best.threshold) == pytest.approx(best.f1)
    assert 2 * best.precision * best.recall / (best.precision + best.recall) == pytest.approx(best.f1)


def test_the_order_of_the_images_does_not_matter() -> None:
    maps, truths = large_class()
    forward = [metrics.max_f1_pixel(maps, truths), metrics.pixel_auroc(maps, truths)]
    assert forward == [metrics.max_f1_pixel(maps[::-1], truths[::-1]), metrics.pixel_auroc(maps[::-1], truths[::-1])]


def test_counting_is_pooled_not_a_mean_over_images() -> None:
    # Image 1 alone reaches 1 at 0.2, image 2 alone at 0.9; one threshold for both cannot.
    maps = [np.array([[0.2, 0.1]], np.float32), np.array([[0.9, 0.3]], np.float32)]
    truths = [np.array([[True, False]]), np.array([[True, False]])]
    assert metrics.max_f1_pixel(maps, truths) == pytest.approx(0.8)


def test_aupro_weighs_regions_not_pixels() -> None:
    # A region of four pixels is found, one of one pixel is not: mean overlap one half, before any alarm.
    found = np.array([[1, 1, 1, 1, 0, 0, 0.5, 0.5]], np.float32)
    truth = np.array([[1, 1, 1, 1, 0, 1, 0, 0]], bool)
    assert metrics.aupro([found], [truth]) == pytest.approx(0.5)
    # The same pixels in one 8-connected region, joined at a corner: four of five are found.
    corner = np.array([[1, 1, 1, 1, 0], [0, 0, 0, 0, 1]], bool)
    level = np.array([[1, 1, 1, 1, 0.5], [0.5, 0.5, 0.5, 0.5, 0]], np.float32)
    assert metrics.aupro([level], [corner]) == pytest.approx(0.8)


# ----------------------------------------------------------------------------------------------------------- degenerate


@pytest.mark.parametrize(
    ("found", "truth", "expected"),
    [
        # (max F1, AUROC, average precision, AUPRO)
        ([0.1, 0.2, 0.3], [0, 0, 0], (None, None, None, None)),
        ([0.1, 0.2, 0.3], [1, 1, 1], (1.0, None, 1.0, None)),
        # Constant: all or nothing is predicted; the ROC and the PRO curve are the diagonal.
        ([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0], (0.4, 0.5, 0.25, 0.15)),
        ([0.0, 1.0], [0, 1], (1.0, 1.0, 1.0, 1.0)),
        ([1.0, 0.0], [0, 1], (2 / 3, 0.0, 0.5, 0.0)),
        ([0.0, -0.0], [0, 1], (2 / 3, 0.5, 0.5, 0.15)),
    ],
)
def test_degenerate_classes_have_a_named_result(
    found: list[float], truth: list[int], expected: tuple[Any, ...]
) -> None:
    images: Images = ([np.array([found], np.float32)], [np.array([truth], bool)])
    result = (
        metrics.max_f1_pixel(*images),
        metrics.pixel_auroc(*images),
        metrics.average_precision(*images),
        metrics.aupro(*images),
    )
    assert result == pytest.approx(expected, abs=1e-12)


def test_float64_is_counted_as_float32() -> None:
    # Two float64 scores that float32 cannot tell apart are one score, on the map and as a threshold.
    found, truth = np.array([[0.1, 0.1 + 1e-12]]), np.array([[False, True]])
    assert metrics.pixel_auroc([found], [truth]) == 0.5
    assert metrics.f1_at([found], [truth], 0.1 + 1e-12) == pytest.approx(2 / 3)


def test_half_precision_maps_are_counted() -> None:
    assert metrics.max_f1_pixel([np.array([[0.5, 0.25]], np.float16)], [np.array([[True, False]])]) == 1.0


@pytest.mark.parametrize(
    ("found", "truth", "message"),
    [
        (np.array([[np.nan, 1, np.inf]]), np.zeros((1, 3), bool), "2 of 3 scores are not finite"),
        (np.array([[1e300]]), np.zeros((1, 1), bool), "1 of 1 scores are not finite"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), bool), r"float array \(h, w\), not uint8 \(2, 2\)"),
        (np.zeros(4), np.zeros(4, bool), r"not float64 \(4,\)"),
        (np.zeros((0, 4)), np.zeros((0, 4), bool), r"not float64 \(0, 4\)"),
        (np.zeros((2, 2)), np.zeros((2, 3), bool), r"bool \(2, 2\) like its map, not bool \(2, 3\)"),
        (np.zeros((2, 2)), np.zeros((2, 2), np.uint8), r"not uint8 \(2, 2\)"),
    ],
)
def test_pixels_that_cannot_be_counted(found: Any, truth: Any, message: str) -> None:
    counts = metrics.PixelCounts()
    with pytest.raises(MetricError, match=message):
        counts.update(found, truth)
    with pytest.raises(MetricError, match="no image was counted"):
        counts.curve()


@pytest.mark.parametrize("call", [metrics.max_f1_pixel, metrics.pixel_auroc, metrics.average_precision, metrics.aupro])
def test_no_images_and_images_without_truth(call: Any) -> None:
    with pytest.raises(MetricError, match="no image was counted"):
        call([], [])
    with pytest.raises(ValueError, match="shorter"):
        call([np.zeros((2, 2))], [])


def test_thresholds_out_of_range() -> None:
    images: Images = ([np.zeros((1, 2), np.float32)], [np.array([[True, False]])])
    for limit in (0, 1.5, float("nan")):
        with pytest.raises(MetricError, match=r"in \(0, 1\]"):
            metrics.aupro(*images, limit)
        with pytest.raises(MetricError, match=r"in \(0, 1\]"):
            metrics.RegionCounts(limit)
    with pytest.raises(MetricError, match="no image was counted"):
        metrics.f1_at([], [], 0.5)


# -------------------------------------------------------------------------------------------------------------- images


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.1 + 1e-12, 0.5, 1.0]), st.booleans()), max_size=12))
def test_image_auroc_follows_its_definition(images: list[tuple[float, bool]]) -> None:
    scores, labels = [score for score, _ in images], [label for _, label in images]
    expected = auroc_by_loop(np.array(scores), np.array(labels, bool))
    assert metrics.image_auroc(scores, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, 0.2], [True], r"not \(2,\) and bool \(1,\)"),
        ([[0.1]], [[True]], r"not \(1, 1\)"),
        ([0.1, 0.2], [0, 1], r"and int64 \(2,\)"),
        ([0.1, float("nan")], [True, False], "1 of 2 scores are not finite"),
    ],
)
def test_image_scores_that_cannot_be_counted(scores: Any, labels: Any, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        metrics.image_auroc(scores, labels)


# ------------------------------------------------------------------------------------------------------------- regions


def bars(*columns: tuple[int, int], width: int = 20) -> list[Rle]:
    """Masks of one row, each with the pixels from start to end."""
    place = np.arange(width)[None, :]
    return [encode((place >= start) & (place < end)) for start, end in columns]


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 8), st.integers(1, 8))))
def test_regions_are_the_8_connected_components(mask: Bools) -> None:
    found = metrics.regions(mask)
    expected = components_by_loop(mask)
    assert len(found) == len(expected)
    for region, component in zip(found, expected, strict=True):
        wanted = np.zeros(mask.shape, bool)
        wanted[tuple(np.array(sorted(component)).T)] = True
        assert region == encode(wanted)
    assert not found or union(found) == encode(mask)


def test_regions_of_something_else() -> None:
    with pytest.raises(MaskError, match="bool array"):
        metrics.regions(np.zeros((2, 2), np.uint8))  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.data(), st.sampled_from([0.2, 0.5, 0.8]))
def test_as_many_pairs_as_possible_are_matched(data: st.DataObject, threshold: float) -> None:
    ends = st.tuples(st.integers(0, 8), st.integers(1, 12)).map(lambda bar: (bar[0], sum(bar)))
    predicted, truth = bars(*data.draw(st.lists(ends, max_size=4))), bars(*data.draw(st.lists(ends, max_size=4)))
    hits = int(most_matches_by_trying_all(iou(predicted, truth) >= threshold))
    counts = metrics.RegionCounts(threshold)
    counts.update(predicted, truth)
    assert (counts.hits, counts.alarms, counts.misses) == (hits, len(predicted) - hits, len(truth) - hits)


def test_a_greedy_match_would_lose_a_pair() -> None:
    # The first prediction fits the second truth better, which is the only partner of the second prediction.
    predicted, truth = bars((0, 10), (5, 10)), bars((0, 6), (3, 10))
    np.testing.assert_allclose(iou(predicted, truth), [[0.6, 0.7], [0.1, 5 / 7]])
    assert metrics.region_f1([predicted], [truth], 0.55) == 1.0


def test_region_f1_is_pooled_over_images() -> None:
    predicted = [bars((0, 4)), bars((0, 4), (10, 14)), []]
    truth = [bars((0, 4)), bars((10, 14)), bars((3, 7))]
    assert metrics.region_f1(predicted, truth) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))


def test_iou_at_the_threshold_is_a_match() -> None:
    assert metrics.region_f1([bars((0, 5))], [bars((0, 10))], 0.5) == 1.0
    assert metrics.region_f1([bars((0, 4))], [bars((0, 10))], 0.5) == 0.0


def test_region_f1_without_regions() -> None:
    assert metrics.region_f1([], []) is None
    assert metrics.region_f1([[]], [[]]) is None
    assert metrics.region_f1([bars((0, 4))], [[]]) == 0.0
    assert metrics.region_f1([[]], [bars((0, 4))]) == 0.0
    with pytest.raises(ValueError, match="shorter"):
        metrics.region_f1([[]], [])


def test_the_examples_in_the_docstrings() -> None:
    results = doctest.testmod(metrics)
    assert results.attempted
    assert not results.failed
