"""SAM's image encoder, sped up, against segment-anything's own: windows, whole images, every table of positions."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT

from saa_core.refiners.sam_encoder import speed_up
from saa_core.runtime import pack_linears


def encoder(**changes: Any) -> Any:
    """Two layers, one within windows, on a grid of 8 x 8 tokens; every weight matters."""
    torch.manual_seed(0)
    usual = {
        "img_size": 128,
        "embed_dim": 48,
        "depth": 2,
        "num_heads": 3,
        "mlp_ratio": 2,
        "out_chans": 8,
        "use_rel_pos": True,
        "window_size": 3,
        "global_attn_indexes": (1,),
    }
    made = ImageEncoderViT(**usual | changes).eval()
    with torch.no_grad():
        for weights in made.parameters():
            weights.add_(torch.randn_like(weights) * 0.1)
    return made


def images(*shape: int) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


CASES = {
    "windows that do not fit": {"global_attn_indexes": ()},
    "windows that fit": {"global_attn_indexes": (), "window_size": 4},
    "whole images": {"window_size": 0},
    "both": {},
    "no positions": {"use_rel_pos": False},
    "no bias": {"qkv_bias": False},
    "several groups of heads": {"img_size": 256, "patch_size": 4, "depth": 1, "window_size": 0, "num_heads": 2},
}


@pytest.mark.parametrize("changes", [pytest.param(changes, id=name) for name, changes in CASES.items()])
def test_is_the_plain_encoder(changes: dict[str, Any]) -> None:
    plain = encoder(**changes)
    quick, side = pack_linears(speed_up(deepcopy(plain))), plain.img_size
    with torch.inference_mode():
        expected, found = plain(images(1, 3, side, side)), quick(images(1, 3, side, side))
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [0, 3])
def test_tables_are_fitted_to_images_of_other_proportions(window: int) -> None:
    """On 8 x 5 tokens the table of the columns is interpolated; two images do not mix."""
    plain = encoder(use_abs_pos=False, window_size=window)
    quick, batch = speed_up(deepcopy(plain)), images(2, 3, 128, 80)
    with torch.inference_mode():
        torch.testing.assert_close(quick(batch), plain(batch), atol=1e-5, rtol=0)
        torch.testing.assert_close(quick(batch[1:]), quick(batch)[1:], atol=1e-5, rtol=0)


def test_positions_are_not_ignored() -> None:
    """Without this, equality of two encoders that forget them would say nothing."""
    changed = encoder()
    with torch.no_grad():
        for name, weights in changed.named_parameters():
            if "rel_pos" in name:
                weights.mul_(2)
    with torch.inference_mode():
        batch = images(1, 3, 128, 128)
        assert (speed_up(changed)(batch) - speed_up(encoder())(batch)).abs().max() > 0.01
