"""SAM's mask decoder, sped up, against segment-anything's own."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch

from saa_core.refiners.sam_decoder import decode, scene, speed_up
from tests.foundation import tiny_sam


def plain(model: Any, embedding: Any, boxes: Any) -> tuple[Any, Any]:
    """Logits (n, 4 h, 4 w) and predicted IoU (n,), as the predictor asks for them."""
    corners, dense = model.prompt_encoder(points=None, boxes=boxes, masks=None)
    logits, predicted = model.mask_decoder(
        image_embeddings=embedding[None],
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=corners,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return logits[:, 0], predicted[:, 0]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_is_the_plain_decoder(count: int) -> None:
    torch.manual_seed(0)
    model, embedding = tiny_sam(), torch.randn(32, 8, 8)
    corners = torch.rand(count, 2) * 80
    boxes = torch.cat([corners, corners + 5 + 40 * torch.rand(count, 2)], 1)
    with torch.inference_mode():
        logits, predicted = plain(model, embedding, boxes)
        quick = deepcopy(model)
        speed_up(quick.mask_decoder)
        found, sure = decode(quick, scene(quick, embedding), boxes)
    assert found.shape == (count, 32, 32)
    assert logits.std() > 0.1
    torch.testing.assert_close(found, logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sure, predicted, atol=1e-6, rtol=0)
    assert count == 1 or (found[0] - found[1]).abs().max() > 0.01
