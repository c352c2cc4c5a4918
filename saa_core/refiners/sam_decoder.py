"""SAM's mask decoder (Kirillov et al., ICCV 2023) for boxes, one mask each, computed faster and to the same numbers.

`segment_anything` holds the image as channels first, which its transformer copies again and again, and enlarges it by
two transposed convolutions, of which each output pixel sees one input pixel. Here tokens lie one after the other, and
a transposed convolution is one matrix product: each token becomes the four pixels that it is enlarged to. What their
order in the image is matters only for the mask at the end. Attention is `scaled_dot_product_attention`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What all boxes of an image share.

    Attributes:
        tokens: (1, C, h, w), the image's embedding with that of "no mask given", channels last in memory.
        positions: (1, C, h, w), alike, the embedding of each token's place.
    """

    tokens: Any
    positions: Any


def speed_up(decoder: Any) -> Any:
    """The same decoder, a `MaskDecoder`; its attention layers then compute as above, equal to about 1e-6."""
    transformer = decoder.transformer
    blocks = [
        layer
        for block in transformer.layers
        for layer in (block.self_attn, block.cross_attn_token_to_image, block.cross_attn_image_to_token)
    ]
    for layer in (*blocks, transformer.final_attn_token_to_image):
        layer.forward = partial(_attend, layer)
    return decoder


def _attend(layer: Any, q: Any, k: Any, v: Any) -> Any:
    """An attention layer from tokens (n, t, C) to tokens (n, u, C)."""
    from torch.nn.functional import scaled_dot_product_attention

    projected = layer.q_proj(q), layer.k_proj(k), layer.v_proj(v)
    heads = (part.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for part in projected)
    return layer.out_proj(scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


def scene(model: Any, embedding: Any) -> Scene:
    """An image's embedding (C, h, w) made ready for a `segment_anything` model."""
    import torch

    prompts = model.prompt_encoder
    tokens = embedding[None] + prompts.no_mask_embed.weight[0, :, None, None]
    return Scene(*(part.contiguous(memory_format=torch.channels_last) for part in (tokens, prompts.get_dense_pe())))


def decode(model: Any, seen: Scene, boxes: Any) -> tuple[Any, Any]:
    """Masks of n boxes, XYXY pixels of the model's input: what the first mask of the model's decoder is.

    Returns:
        Logits (n, 4 h, 4 w), and the IoU that the model predicts for them, (n,).
    """
    import torch

    decoder, count = model.mask_decoder, len(boxes)
    corners, _ = model.prompt_encoder(points=None, boxes=boxes, masks=None)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(count, -1, -1)
    image, places = (part.expand(count, -1, -1, -1) for part in (seen.tokens, seen.positions))
    answers, tokens = decoder.transformer(image, places, torch.cat([own, corners], 1))
    pixels = _enlarged(decoder.output_upscaling, tokens)
    logits = pixels @ decoder.output_hypernetworks_mlps[0](answers[:, 1])[:, None, :, None]
    return _in_order(logits[..., 0], *image.shape[2:]), decoder.iou_prediction_head(answers[:, 0])[:, 0]


def _enlarged(layers: Any, tokens: Any) -> Any:
    """Tokens (n, t, C) as the 4 x 4 pixels that each becomes: (n, t, 16, c), 2 x 2 blocks of 2 x 2 pixels."""
    from torch.nn.functional import layer_norm

    first, norm, bend, second, bend_again = layers
    blocks = _transposed(first, tokens)
    blocks = bend(layer_norm(blocks, blocks.shape[-1:], norm.weight, norm.bias, norm.eps))
    return bend_again(_transposed(second, blocks)).flatten(2, 3)


def _transposed(layer: Any, tokens: Any) -> Any:
    """A transposed convolution of kernel and stride 2 on tokens (..., C): (..., 4, c)."""
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1)
    return (tokens @ weight).unflatten(-1, (4, -1)) + layer.bias


def _in_order(logits: Any, height: int, width: int) -> Any:
    """Pixels of tokens, (n, h * w, 16), as images (n, 4 h, 4 w)."""
    parts = logits.unflatten(2, (2, 2, 2, 2)).unflatten(1, (height, width))
    return parts.permute(0, 1, 3, 5, 2, 4, 6).reshape(len(logits), 4 * height, 4 * width)
