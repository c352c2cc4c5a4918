"""GroundingDINO as a generator (Liu et al., ECCV 2024), with the scores that the method needs of it (Eq. 1).

Pre-processing, captions and thresholds are those of the authors' released program, the numbers groundingdino-py's.
What differs is the order of the work: an image passes its backbone once for all captions, captions pass BERT once for
all images, and captions pass the transformer together where the device gains by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from saa_core.generators import grounding_model
from saa_core.generators.base import Proposals, Request, merge
from saa_core.generators.captions import Caption, Captions
from saa_core.generators.grounding_text import Text, TextEncoder, joined
from saa_core.generators.grounding_transformer import Pyramid, Transformer
from saa_core.generators.swin import stages
from saa_core.runtime import Compute, in_batches, inference, pack_linears, prepare
from saa_core.types import RGB, BoolMask, Boxes, Query

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import BertTokenizerFast

CaptionMode = Literal["separate", "joint"]

BOX_FLOOR = 0.1
"""A box is kept if one of its caption's tokens scores more."""
TEXT_FLOOR = 0.1
"""A token describes a box if it scores more."""
_VERSION = 1
_ENDS = ["[CLS]", "[SEP]", ".", "?"]
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
_CAPTIONS_AT_ONCE = 8
"""In one pass of an accelerator. On a processor more than one gain nothing and cost memory; and so not a bit of a
result depends on what else is asked."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The size that the network sees an image at.

    Attributes:
        shortest: Pixels of the shorter side,
        longest: unless the longer one would have more than this.
    """

    shortest: int = 800
    longest: int = 1333

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that the network sees, at least one pixel each.

        >>> Scale().of(600, 900), Scale().of(100, 1000)
        ((800, 1200), (133, 1330))
        """
        short, long = min(height, width), max(height, width)
        side = self.shortest
        if long / short * side > self.longest:
            side = max(1, round(self.longest * short / long))
        return (int(side * height / width), side) if width < height else (side, int(side * width / height))


@dataclass(frozen=True, slots=True, eq=False)
class _Pass:
    """One caption on one image."""

    image: RGB
    caption: Caption


@dataclass(frozen=True, slots=True, eq=False)
class _Detections:
    """Boxes of one pass that reach `BOX_FLOOR`: XYXY pixels (n, 4), and each token's score, float32 (n, L)."""

    boxes: Boxes
    tokens: NDArray[np.float32]

    @property
    def peaks(self) -> NDArray[np.float32]:
        return np.asarray(self.tokens.max(axis=1, initial=0), np.float32)

    def where(self, kept: BoolMask) -> _Detections:
        return _Detections(self.boxes[kept], self.tokens[kept])


_NOTHING = _Detections(np.zeros((0, 4), np.float32), np.zeros((0, 0), np.float32))


