"""GroundingDINO's transformer for many captions at once: image and text tokens in, boxes and token scores out.

The network and its numbers are groundingdino-py's (Liu et al., "Grounding DINO", ECCV 2024); only how they are computed
differs, and only within the rounding of float32:

- Images of a call have one size, so nothing is padded but text, and what depends on the size alone is kept.
- Masks of text attention belong to their caption. groundingdino-py 0.4.0 repeats a (B, L, L) mask B by B over the heads
  where attention expects each caption's heads side by side, so in a batch captions get one another's masks.
- Cross attention between N image tokens and L text tokens never projects the image: with few text tokens it is cheaper
  to bring the text through both projections, q . k = (W v) . k = v . (W' k), and likewise for the values.
- Box heads run for chosen queries only, and heads that only training reads do not run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from saa_core.generators.deformable import DeformableAttention, Places, Shapes
from saa_core.generators.grounding_text import Text

if TYPE_CHECKING:
    from torch import Tensor

_SIDE = 0.05
"""Side of a proposal on the finest level, as a share of the image; doubled from level to level."""
_EDGE = 0.01
"""A proposal whose centre or side is nearer to 0 or 1 is not used."""


@dataclass(frozen=True, slots=True, eq=False)
class Pyramid:
    """Features of B images of one size.

    Attributes:
        tokens: float32 (B, N, C), the pixels of all levels, finest level first.
        shapes: Height and width of each level.
    """

    tokens: Tensor
    shapes: Shapes


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """What the decoder starts from, Q places of each image.

    Attributes:
        tokens: int64 (B, Q), which image tokens were chosen for the caption.
        boxes: float32 (B, Q, 4), first guess: centre and sides as shares of the image, before the sigmoid.
    """

    tokens: Tensor
    boxes: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Geometry:
    """What follows from the levels' shapes alone."""

    positions: Tensor
    places: Places
    proposals: Tensor
    usable: Tensor


