"""The Swin backbone (Liu et al., ICCV 2021) of groundingdino-py's modules, without state.

groundingdino-py keeps each block's image size in the block, so two threads with images of different sizes disturb one
another; here the size travels with the image. Attention within a window is fused.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_APART = -100.0
"""Added to attention between tokens that only the shift brought together, as in the trained network."""


def stages(swin: Any, pixels: Tensor) -> list[Tensor]:
    """Features of the stages that the network gives out.

    Args:
        swin: groundingdino-py's SwinTransformer, in evaluation mode.
        pixels: float (B, 3, H, W), normalised.

    Returns:
        For each stage float (B, C, h, w), finest first.
    """
    x, found = swin.patch_embed(pixels).permute(0, 2, 3, 1), []
    for number, stage in enumerate(swin.layers):
        for block in stage.blocks:
            x = _block(block, x)
        if number in swin.out_indices:
            found.append(getattr(swin, f"norm{number}")(x).permute(0, 3, 1, 2).contiguous())
        if stage.downsample is not None:
            x = _halved(stage.downsample, x)
    return found


def _halved(merging: Any, x: Tensor) -> Tensor:
    batch, height, width, _ = x.shape
    merged = merging(x.flatten(1, 2), height, width)
    return merged.view(batch, (height + 1) // 2, (width + 1) // 2, -1)


def _block(block: Any, x: Tensor) -> Tensor:
    """One block, of (B, H, W, C): attention in windows of the padded and shifted image, then the perceptron."""
    from torch.nn.functional import pad

    _, height, width, _ = x.shape
    side, shift = block.window_size, block.shift_size
    y = pad(block.norm1(x), (0, 0, 0, -width % side, 0, -height % side))
    padded = y.shape
    if shift:
        y = y.roll((-shift, -shift), (1, 2))
    y = _joined(_attended(block.attn, _windows(y, side), _apart(padded[1:3], side, shift, y.device)), padded, side)
    if shift:
        y = y.roll((shift, shift), (1, 2))
    x = x + y[:, :height, :width]
    return x + block.mlp(block.norm2(x))


def _windows(x: Tensor, side: int) -> Tensor:
    """(B, H, W, C) as (B, windows, side * side, C)."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // side, side, width // side, side, channels)
    return x.transpose(2, 3).reshape(batch, -1, side * side, channels)


def _joined(windows: Tensor, shape: tuple[int, ...], side: int) -> Tensor:
    """The inverse of `_windows`."""
    batch, height, width, channels = shape
    x = windows.view(batch, height // side, width // side, side, side, channels)
    return x.transpose(2, 3).reshape(shape)


def _attended(attention: Any, windows: Tensor, apart: Tensor | None) -> Tensor:
    from torch.nn.functional import scaled_dot_product_attention

    batch, count, tokens, width = windows.shape
    qkv = attention.qkv(windows).view(batch * count, tokens, 3, attention.num_heads, -1)
    query, key, value = qkv.transpose(1, 3).unbind(2)
    bias = attention.relative_position_bias_table[attention.relative_position_index.view(-1)]
    bias = bias.view(1, tokens, tokens, -1).permute(0, 3, 1, 2)
    if apart is not None:
        bias = (bias + apart).repeat(batch, 1, 1, 1)
    mask = bias.to(qkv.dtype).expand(batch * count, -1, -1, -1)
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=attention.scale)
    return attention.proj(mixed.transpose(1, 2).reshape(batch, count, tokens, width))


@lru_cache(maxsize=64)
def _apart(size: tuple[int, int], side: int, shift: int, device: Any) -> Tensor | None:
    """(windows, 1, side * side, side * side): what keeps tokens apart that are no neighbours; None without a shift."""
    if not shift:
        return None
    rows, columns = (_zone(length, side, shift) for length in size)
    zones = _windows((3 * rows[:, None] + columns)[None, :, :, None], side)[0, :, :, 0]
    return ((zones[:, :, None] != zones[:, None, :]) * _APART).float()[:, None].to(device)


def _zone(length: int, side: int, shift: int) -> Tensor:
    """Which of three stretches each row or column of the shifted image comes from."""
    import torch

    place = torch.arange(length)
    return (place >= length - side).int() + (place >= length - shift).int()