class GroundingDino:
    """The generator. Read-only; threads may share it.

    The id does not name the caption mode, since a part says by its phrases which of them share a caption: a part of one
    mode that the other mode has too gives the same proposals.

    Args:
        network: As `grounding_model.build` makes it, with its weights; taken over.
        tokenizer: Fast, uncased.
        digest: SHA-256 of the weights, hexadecimal.
        size: Short name of the network.
        compute: Where and how it runs.
        captions: `separate`, one caption for each phrase except where the query joins some, as in the released
            program, or `joint`, as few captions as hold all phrases.
        scale: What the network sees.
        at_once: Captions in one pass; None is what the device gains by.
    """

    name = "grounding-dino"
    reads_set = False

    def __init__(
        self,
        network: Module,
        tokenizer: BertTokenizerFast,
        digest: str,
        size: str,
        compute: Compute,
        captions: CaptionMode = "separate",
        scale: Scale = Scale(),
        at_once: int | None = None,
    ) -> None:
        on_processor = compute.device == "cpu"
        if on_processor:
            prepare()
        self._compute, self._scale, self._mode = compute, scale, captions
        self._origin = f"{size}-{digest[:12]}"
        self._at_once = at_once or (1 if on_processor else _CAPTIONS_AT_ONCE)
        self._network: Any = network.to(compute.device)
        self._captions = Captions(tokenizer)
        self._text = TextEncoder(self._network, tokenizer.convert_tokens_to_ids(_ENDS), self._at_once)
        self._transformer = Transformer(self._network)
        if on_processor:
            pack_linears(self._network.backbone)
            pack_linears(self._transformer.linears())

    @classmethod
    def load(cls, spec: str, weights: Path | None, compute: Compute, captions: CaptionMode = "separate") -> Self:
        """A published network, from local files.

        Args:
            spec: `swint` or `swinb`, or one of these, ':' and a file of weights.
            weights: Folder of the checkpoints; None for the caches alone.
            compute: Where and how it runs.
            captions: As above.

        Raises:
            CheckpointError: A file is absent, damaged, or not the published one.
        """
        size, _, own = spec.partition(":")
        return cls.restore(
            grounding_model.ARCHITECTURES[size], weights, compute, captions, own=Path(own) if own else None
        )

    @classmethod
    def restore(
        cls,
        architecture: grounding_model.Architecture,
        weights: Path | None,
        compute: Compute,
        captions: CaptionMode = "separate",
        scale: Scale = Scale(),
        own: Path | None = None,
    ) -> Self:
        """Any network of this kind, with weights from a file of one's own; otherwise as `load`."""
        network, tokenizer, digest = grounding_model.load(architecture, weights, own)
        return cls(network, tokenizer, digest, architecture.size, compute, captions, scale)

    @cached_property
    def id(self) -> str:
        """Name, size and weights, code version, pre-processing, and what of `Compute` changes numbers."""
        scale = f"{self._scale.shortest}x{self._scale.longest}"
        return f"{self.name}-{self._origin}-{_VERSION}-{scale}{self._compute.tag}"

    def parts(self, query: Query) -> tuple[Query, ...]:
        """One part for each caption, and one for the object's name: its boxes are `object_boxes`."""
        shared = query.together() if self._mode == "separate" else (query.phrases,)
        groups = [group for phrases in shared for group in self._captions.groups(phrases)]
        asked = [
            Query(group, (0,) * len(group) if len(group) > 1 else (), background=query.background) for group in groups
        ]
        return (*asked, *([Query((), object=query.object)] if query.object else []))

    def __call__(self, requests: Sequence[Request]) -> list[Proposals]:
        """Boxes of every caption of every request, in the order in which the network chose them."""
        parts = [self.parts(request.query) for request in requests]
        passes = {
            (id(request.image), caption.text): _Pass(request.image, caption)
            for request, each in zip(requests, parts, strict=True)
            for caption in map(self._caption, each)
            if any(caption.spans)
        }
        with inference(self._compute):
            found = dict(zip(passes, self._detections(list(passes.values())), strict=True))

        def proposals(request: Request, part: Query) -> Proposals:
            caption = self._caption(part)
            return self._proposals(part, caption, found.get((id(request.image), caption.text), _NOTHING))

        return [
            merge(request.query, each, [proposals(request, part) for part in each])
            for request, each in zip(requests, parts, strict=True)
        ]

    def _caption(self, part: Query) -> Caption:
        return self._captions.write(part.phrases or (part.object or "",))

    def _proposals(self, part: Query, caption: Caption, found: _Detections) -> Proposals:
        if not part.phrases:
            best_first = np.argsort(-found.peaks, kind="stable")
            return Proposals(_NOTHING.boxes, np.zeros((0, 0), np.float32), object_boxes=found.boxes[best_first])
        background = (part.background or "").strip().lower()
        if background and len(found.boxes):
            found = found.where(~self._captions.saying(background, caption, found.tokens > TEXT_FLOOR))
        scores = [found.tokens[:, list(span)].max(axis=1, initial=0) for span in caption.spans]
        return Proposals(found.boxes, np.stack(scores, axis=1), unknown_words=caption.unknown, peaks=found.peaks)

    def _detections(self, passes: Sequence[_Pass]) -> list[_Detections]:
        texts = self._text([each.caption for each in passes])
        # Padded, an image of another size would change what the backbone's windows see at the border.
        first = {key: rank for rank, key in enumerate(dict.fromkeys(id(each.image) for each in passes))}
        order = sorted(range(len(passes)), key=lambda row: (self._size(passes[row]), first[id(passes[row].image)]))
        found: dict[int, _Detections] = {}
        for _, rows in groupby(order, key=lambda row: self._size(passes[row])):
            same = list(rows)
            found.update(zip(same, self._of_one_size([(passes[row], texts[row]) for row in same]), strict=True))
        return [found[row] for row in range(len(passes))]

    def _size(self, each: _Pass) -> tuple[int, int]:
        return self._scale.of(*each.image.shape[:2])

    def _of_one_size(self, passes: Sequence[tuple[_Pass, Text]]) -> list[_Detections]:
        features: dict[int, Pyramid] = {}

        def run(batch: Sequence[tuple[_Pass, Text]]) -> list[_Detections]:
            images = {id(each.image): each.image for each, _ in batch}
            for done in features.keys() - images.keys():
                del features[done]
            features.update((key, self._pyramid(image)) for key, image in images.items() if key not in features)
            rows = [features[id(each.image)] for each, _ in batch]
            logits, boxes = self._transformer(_side_by_side(rows), joined([text for _, text in batch]))
            each_found = zip(batch, logits, boxes, strict=True)
            return [_kept(single, len(single.caption.tokens), *outputs) for (single, _), *outputs in each_found]

        return in_batches(passes, self._at_once, run)

    def _pyramid(self, image: RGB) -> Pyramid:
        """Features of an image on all levels, as the encoder takes them."""
        import torch

        pixels = self._pixels(image)
        levels = list(stages(self._network.backbone[0], pixels))
        project = self._network.input_proj
        found = [layer(level) for layer, level in zip(project, levels, strict=False)]
        for number in range(len(levels), len(project)):
            found.append(project[number](levels[-1] if number == len(levels) else found[-1]))
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in found], 1).float()
        return Pyramid(tokens, tuple((level.shape[2], level.shape[3]) for level in found))

    def _pixels(self, image: RGB) -> Tensor:
        """(1, 3, H, W), normalised, at the size that the network sees."""
        import torch

        height, width = self._scale.of(*image.shape[:2])
        seen = PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(seen)).to(self._compute.device).permute(2, 0, 1).float() / 255
        mean, deviation = (pixels.new_tensor(each)[:, None, None] for each in (_MEAN, _DEVIATION))
        return ((pixels - mean) / deviation)[None]


def _side_by_side(rows: Sequence[Pyramid]) -> Pyramid:
    """Features of one image after the other; of a single image without a copy."""
    import torch

    first = rows[0]
    if all(row is first for row in rows):
        return Pyramid(first.tokens.expand(len(rows), -1, -1), first.shapes)
    return Pyramid(torch.cat([row.tokens for row in rows]), first.shapes)


def _kept(single: _Pass, length: int, logits: Tensor, boxes: Tensor) -> _Detections:
    """Boxes that reach `BOX_FLOOR`, have an area, and no NaN."""
    scores = logits[:, :length].sigmoid()
    reached = scores.amax(-1) > BOX_FLOOR
    height, width = single.image.shape[:2]
    found = _Detections(_corners(boxes[reached].cpu().numpy(), height, width), scores[reached].cpu().numpy())
    return found.where(np.all(found.boxes[:, :2] < found.boxes[:, 2:], axis=1))


def _corners(shares: NDArray[np.float32], height: int, width: int) -> Boxes:
    """Centres and sides as shares of the image to XYXY pixels, not cut at its border."""
    middle, sides = np.split(shares * np.array([width, height, width, height], np.float32), 2, axis=1)
    low = middle - sides / 2
    return np.concatenate([low, low + sides], axis=1)
