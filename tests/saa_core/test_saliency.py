"""Eq. 5-7 against loops over cells and pixels, and worked by hand."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from saa_core import masks
from saa_core.errors import MaskError
from saa_core.saliency import image_context, mean_saliency, normalise, object_context, rescore, saliency_prompt

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Cell = tuple[float, ...]


@st.composite
def features(draw: st.DrawFn) -> Floats:
    """A small grid of features with parallel, opposite and zero ones."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)))
    return draw(hnp.arrays(np.float32, shape, elements=st.integers(-3, 3).map(float)))


@st.composite
def features_and_objects(draw: st.DrawFn) -> tuple[Floats, list[Bools]]:
    """Features with up to four objects, which may overlap, be empty or be equal."""
    grid = draw(features())
    count = draw(st.integers(0, 4))
    return grid, [draw(hnp.arrays(np.bool_, grid.shape[:2])) for _ in range(count)]


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    lengths = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


def image_by_loop(grid: Floats, neighbours: int, farthest: bool) -> list[list[float]]:
    """Eq. 5, one cell at a time."""
    cells: list[Cell] = [tuple(cell) for row in grid.tolist() for cell in row]
    values = []
    for cell in cells:
        distances = sorted((1 - cosine(cell, other) for other in cells), reverse=farthest)[:neighbours]
        values.append(sum(distances) / len(distances) * (0.5 if farthest else 1))
    width = grid.shape[1]
    return [values[i : i + width] for i in range(0, len(values), width)]


def objects_by_loop(grid: Floats, objects: list[Bools]) -> Floats:
    """The released program: an object's own cells are zeroed before its likeness to the other objects' cells."""
    height, width = grid.shape[:2]
    places = [(i, j) for i in range(height) for j in range(width)]
    result = np.zeros((height, width), np.float32)
    for index, mine in enumerate(objects):
        others = objects[:index] + objects[index + 1 :]
        compared = [
            (0.0,) * grid.shape[2] if mine[place] else tuple(grid[place].tolist())
            for other in others
            for place in places
            if other[place]
        ]
        for place in places:
            if mine[place] and compared:
                best = max(cosine(grid[place].tolist(), cell) for cell in compared)
                result[place] = max(result[place], 0.5 * (1 - best))
    return result


# ------------------------------------------------------------------------------------------------- the image as context


@given(features(), st.integers(1, 20), st.booleans())
def test_eq_5_is_the_loop(grid: Floats, neighbours: int, farthest: bool) -> None:
    result = image_context(grid, neighbours, farthest=farthest)
    assert result.dtype == np.float32
    assert result.min() >= 0
    assert np.allclose(result, image_by_loop(grid, neighbours, farthest), atol=1e-6)


AXES = np.array([[[2, 0], [1, 0], [0, 3], [-1, 0]]], np.float32)
"""Four cells: two alike, one at a right angle to them, one opposite. Distances 1 - cos are 0, 1 and 2."""


def test_nearest_by_hand() -> None:
    # The cell itself is its first neighbour.
    assert image_context(AXES, 1).tolist() == [[0, 0, 0, 0]]
    assert image_context(AXES, 2).tolist() == [pytest.approx([0, 0, 1 / 2, 1 / 2])]
    assert image_context(AXES, 3).tolist() == [pytest.approx([1 / 3, 1 / 3, 2 / 3, 1])]


def test_farthest_by_hand() -> None:
    assert image_context(AXES, 1, farthest=True).tolist() == [pytest.approx([1, 1, 1 / 2, 1])]
    assert image_context(AXES, 2, farthest=True).tolist() == [pytest.approx([3 / 4, 3 / 4, 1 / 2, 1])]
    assert image_context(AXES, 3, farthest=True).tolist() == [pytest.approx([1 / 2, 1 / 2, 1 / 2, 5 / 6])]


@pytest.mark.parametrize("farthest", [False, True])
def test_more_neighbours_than_cells_are_all_cells(farthest: bool) -> None:
    # All four cells: the nearest and the farthest are the same, but for the factor.
    expected = np.array([[3 / 4, 3 / 4, 3 / 4, 5 / 4]]) * (0.5 if farthest else 1)
    assert np.allclose(image_context(AXES, 400, farthest=farthest), expected, atol=1e-6)
    assert np.array_equal(image_context(AXES, 400, farthest=farthest), image_context(AXES, 4, farthest=farthest))


