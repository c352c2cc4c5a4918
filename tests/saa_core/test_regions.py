"""Proposals from a map, and how far regions stand out in it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from saa_core import masks
from saa_core.masks import Rle
from saa_core.regions import contrast, prominence, propose_boxes

Floats = NDArray[np.float32]
Box = tuple[int, int, int, int]


def plateau(*parts: tuple[float, Box], size: tuple[int, int] = (100, 100)) -> Floats:
    """Zero with rectangles (value, (x0, y0, x1, y1)), later ones on top."""
    values = np.zeros(size, np.float32)
    for value, (x0, y0, x1, y1) in parts:
        values[y0:y1, x0:x1] = value
    return values


def grown(box: Box, share: float = 0.08) -> list[float]:
    x0, y0, x1, y1 = box
    dx, dy = share * (x1 - x0), share * (y1 - y0)
    return [x0 - dx, y0 - dy, x1 + dx, y1 + dy]


def region(box: Box, size: tuple[int, int] = (100, 100)) -> Rle:
    return masks.encode(plateau((1, box), size=size) > 0)


def test_every_plateau_gets_its_box() -> None:
    wide, tall = (10, 20, 40, 30), (60, 50, 70, 90)
    boxes = propose_boxes(plateau((1, wide), (0.5, tall)), (100, 100))
    np.testing.assert_allclose(boxes, [grown(wide), grown(tall)], atol=1e-4)


def test_nested_levels_are_both_proposed_once() -> None:
    outer, inner = (20, 20, 80, 80), (40, 40, 55, 55)
    boxes = propose_boxes(plateau((0.4, outer), (1, inner)), (100, 100))
    np.testing.assert_allclose(boxes, [grown(inner), grown(outer)], atol=1e-4)


def test_near_copies_of_a_component_are_left_out() -> None:
    outer, inner = (20, 20, 80, 80), (22, 22, 78, 78)  # 1.15 times the area
    assert len(propose_boxes(plateau((0.4, outer), (1, inner)), (100, 100))) == 1


def test_boxes_are_in_pixels_of_the_image() -> None:
    box = (10, 20, 40, 30)
    boxes = propose_boxes(plateau((1, box)), (300, 50))
    np.testing.assert_allclose(boxes, [np.array(grown(box)) * [0.5, 3, 0.5, 3]], atol=1e-4)


def test_a_large_map_is_reduced() -> None:
    boxes = propose_boxes(plateau((1, (200, 100, 400, 300)), size=(600, 800)), (600, 800))
    np.testing.assert_allclose(boxes, [grown((200, 100, 400, 300))], atol=1e-3)


def test_boxes_are_cut_at_the_border() -> None:
    np.testing.assert_allclose(propose_boxes(plateau((1, (0, 0, 30, 30))), (100, 100)), [[0, 0, 32.4, 32.4]], atol=1e-4)


def test_limit_keeps_the_most_prominent() -> None:
    spots = [(0.1 * i, (10 * i - 8, 10, 10 * i - 4, 14)) for i in range(1, 10)]
    boxes = propose_boxes(plateau(*spots), (100, 100), limit=3)
    np.testing.assert_allclose(boxes, [grown(spots[i][1]) for i in (8, 7, 6)], atol=1e-4)


def test_specks_are_not_proposed() -> None:
    assert len(propose_boxes(plateau((1, (50, 50, 51, 53))), (100, 100))) == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (8, 8), (100, 100)])
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_constant_map_has_no_boxes(shape: tuple[int, int], value: float) -> None:
    boxes = propose_boxes(np.full(shape, value, np.float32), (50, 60))
    assert boxes.shape == (0, 4)
    assert boxes.dtype == np.float32


maps = hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 8).map(float))


@settings(max_examples=50)
@given(maps, st.tuples(st.integers(1, 300), st.integers(1, 300)), st.integers(1, 6))
def test_any_map_gives_boxes_in_the_image(values: Floats, size: tuple[int, int], limit: int) -> None:
    boxes = propose_boxes(values, size, limit)
    assert len(boxes) <= limit
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [size[1], size[0]]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    scores = prominence(values / 8, boxes, size)
    assert scores.shape == (len(boxes),)
    assert ((scores >= 0) & (scores <= 1)).all()


@settings(max_examples=50)
@given(maps)
def test_level_and_scale_of_the_map_do_not_matter(values: Floats) -> None:
    # Powers of two, so that rounding does not move a level across a value.
    np.testing.assert_array_equal(propose_boxes(values, (90, 90)), propose_boxes(4 * values + 16, (90, 90)))


def test_prominence_is_the_mean_inside_less_the_mean_of_the_ring() -> None:
    values = plateau((0.25, (0, 0, 100, 50)), (1, (40, 40, 60, 60)))
    box = np.array([[40, 40, 60, 60]], np.float32)  # the ring is a quarter of 20 wide: 35 to 65
    ring = 0.25 * (15 * 30 - 10 * 20) / (30 * 30 - 20 * 20)
    assert prominence(values, box, (100, 100))[0] == pytest.approx(1 - ring)


def test_prominence_of_a_hollow_is_zero() -> None:
    values = 1 - plateau((1, (40, 40, 60, 60)))
    assert prominence(values, np.array([[40, 40, 60, 60]], np.float32), (100, 100)).tolist() == [0]


def test_contrast_is_the_mean_inside_less_the_mean_of_the_frame() -> None:
    values = plateau((0.5, (30, 30, 70, 70)), (1, (40, 40, 60, 60)))
    frame = 0.5  # half of 20 on every side: 30 to 70, all of it 0.5
    assert contrast([region((40, 40, 60, 60))], values) == pytest.approx([1 - frame])


def test_contrast_prefers_the_region_that_fits() -> None:
    rows, columns = np.indices((100, 100))
    values = (1 / (1 + np.exp(np.hypot(rows - 50, columns - 50) - 20))).astype(np.float32)  # a soft disc of radius 20
    discs = [masks.encode(np.hypot(rows - 50, columns - 50) < radius) for radius in (5, 10, 21, 40)]
    assert contrast(discs, values).argmax() == 2


def test_contrast_on_a_coarse_map() -> None:
    coarse = plateau((1, (4, 4, 6, 6)), size=(10, 10))
    assert contrast([region((40, 40, 60, 60))], coarse)[0] > 0.5


def test_contrast_without_anything_to_compare_is_zero() -> None:
    everything, nothing = np.ones((6, 6), np.bool_), np.zeros((6, 6), np.bool_)
    values = np.full((6, 6), 0.8, np.float32)
    assert contrast([masks.encode(everything), masks.encode(nothing)], values).tolist() == [0, 0]
    assert contrast([], values).shape == (0,)
