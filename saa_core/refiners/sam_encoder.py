"""SAM's image encoder (Kirillov et al., ICCV 2023), computed faster and to the same numbers.

`segment_anything` writes out every attention matrix, adds the position bias to it in two steps and takes its softmax:
four arrays of 0.8 GB in each layer that looks at the whole image. Here the bias alone is written, for a few heads at a
time, and `scaled_dot_product_attention` does the rest in its cache. Layers that look at windows pad the image up to
whole windows; a padded token is 0, so that its query, key and value are the biases of the linear layer: here the layer
runs over the tokens of the image, and they are padded afterwards.
"""

from __future__ import annotations

from functools import partial
from typing import Any

_BIAS = 2**24
"""Most elements of position bias at once: one head of 64 x 64 tokens."""


def speed_up(encoder: Any) -> Any:
    """The same encoder, an `ImageEncoderViT`; its blocks then compute as above, equal to about 1e-5."""
    for block in encoder.blocks:
        block.forward = partial(_block, block)
    return encoder


def _block(block: Any, x: Any) -> Any:
    """A transformer block on tokens (B, H, W, C)."""
    grid = x.shape
    # As rows: OpenVINO takes four dimensions for an image, and puts its channels elsewhere between any two layers.
    x = x.flatten(1, 2)
    x = x + _attend(block.attn, block.norm1(x).view(grid), block.window_size).flatten(1, 2)
    x = x + block.mlp(block.norm2(x))
    return x.view(grid)


def _attend(layer: Any, x: Any, window: int) -> Any:
    """An attention layer on tokens (B, H, W, C), within windows of `window` tokens a side; 0 is the whole grid."""
    batch, height, width, _ = x.shape
    size = (window, window) if window else (height, width)
    qkv = _pad(layer.qkv(x), layer.qkv.bias, size)
    down, across = qkv.shape[1] // size[0], qkv.shape[2] // size[1]
    # One row for each window and head: (3, batch, down, across, heads, *size, channels).
    parts = qkv.view(batch, down, size[0], across, size[1], 3, layer.num_heads, -1).permute(5, 0, 1, 3, 6, 2, 4, 7)
    q, k, v = parts.contiguous().view(3, -1, *size, parts.shape[-1])
    found = _attention(q, k, v, *_tables(layer, size))
    found = found.view(*parts.shape[1:]).permute(0, 1, 4, 2, 5, 3, 6).reshape(*qkv.shape[:3], -1)
    return layer.proj(found[:, :height, :width])


def _pad(qkv: Any, bias: Any, size: tuple[int, int]) -> Any:
    """Tokens (B, H, W, C) with those of zeros beside them, up to whole windows."""
    from torch.nn.functional import pad

    height, width = qkv.shape[1:3]
    down, across = -height % size[0], -width % size[1]
    if not down and not across:
        return qkv
    padded = pad(qkv, (0, 0, 0, across, 0, down))
    if bias is not None:
        padded[:, height:] = bias
        padded[:, :, width:] = bias
    return padded


def _tables(layer: Any, size: tuple[int, int]) -> Any:
    """Position embeddings for each pair of rows (H, H, C) and of columns (W, W, C) of a grid; None without any."""
    from segment_anything.modeling.image_encoder import get_rel_pos

    if not layer.use_rel_pos:
        return None, None
    height, width = size
    return get_rel_pos(height, height, layer.rel_pos_h), get_rel_pos(width, width, layer.rel_pos_w)


def _attention(q: Any, k: Any, v: Any, down: Any, across: Any) -> Any:
    """Attention with decomposed position bias (Li et al., MViTv2, CVPR 2022), a few rows of the batch at a time.

    Args:
        q: (N, H, W, C); `k` and `v` alike.
        k: Keys.
        v: Values.
        down: (H, H, C), embeddings of the rows, or None.
        across: (W, W, C), of the columns.

    Returns:
        (N, H, W, C).
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    tokens = q.shape[1] * q.shape[2]
    step = max(1, _BIAS // tokens**2) if down is not None else len(q)
    found = []
    for group in zip(q.split(step), k.split(step), v.split(step), strict=True):
        bias = None if down is None else _bias(group[0], down, across)[None]
        queries, keys, values = (part[None].flatten(2, 3) for part in group)
        found.append(scaled_dot_product_attention(queries, keys, values, attn_mask=bias)[0])
    return torch.cat(found) if len(found) > 1 else found[0]


def _bias(q: Any, down: Any, across: Any) -> Any:
    """What the positions add to the products of queries (N, H, W, C) with all keys: (N, H * W, H * W)."""
    import torch

    rows = torch.einsum("nhwc,hkc->nhwk", q, down)
    columns = torch.einsum("nhwc,wkc->nhwk", q, across)
    return (rows[..., None] + columns[..., None, :]).flatten(3, 4).flatten(1, 2)