@pytest.mark.parametrize("farthest", [False, True])
def test_a_constant_image_has_no_saliency_and_is_never_negative(farthest: bool) -> None:
    # The unit vectors' product with themselves rounds to just above 1 for some of these.
    for value in (0.1, 0.3, 0.7, 3.0):
        result = image_context(np.full((4, 5, 7), value, np.float32), 6, farthest=farthest)
        assert result.min() >= 0
        assert result.max() < 1e-6


def test_cells_without_features_are_at_distance_1_from_all() -> None:
    zeros = np.zeros((3, 2, 4), np.float32)
    assert (image_context(zeros, 4) == 1).all()
    assert (image_context(zeros, 4, farthest=True) == 0.5).all()


def test_a_grid_of_one_cell() -> None:
    one = np.array([[[3.0, 4.0]]], np.float32)
    for farthest in (False, True):
        assert image_context(one, 400, farthest=farthest) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("farthest", [False, True])
def test_a_grid_of_several_blocks_is_the_full_sort(farthest: bool) -> None:
    grid = np.random.default_rng(0).normal(size=(59, 61, 8)).astype(np.float32)
    cells = grid.reshape(-1, 8).astype(np.float64)
    cells /= np.linalg.norm(cells, axis=1, keepdims=True)
    distances = np.sort(1 - cells @ cells.T, axis=1)
    chosen = distances[:, -40:] / 2 if farthest else distances[:, :40]
    expected = chosen.mean(axis=1).reshape(59, 61)
    assert np.allclose(image_context(grid, 40, farthest=farthest), expected, atol=1e-5)


def test_the_features_are_left_alone() -> None:
    grid = AXES.copy()
    image_context(grid, 2)
    object_context(grid, [np.ones((1, 4), bool)] * 2)
    assert np.array_equal(grid, AXES)


@given(features(), st.sampled_from([1e-6, 1.0, 1e6]))
def test_normalised_features_have_length_1_or_0(grid: Floats, scale: float) -> None:
    lengths = np.linalg.norm(normalise(grid * np.float32(scale)), axis=-1)
    assert np.allclose(lengths, grid.any(axis=-1), atol=1e-6)


# ----------------------------------------------------------------------------------------------- the objects as context


@given(features_and_objects())
def test_object_context_is_the_loop(drawn: tuple[Floats, list[Bools]]) -> None:
    grid, objects = drawn
    result = object_context(grid, objects)
    assert result.dtype == np.float32
    assert result.min() >= 0
    assert np.allclose(result, objects_by_loop(grid, objects), atol=1e-6)


FIVE = np.array([[[1, 0], [0, 1], [1, 1], [-1, 0], [5, 5]]], np.float32)
"""Five cells at 0, 90, 45, 180 and 45 degrees."""
HALF = math.sqrt(0.5)


def cells(*chosen: int) -> Bools:
    return np.isin(np.arange(5), chosen)[None]


def test_two_objects_and_a_cell_outside_by_hand() -> None:
    # {0, 1} against {2, 3}; cell 4 is like cell 2, but outside.
    # cell 0: cos 45 = .707 and cos 180 = -1; cell 1: .707 and 0; cell 2: .707 twice; cell 3: -1 and 0.
    near = 0.5 * (1 - HALF)
    result = object_context(FIVE, [cells(0, 1), cells(2, 3)])
    assert result.tolist() == [pytest.approx([near, near, near, 0.5, 0])]


def test_three_objects_by_hand() -> None:
    # {0}, {1, 3}, {2}; cell 0: max(0, -1, .707); cell 1: max(0, .707); cell 3: max(-1, -.707); cell 2: max(.707, .707)
    near = 0.5 * (1 - HALF)
    result = object_context(FIVE, [cells(0), cells(1, 3), cells(2)])
    assert result.tolist() == [pytest.approx([near, near, near, 0.5 * (1 + HALF), 0])]