class Transformer:
    """Encoder, query selection and decoder of one network. Read-only; threads may share it.

    Args:
        network: groundingdino-py's parts, as `grounding_model.build` puts them together, in evaluation mode.
    """

    def __init__(self, network: Any) -> None:
        self._network, whole = network, network.transformer
        self._encoder, self._decoder = whole.encoder, whole.decoder
        self._looks = [DeformableAttention(layer.self_attn) for layer in whole.encoder.layers]
        self._reads = [DeformableAttention(layer.cross_attn) for layer in whole.decoder.layers]
        self._geometry = lru_cache(maxsize=8)(self._measure)

    def linears(self) -> Any:
        """The linear layers that large inputs pass, as one module."""
        import torch

        own = [each.look for each in (*self._looks, *self._reads)]
        return torch.nn.ModuleList(
            [*own, self._encoder.layers, self._decoder.layers, self._network.transformer.enc_output]
        )

    def encode(self, image: Pyramid, text: Text) -> tuple[Tensor, Tensor]:
        """Image and text after they saw one another: float32 (B, N, C) and (B, L, C).

        Args:
            image: One for each caption; row b belongs to caption b.
            text: B captions.
        """
        geometry, memory, words = self._geometry(image.shapes), image.tokens, text.features
        rows = zip(
            self._encoder.fusion_layers, self._encoder.text_layers, self._encoder.layers, self._looks, strict=True
        )
        for fusion, enhancer, layer, looks in rows:
            memory, words = fuse(fusion, memory, words, text.keep)
            words = enhance(enhancer, words, text)
            found = looks(memory + geometry.positions, memory, geometry.places, image.shapes)
            memory = layer.norm1(memory + found)
            memory = layer.norm2(memory + layer.linear2(layer.linear1(memory).relu_()))
        return memory, words

    def select(self, memory: Tensor, words: Tensor, keep: Tensor, shapes: Shapes) -> Selection:
        """The image tokens that the caption's tokens describe best, at most as many as the network has queries."""
        geometry, whole = self._geometry(shapes), self._network.transformer
        memory = whole.enc_output_norm(whole.enc_output(memory.masked_fill(~geometry.usable[:, None], 0.0)))
        best = token_logits(memory, words, keep).amax(-1)
        tokens = best.topk(min(whole.num_queries, best.shape[1]), dim=1).indices
        chosen = memory.gather(1, tokens[..., None].expand(-1, -1, memory.shape[-1]))
        return Selection(tokens, whole.enc_out_bbox_embed(chosen) + geometry.proposals[tokens])

    def decode(
        self, memory: Tensor, words: Tensor, keep: Tensor, selection: Selection, shapes: Shapes
    ) -> tuple[Tensor, Tensor]:
        """What the queries find.

        Returns:
            Logits of each text token, float32 (B, Q, L), -inf for padding; boxes, float32 (B, Q, 4), centre and sides
            as shares of the image, in [0, 1].
        """
        from groundingdino.models.GroundingDINO.utils import gen_sineembed_for_position
        from groundingdino.util.misc import inverse_sigmoid

        decoder, boxes = self._decoder, selection.boxes.sigmoid()
        batch, queries = boxes.shape[:2]
        x = self._network.transformer.tgt_embed.weight[:queries].expand(batch, -1, -1)
        for number, (layer, reads) in enumerate(zip(decoder.layers, self._reads, strict=True)):
            if number:
                boxes = (decoder.bbox_embed[number - 1](x) + inverse_sigmoid(boxes)).sigmoid()
            position = decoder.ref_point_head(gen_sineembed_for_position(boxes))
            x = layer.norm2(x + attend(layer.self_attn, x + position, x + position, x))
            x = layer.catext_norm(x + attend(layer.ca_text, x + position, words, words, keep[:, None, None]))
            x = layer.norm1(x + reads(x + position, memory, _places_of(boxes, reads, shapes), shapes))
            x = layer.norm3(x + layer.linear2(layer.linear1(x).relu_()))
        x = decoder.norm(x)
        boxes = (decoder.bbox_embed[-1](x) + inverse_sigmoid(boxes)).sigmoid()
        return token_logits(x, words, keep).float(), boxes.float()

    def __call__(self, image: Pyramid, text: Text) -> tuple[Tensor, Tensor]:
        """Logits and boxes of B captions on their images, as `decode`."""
        memory, words = self.encode(image, text)
        selection = self.select(memory, words, text.keep, image.shapes)
        return self.decode(memory, words, text.keep, selection, image.shapes)

    def _measure(self, shapes: Shapes) -> _Geometry:
        import torch

        level = self._network.transformer.level_embed
        centres = [_centres(rows, columns) for rows, columns in shapes]
        sides = [torch.full_like(each, _SIDE * 2**number) for number, each in enumerate(centres)]
        proposals = torch.cat([torch.cat(centres), torch.cat(sides)], -1)
        usable = ((proposals > _EDGE) & (proposals < 1 - _EDGE)).all(-1)
        proposals = proposals.logit().masked_fill(~usable[:, None], torch.inf)
        look = self._looks[0]
        anchors = _in_pixels(torch.cat(centres)[None], shapes, look) - 0.5
        positions = torch.cat([self._position(*shape) + level[number] for number, shape in enumerate(shapes)], 1)
        on = level.device
        return _Geometry(positions, Places(anchors.to(on)), proposals.to(on), usable.to(on))

    def _position(self, rows: int, columns: int) -> Tensor:
        """Position embeddings of a level, (1, rows * columns, C)."""
        import torch
        from groundingdino.util.misc import NestedTensor

        nothing = torch.zeros(1, rows, columns, device=self._network.transformer.level_embed.device)
        return self._network.backbone[1](NestedTensor(nothing, nothing.bool())).flatten(2).transpose(1, 2)


def _centres(rows: int, columns: int) -> Tensor:
    """(rows * columns, 2), x and y of each pixel's middle as shares of the image."""
    import torch

    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    return torch.stack([x.reshape(-1) / columns, y.reshape(-1) / rows], -1)


