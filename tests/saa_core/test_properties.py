"""Eq. 4 against a loop over regions, and worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saa_core.prompts import PromptBundle, PropertyPrompt
from saa_core.properties import box_area, object_area, passes

SHARES = st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.9, 1.0])


def by_loop(areas: list[float], inside: list[float], pixels: float, prompt: PropertyPrompt) -> list[list[bool]]:
    found = []
    for area, share in zip(areas, inside, strict=True):
        large = area > 0 and area >= prompt.area_min * pixels
        small = prompt.area_max is None or area < prompt.area_max * pixels
        found.append([large, small, share >= prompt.location])
    return found


def keep(areas: NDArray[np.float64], inside: NDArray[np.float64], pixels: float, prompt: PropertyPrompt) -> list[bool]:
    kept: list[bool] = passes(areas, inside, pixels, prompt).all(axis=1).tolist()
    return kept


@given(
    st.lists(st.tuples(st.integers(0, 40), SHARES), max_size=8),
    st.integers(0, 40),
    SHARES,
    st.none() | SHARES.filter(bool),
    SHARES,
)
def test_eq_4_is_the_loop(
    regions: list[tuple[int, float]], pixels: int, least: float, most: float | None, location: float
) -> None:
    prompt = PropertyPrompt(area_min=least, area_max=most, location=location)
    areas, inside = [float(area) for area, _ in regions], [share for _, share in regions]
    found = passes(np.array(areas), np.array(inside), float(pixels), prompt)
    assert found.dtype == np.bool_
    assert found.shape == (len(regions), 3)
    assert found.tolist() == by_loop(areas, inside, pixels, prompt)


def test_reference_drops_boxes_at_the_limit_and_asks_for_no_location() -> None:
    # An object of 200 square pixels and theta 0.25: 0 < area < 50.
    prompt = PromptBundle(product="x", profile="reference", property=PropertyPrompt(area_max=0.25)).property
    boxes = np.array([[0, 0, 5, 10], [0, 0, 7, 7], [3, 3, 3, 9], [9, 9, 2, 2], [0, 0, 1, 1]], np.float32)
    areas = box_area(boxes)
    assert areas.tolist() == [50, 49, 0, 0, 1]
    assert keep(areas, np.zeros(5), 200.0, prompt) == [False, True, False, False, True]


def test_paper_asks_for_area_and_location() -> None:
    prompt = PromptBundle(product="x", profile="paper", property={"area_max": 0.5, "location": 0.5}).property
    areas, inside = np.array([10.0, 49, 50, 10, 10]), np.array([1.0, 1, 1, 0.5, 0.49])
    assert keep(areas, inside, 100.0, prompt) == [True, True, False, True, False]


def test_without_a_limit_the_whole_object_may_be_the_defect() -> None:
    assert keep(np.array([0.0, 100, 400]), np.ones(3), 100.0, PropertyPrompt()) == [False, True, True]


def test_no_regions() -> None:
    assert keep(np.zeros(0), np.zeros(0), 10.0, PropertyPrompt()) == []
    assert box_area(np.zeros((0, 4), np.float32)).shape == (0,)


@pytest.mark.parametrize(
    ("objects", "area"),
    [
        (1, 90.0),  # the largest box under the whole image of 100
        (2, 40.0),  # under 50, strictly: the box of 50 does not count
        (3, 30.0),  # under 33.3
        (4, 100.0),  # under 25: none is left, the image is the object
    ],
)
def test_object_area_is_the_largest_box_under_an_equal_share(objects: int, area: float) -> None:
    sides = [(10, 10), (9, 10), (10, 5), (8, 5), (5, 6), (0, 7)]
    boxes = np.array([[1, 2, 1 + width, 2 + height] for width, height in sides], np.float32)
    assert object_area(boxes, 100.0, objects) == area


def test_object_area_without_boxes_is_the_image() -> None:
    assert object_area(np.zeros((0, 4), np.float32), 12.0, 1) == 12.0