def test_alike_objects_have_no_saliency() -> None:
    assert object_context(FIVE, [cells(2), cells(4)]).tolist() == [pytest.approx([0] * 5, abs=1e-6)]
    for value in (0.1, 0.3, 0.7, 3.0):  # some of these round to a cosine just above 1
        result = object_context(np.full((1, 5, 7), value, np.float32), [cells(0, 1), cells(2, 3)])
        assert result.min() >= 0
        assert result.max() < 1e-6


def test_one_object_or_none_has_nothing_to_compare_with() -> None:
    assert not object_context(FIVE, []).any()
    assert not object_context(FIVE, [cells(0, 1, 3)]).any()


def test_an_object_that_owns_no_cell_changes_nothing() -> None:
    pair = [cells(0, 1), cells(2, 3)]
    assert np.array_equal(object_context(FIVE, [cells(), *pair, cells()]), object_context(FIVE, pair))
    assert not object_context(FIVE, [cells(), cells(0, 3)]).any()
    assert not object_context(FIVE, [cells(), cells()]).any()


def test_an_object_found_twice_is_not_its_own_context() -> None:
    # Without the other object the two boxes of {0} see no feature; with it they see cell 1 (cos 0) and no cos 1.
    assert object_context(FIVE, [cells(0), cells(0)]).tolist() == [[0.5, 0, 0, 0, 0]]
    assert object_context(FIVE, [cells(0), cells(0), cells(2)])[0, 0] == pytest.approx(0.5 * (1 - HALF))


def test_a_shared_cell_takes_its_highest_saliency() -> None:
    # Cell 0 as part of {0, 2} sees {1} and itself: cos 0. As part of {0, 1} it sees 2: cos 45.
    assert object_context(FIVE, [cells(0, 2), cells(0, 1)])[0, 0] == pytest.approx(0.5)


def test_objects_of_several_blocks_are_the_loop() -> None:
    rng = np.random.default_rng(1)
    grid = rng.normal(size=(80, 80, 4)).astype(np.float32)
    left = np.arange(80)[None] < np.full((80, 1), 50)
    unit = grid / np.linalg.norm(grid, axis=-1, keepdims=True)
    expected = np.zeros((80, 80))
    expected[left] = 0.5 * (1 - (unit[left] @ unit[~left].T).max(axis=1))
    expected[~left] = 0.5 * (1 - (unit[~left] @ unit[left].T).max(axis=1))
    assert np.allclose(object_context(grid, [left, ~left]), expected, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------ Eq. 6 - 7


@given(st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(lambda s: st.lists(hnp.arrays(np.bool_, s), max_size=4)))
def test_the_mean_of_eq_6_is_the_loop(found: list[Bools]) -> None:
    shape = found[0].shape if found else (2, 2)
    saliency = np.random.default_rng(2).random(shape).astype(np.float32)
    expected = []
    for mask in found:
        inside = [float(saliency[i, j]) for i in range(shape[0]) for j in range(shape[1]) if mask[i, j]]
        expected.append(sum(inside) / len(inside) if inside else 0.0)
    result = mean_saliency([masks.encode(mask) for mask in found], saliency)
    assert result.dtype == np.float64
    assert result.shape == (len(found),)
    assert np.allclose(result, expected)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(MaskError, match="another size"):
        mean_saliency([masks.encode(np.ones((2, 3), bool))], np.ones((3, 2), np.float32))


def test_eq_6_and_7_by_hand() -> None:
    saliency = np.array([[0.1, 0.3], [0.5, 0.7]], np.float32)
    found = [masks.encode(np.array(mask, bool)) for mask in ([[1, 1], [0, 0]], [[0, 0], [0, 1]], [[0, 0], [0, 0]])]
    mean = mean_saliency(found, saliency)
    assert mean.tolist() == pytest.approx([0.2, 0.7, 0.0])
    scores = np.array([0.5, 0.4, 0.3])
    # paper: exp(mean); reference: exp(3 mean); an empty mask keeps its score.
    assert rescore(scores, saliency_prompt(mean, 1.0)).tolist() == pytest.approx([0.610701, 0.805501, 0.3], rel=1e-5)
    assert rescore(scores, saliency_prompt(mean, 3.0)).tolist() == pytest.approx([0.911059, 3.266468, 0.3], rel=1e-5)
    assert rescore(scores, saliency_prompt(mean, 0.0)).tolist() == scores.tolist()
