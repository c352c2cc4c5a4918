"""Deformable attention: both ways to sample, and the whole layer, against groundingdino-py's."""

import warnings
from typing import Any

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports timm by an old name
    import groundingdino.models.GroundingDINO.ms_deform_attn as attention

from saa_core.generators.deformable import DeformableAttention, Places, by_bags, by_grid

SHAPES = ((9, 13), (5, 7), (3, 4), (1, 1))
PIXELS = sum(rows * columns for rows, columns in SHAPES)
HEADS, POINTS, WIDTH = 4, 3, 32
PLACES = HEADS * len(SHAPES) * POINTS


def random(*shape: int, seed: int = 0) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights_of(batch: int, queries: int) -> Any:
    return random(batch, queries, HEADS, len(SHAPES) * POINTS, seed=1).softmax(-1)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("spread", [0.0, 1.0, 10.0, 1e6])
def test_bags_sample_as_a_grid_does(batch: int, spread: float) -> None:
    """In the image, at its border, and far beyond it."""
    value, weights = random(batch, PIXELS, WIDTH), weights_of(batch, 50)
    xy = random(batch, 50, 2, PLACES, seed=2) * spread + 2
    expected = by_grid(value, xy, weights, SHAPES)
    torch.testing.assert_close(by_bags(value, xy.clone(), weights, SHAPES), expected, rtol=1e-5, atol=2e-5)


def test_a_place_on_a_pixel_finds_its_value_and_beyond_the_border_zeros() -> None:
    value, weights = random(1, PIXELS, WIDTH), torch.zeros(1, 3, HEADS, len(SHAPES) * POINTS)
    weights[..., 0] = 1  # the first point on the finest level
    xy = torch.zeros(1, 3, 2, PLACES)
    xy[0, 0, 0], xy[0, 0, 1] = 12, 8
    xy[0, 1, 0], xy[0, 1, 1] = 12.5, 8
    xy[0, 2, 0], xy[0, 2, 1] = 13, 8
    found = by_bags(value, xy, weights, SHAPES)[0]
    last = value[0, 9 * 13 - 1]
    torch.testing.assert_close(found, torch.stack([last, last / 2, torch.zeros(WIDTH)]))


def test_places_that_are_no_number_find_none() -> None:
    value, weights, xy = random(1, PIXELS, WIDTH), weights_of(1, 4), torch.zeros(1, 4, 2, PLACES)
    xy[0, 1], weights[0, 1] = torch.nan, torch.nan
    xy[0, 2], xy[0, 3] = torch.inf, -torch.inf
    found = by_bags(value, xy, weights, SHAPES)[0]
    assert found[0].isfinite().all()
    assert found[1].isnan().all()
    assert (found[2:] == 0).all()


@pytest.fixture(scope="module")
def module() -> Any:
    """groundingdino-py's layer."""
    torch.manual_seed(0)
    module = attention.MultiScaleDeformableAttention(WIDTH, HEADS, len(SHAPES), POINTS, batch_first=True).eval()
    with torch.no_grad():
        for weights in module.parameters():
            weights.normal_(0, 0.3)
    return module


@pytest.mark.parametrize("sides", [2, 4])
def test_a_layer_is_groundingdino_pys(module: Any, sides: int) -> None:
    """Around points, as in the encoder, and inside boxes, as in the decoder."""
    query, memory = random(2, 20, WIDTH, seed=3), random(2, PIXELS, WIDTH, seed=4)
    points = random(2, 20, sides, seed=5).sigmoid()
    shapes = torch.tensor(SHAPES)
    pixels = torch.tensor([(columns, rows) for rows, columns in SHAPES]).T[:, None, :, None]

    def places(shares: Any) -> Any:
        return (shares[..., None, None, None] * pixels).expand(-1, -1, -1, HEADS, -1, POINTS).flatten(3)

    reach = places(points[..., 2:]) / 2 / POINTS if sides == 4 else None
    with torch.inference_mode():
        levels = points[:, :, None].expand(-1, -1, len(SHAPES), -1)
        expected = module(query, value=memory, reference_points=levels, spatial_shapes=shapes)
        found = DeformableAttention(module)(query, memory, Places(places(points[..., :2]) - 0.5, reach), SHAPES)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