def _in_pixels(shares: Tensor, shapes: Shapes, attention: DeformableAttention) -> Tensor:
    """(B, n, 2) shares of the image as pixels of each level, (B, n, 2, K) as in `Places`."""
    sides = shares.new_tensor([(columns, rows) for rows, columns in shapes])
    pixels = (shares[..., None] * sides.T)[:, :, :, None, :, None]
    return pixels.expand(-1, -1, -1, attention.heads, -1, attention.points).flatten(3)


def _places_of(boxes: Tensor, attention: DeformableAttention, shapes: Shapes) -> Places:
    """Looks from the middle of each box; so many units of offset as there are points reach its border."""
    anchors = _in_pixels(boxes[..., :2], shapes, attention) - 0.5
    return Places(anchors, _in_pixels(boxes[..., 2:], shapes, attention) * (0.5 / attention.points))


def fuse(block: Any, image: Tensor, words: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Image and text attend to one another (the feature enhancer's bi-directional attention, ECCV paper Sec. 3.1).

    Args:
        block: groundingdino-py's BiAttentionBlock.
        image: float32 (B, N, C).
        words: float32 (B, L, C).
        keep: bool (B, L), tokens that are no padding.

    Returns:
        Both, of the same shapes.
    """
    import torch

    it, length = block.attn, words.shape[1]
    heads = (it.num_heads, it.head_dim)
    image, words = block.layer_norm_v(image), block.layer_norm_l(words)
    keys = (it.l_proj(words) * it.scale).unflatten(-1, heads)
    looks = torch.einsum("blhd,hdc->bhlc", keys, it.v_proj.weight.unflatten(0, heads)).flatten(1, 2)
    level = torch.einsum("blhd,hd->bhl", keys, it.v_proj.bias.unflatten(0, heads)).flatten(1, 2)
    scores = torch.baddbmm(level[..., None], looks, image.transpose(1, 2)).unflatten(1, (-1, length))

    # Over a head's words its weights sum to 1, so that each head brings its share of the bias along.
    of_words = scores.masked_fill(~keep[:, None, :, None], -torch.inf).softmax(2).flatten(1, 2)
    values = it.values_l_proj(words).unflatten(-1, heads)
    gives = torch.einsum("blhd,chd->bhlc", values, it.out_v_proj.weight.unflatten(1, heads)).flatten(1, 2)
    gives = (gives + it.out_v_proj.bias / it.num_heads) * block.gamma_v
    changed = image + of_words.transpose(1, 2) @ gives

    of_image = (scores.softmax(-1).flatten(1, 2) @ image).unflatten(1, (-1, length))
    read = torch.einsum("bhlc,hdc->blhd", of_image, it.values_v_proj.weight.unflatten(0, heads))
    read = read + it.values_v_proj.bias.unflatten(0, heads)
    return changed, words + block.gamma_l * it.out_l_proj(read.flatten(2))


def enhance(layer: Any, words: Tensor, text: Text) -> Tensor:
    """Tokens of one sentence look at one another; (B, L, C) in and out."""
    placed = words + text.positions
    words = layer.norm1(words + attend(layer.self_attn, placed, placed, words, text.together[:, None]))
    return layer.norm2(words + layer.linear2(layer.linear1(words).relu_()))


def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, keep: Tensor | None = None) -> Tensor:
    """Multi-head attention, batch first.

    Args:
        module: torch's MultiheadAttention.
        query: float (B, Q, C).
        key: float (B, K, C).
        value: float (B, K, C).
        keep: bool, of a shape that expands to (B, heads, Q, K): where attention is allowed; None is everywhere.
    """
    from torch.nn.functional import linear, scaled_dot_product_attention

    weights, biases = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
    each = zip((query, key, value), weights, biases, strict=True)
    heads = (linear(x, *own).unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for x, *own in each)
    queries, keys, values = heads
    mixed = scaled_dot_product_attention(queries, keys, values, attn_mask=keep)
    return module.out_proj(mixed.transpose(1, 2).flatten(2))


def token_logits(x: Tensor, words: Tensor, keep: Tensor) -> Tensor:
    """How well each text token describes each vector, (B, n, L); -inf for padding."""
    import torch

    return (x @ words.transpose(1, 2)).masked_fill(~keep[:, None], -torch.inf)
