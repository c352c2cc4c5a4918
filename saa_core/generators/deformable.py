"""Multi-scale deformable attention (Zhu et al., ICLR 2021, Eq. 3): each query looks at a few places of each level.

The same numbers as groundingdino-py's module, to the rounding of float32, in fewer passes over memory: the offsets and
weights of all places come from one matrix product, places are kept in pixels of their level, and on a processor the
weighted mean of the places' four neighbours is a weighted bag of table rows, which is never written out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Shapes = tuple[tuple[int, int], ...]
"""Height and width of each level."""


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where queries look, in the order heads, levels, points (K of them).

    Attributes:
        anchors: float32 (1 or B, n, 2, K), x and y in pixels of the level, 0 in the middle of its first pixel.
        reach: float32 (B, n, 2, K), pixels that one unit of offset means; None is one pixel.
    """

    anchors: Tensor
    reach: Tensor | None = None


class DeformableAttention:
    """One layer.

    Args:
        module: groundingdino-py's, with its weights.
    """

    def __init__(self, module: Any) -> None:
        self.heads, self.points = module.num_heads, module.num_points
        self.value, self.output = module.value_proj, module.output_proj
        self.look = _joined(module)

    def __call__(self, query: Tensor, memory: Tensor, places: Places, shapes: Shapes) -> Tensor:
        """What each query finds.

        Args:
            query: float (B, n, C).
            memory: float (B, N, C), the pixels of all levels, one level after the other.
            places: Where each query looks before its offsets.
            shapes: Of the levels.

        Returns:
            float (B, n, C).
        """
        batch, count = query.shape[:2]
        looks = self.look(query).float().view(batch, count, 3, -1)
        offsets, weights = looks[:, :, :2], looks[:, :, 2]
        xy = places.anchors + (offsets if places.reach is None else offsets * places.reach)
        weights = weights.unflatten(-1, (self.heads, -1)).softmax(-1)
        by = by_bags if query.device.type == "cpu" else by_grid
        return self.output(by(self.value(memory).float(), xy, weights, shapes))


def _joined(module: Any) -> Any:
    """One layer for x offsets, y offsets and weights, each (heads, levels, points), instead of (x, y) pairs."""
    import torch

    pairs, weights = module.sampling_offsets, module.attention_weights
    order = torch.arange(pairs.out_features).view(-1, 2).T.reshape(-1)
    joined = torch.nn.Linear(pairs.in_features, pairs.out_features + weights.out_features, device=pairs.weight.device)
    with torch.no_grad():
        joined.weight.copy_(torch.cat([pairs.weight[order], weights.weight]))
        joined.bias.copy_(torch.cat([pairs.bias[order], weights.bias]))
    return joined


def by_grid(value: Tensor, xy: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
    """Weighted sums of the values at the places of n queries, zeros beyond the border, as groundingdino-py samples.

    Args:
        value: float32 (B, N, C).
        xy: float32 (B, n, 2, K), x and y in pixels, as in `Places`; NaN where the weight is NaN too.
        weights: float32 (B, n, heads, K / heads).
        shapes: Of the levels.

    Returns:
        float32 (B, n, C).
    """
    from groundingdino.models.GroundingDINO.ms_deform_attn import multi_scale_deformable_attn_pytorch

    heads, levels = weights.shape[2], len(shapes)
    sides = value.new_tensor([(columns, rows) for rows, columns in shapes])[:, None]
    shares = (xy.unflatten(-1, (heads, levels, -1)).movedim(2, -1) + 0.5) / sides
    parts = value.unflatten(-1, (heads, -1))
    return multi_scale_deformable_attn_pytorch(parts, shapes, shares, weights.unflatten(-1, (levels, -1)))


def by_bags(value: Tensor, xy: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
    """The same as `by_grid`, several times as fast on a processor; `xy` is overwritten."""
    import torch

    heads = weights.shape[2]
    bags = _bags(shapes, heads, weights.shape[3] // len(shapes))
    found = [bags.sample(*each) for each in zip(value, xy, weights.flatten(2), strict=True)]
    return found[0][None] if len(found) == 1 else torch.stack(found)


@lru_cache(maxsize=16)
def _bags(shapes: Shapes, heads: int, points: int) -> _Bags:
    return _Bags(shapes, heads, points)


class _Bags:
    """Bilinear sampling of several levels as weighted sums of rows of one table.

    The table holds the levels below one another, all with the stride of the widest one, with a row of zeros above and
    below each and a column of zeros at its end, which is also the start of the next line. So a place beyond the border
    finds zeros, and the four neighbours of any place are at the same four distances.
    """

    def __init__(self, shapes: Shapes, heads: int, points: int) -> None:
        import torch

        self.shapes, self.heads, self.per_bag = shapes, heads, len(shapes) * points
        self.stride = 1 + max(columns for _, columns in shapes)
        self.starts = [sum(rows + 2 for rows, _ in shapes[:level]) for level in range(len(shapes))]
        self.lines = sum(rows + 2 for rows, _ in shapes) + 2
        first = torch.tensor(self.starts)[:, None] * self.stride + self.stride + 1
        origins = first * heads + torch.arange(heads)[:, None, None]
        self.origins = origins.expand(heads, -1, points).reshape(-1).float()
        ends = torch.tensor([(columns, rows) for rows, columns in shapes]).T[:, None, :, None]
        self.ends = ends.expand(2, heads, -1, points).reshape(2, -1).float()
        self.before = torch.full_like(self.ends, -1)
        self.last = (self.lines - 1) * self.stride * heads - heads - 1

    def sample(self, value: Tensor, xy: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums for one image, (n, C), from (N, C), (n, 2, K) and (n, K); `xy` is overwritten."""
        import torch

        rows, parts = self._neighbours(xy, weights)
        below, aside = self.stride * self.heads, self.heads
        table, starts = self._table(value), torch.arange(0, rows.numel(), self.per_bag, dtype=torch.int32)
        bags = (
            torch.embedding_bag(table[distance:], rows.view(-1), starts, mode=0, per_sample_weights=part.view(-1))[0]
            for distance, part in zip((0, below, aside, below + aside), parts, strict=True)
        )
        total = next(bags)
        for bag in bags:
            total += bag
        return total.view(len(xy), -1)

    def _table(self, value: Tensor) -> Tensor:
        """The table's rows, (lines * stride * heads, C / heads)."""
        lines = value.new_zeros(self.lines, self.stride, value.shape[1])
        levels = value.split([rows * columns for rows, columns in self.shapes])
        for start, level, (rows, columns) in zip(self.starts, levels, self.shapes, strict=True):
            lines[start + 1 : start + 1 + rows, 1 : 1 + columns] = level.view(rows, columns, -1)
        return lines.view(-1, value.shape[1] // self.heads)

    def _neighbours(self, xy: Tensor, weights: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Row of each place's upper left neighbour; weights of that one, and of those below, right, and diagonal."""
        import torch

        xy.clamp_(self.before, self.ends)  # beyond the border is the same as on it
        corner = xy.floor()
        (right, down), (x, y) = xy.sub_(corner).unbind(1), corner.unbind(1)
        rows = torch.add(self.origins, y, alpha=self.stride * self.heads).add_(x, alpha=self.heads)
        rows = rows.to(torch.int32).clamp_(0, self.last)  # NaN may become any number
        on_right = weights * right
        on_left = weights - on_right
        below_left, below_right = on_left * down, on_right * down
        return rows, (on_left.sub_(below_left), below_left, on_right.sub_(below_right), below_right)
