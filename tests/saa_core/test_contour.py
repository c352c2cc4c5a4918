"""The contour refiner on drawn defects whose true mask is known."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saa_core import masks
from saa_core.refiners import Contour, RegionRefiner
from tests.contracts.refiner import RegionRefinerContract

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
FLAT = np.zeros((16, 16), np.float32)
"""A saliency that says nothing."""


class TestContourIsARefiner(RegionRefinerContract):
    @pytest.fixture
    def refiner(self) -> RegionRefiner:
        return Contour()


def surface(height: int = 200, width: int = 200) -> Image:
    """Grey with the noise of a camera."""
    noise = np.random.default_rng(3).normal(0, 4, (height, width, 1))
    return np.clip(150 + noise, 0, 255).astype(np.uint8).repeat(3, axis=2)


def drawn(mask: Mask, colour: tuple[int, int, int] = (90, 80, 70)) -> Image:
    """The surface with a defect of another colour, and the same noise."""
    image = surface(*mask.shape)
    image[mask] = np.clip(image[mask].astype(int) + np.array(colour) - 150, 0, 255)
    return image


def disc(centre: tuple[int, int] = (100, 90), radius: int = 22) -> Mask:
    return cv2.circle(np.zeros((200, 200), np.uint8), centre, radius, 1, -1) > 0


def ring() -> Mask:
    return disc(radius=40) & ~disc(radius=22)


def bar() -> Mask:
    return cv2.line(np.zeros((200, 200), np.uint8), (30, 150), (170, 60), 1, 14) > 0


def box_of(mask: Mask, growth: float = 0.1) -> NDArray[np.float32]:
    """The box around a mask, larger by a share of its sides, as a proposal would be."""
    x0, y0, x1, y1 = masks.encode(mask).box
    dx, dy = growth * (x1 - x0), growth * (y1 - y0)
    return np.array([[x0 - dx, y0 - dy, x1 + dx, y1 + dy]], np.float32)


def refined(image: Image, boxes: NDArray[np.float32], saliency: NDArray[np.float32] = FLAT) -> Mask:
    return masks.decode(Contour()(image, boxes, saliency).masks[0])


def iou(a: Mask, b: Mask) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("growth", [0.0, 0.1, 0.2])
@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(disc(), id="disc"),
        pytest.param(disc(radius=8), id="small disc"),
        pytest.param(ring(), id="ring"),
        pytest.param(bar(), id="slanted bar"),
        pytest.param(disc((4, 100)), id="cut by the border"),
        pytest.param(disc((0, 0), 40), id="corner"),
    ],
)
def test_drawn_defects_are_found(mask: Mask, growth: float) -> None:
    assert iou(refined(drawn(mask), box_of(mask, growth)), mask) > 0.8


def test_one_pixel_line_in_a_wide_box_survives() -> None:
    mask = np.zeros((200, 200), np.bool_)
    mask[100, 40:160] = True
    found = refined(drawn(mask, (20, 20, 20)), np.array([[36, 92, 164, 109]], np.float32))
    assert found[mask].mean() > 0.9
    assert found.sum() < 5 * mask.sum()


def test_colour_alone_makes_a_border() -> None:
    mask = disc()
    image = np.full((200, 200, 3), (150, 100, 100), np.uint8)
    image[mask] = (100, 122, 100)  # nearly the lightness of its surroundings
    assert iou(refined(image, box_of(mask)), mask) > 0.9


def test_roughness_alone_makes_a_border() -> None:
    mask = disc(radius=40)
    image = surface()
    checks = np.indices((200, 200)).sum(axis=0) % 4 < 2
    image[mask] = np.where(checks, 125, 175)[mask][:, None]
    assert iou(refined(image, box_of(mask)), mask) > 0.8


def test_without_contrast_the_rounded_box_is_drawn() -> None:
    image = np.full((100, 100, 3), 120, np.uint8)
    found = Contour()(image, np.array([[20, 30, 80, 70]], np.float32), FLAT)
    assert 0.75 < found.masks[0].area / (60 * 40) <= 1
    assert found.quality[0] == pytest.approx(0, abs=1e-6)


def test_without_contrast_saliency_decides() -> None:
    image = np.full((100, 100, 3), 120, np.uint8)
    saliency = np.zeros((50, 50), np.float32)
    saliency[20:30, 12:20] = 1  # pixels 40 to 60, 24 to 40
    mask = refined(image, np.array([[20, 30, 80, 70]], np.float32), saliency)
    assert mask[42:58, 26:38].all()
    assert not mask[:, 60:].any()


def test_saliency_says_nothing_when_it_is_no_higher_inside_than_around() -> None:
    image, box = drawn(disc()), box_of(disc())
    hollow = 1 - cv2.resize(disc().astype(np.float32), (50, 50), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(refined(image, box, hollow - hollow.min()), refined(image, box, np.ones_like(hollow)))


def test_quality_follows_contrast() -> None:
    defects = [drawn(disc(), (grey, grey, grey)) for grey in (60, 140, 150)]
    strong, faint, none = (Contour()(image, box_of(disc()), FLAT).quality[0] for image in defects)
    assert 0.8 < strong <= 1
    assert strong > faint > none


def test_boxes_do_not_influence_one_another() -> None:
    image = drawn(disc() | bar())
    boxes = np.concatenate([box_of(disc()), box_of(bar()), box_of(ring())])
    together = Contour()(image, boxes, FLAT)
    alone = [Contour()(image, box[None], FLAT) for box in boxes]
    assert together.masks == tuple(one.masks[0] for one in alone)
    np.testing.assert_array_equal(together.quality, np.concatenate([one.quality for one in alone]))


@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    corners=st.tuples(*[st.floats(-20, 120, width=32)] * 4),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 5),
)
def test_any_image_and_box_give_a_mask_near_the_box(
    size: tuple[int, int], corners: tuple[float, float, float, float], grid: tuple[int, int], seed: int
) -> None:
    random = np.random.default_rng(seed)
    image = random.integers(0, 2 + 50 * seed, (*size, 3)).astype(np.uint8)
    boxes, saliency = np.array([corners], np.float32), random.random(grid, np.float32)
    found = Contour()(image, boxes, saliency)
    assert found.masks[0].size == size
    assert found.masks[0].area > 0
    assert 0 <= found.quality[0] <= 1
    assert Contour()(image, boxes, saliency).masks == found.masks


def test_extreme_aspect() -> None:
    image = np.full((4, 3000, 3), 150, np.uint8)
    image[:, 1000:1500] = 60
    mask = refined(image, np.array([[950, 0, 1550, 4]], np.float32))
    assert iou(mask, image[..., 0] == 60) > 0.9
