"""SAM as a refiner (Kirillov et al., ICCV 2023): boxes to masks (Eq. 2), one mask a box.

What `SamPredictor` of segment-anything gives, mask for mask; but a mask leaves as run-lengths before the next one is
brought to full size, so that no stack of them is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from saa_core import masks
from saa_core.checkpoints import CHECKPOINTS, check_keys, load_state, named
from saa_core.masks import Rle
from saa_core.refiners import sam_decoder, sam_encoder
from saa_core.refiners.base import Refined
from saa_core.refiners.sam_decoder import Scene
from saa_core.runtime import Compute, converted, in_batches, inference, pack_linears, prepare
from saa_core.types import RGB, BoolMask, Boxes, FloatMap

_VERSION = 2
_OFFSET = 1.0
"""Half of the band of logits that a stable border does not cross (segment-anything's automatic mask generator)."""
_BOXES_AT_ONCE = 32
"""On an accelerator. On a processor one: more cost more each, and so no bit of a mask depends on its company."""
SIZES = {"vit_b": "sam-vit-b", "vit_l": "sam-vit-l", "vit_h": "sam-vit-h"}
"""Name of the checkpoint of each size."""


class Sam:
    """The refiner. Read-only; threads may share it.

    A mask's quality is the geometric mean of the IoU that SAM predicts for it and of its stability: the IoU of the
    masks at logits of +1 and -1, on the part of SAM's own grid of 256 x 256 that shows the image.

    Args:
        model: segment-anything's network with its weights; taken over.
        digest: SHA-256 of the weights, hexadecimal.
        size: `vit_b`, `vit_l`, `vit_h`.
        compute: Where and how it runs.
    """

    name = "sam"
    reads_set = False

    def __init__(self, model: Any, digest: str, size: str, compute: Compute) -> None:
        prepare()
        self._model, self._compute = model.to(compute.device).eval(), compute
        self._origin = f"{size}-{digest[:12]}"
        self._side = model.image_encoder.img_size
        self._at_once = 1 if compute.device == "cpu" else _BOXES_AT_ONCE
        sam_decoder.speed_up(model.mask_decoder)
        sam_encoder.speed_up(model.image_encoder)
        if compute.runtime == "torch":
            pack_linears(model.image_encoder)

    @classmethod
    def load(cls, spec: str, weights: Path | None, compute: Compute) -> Self:
        """A published network, from a local file.

        Args:
            spec: `vit_b`, `vit_l` or `vit_h`, or one of these, ':' and a file of weights.
            weights: Folder of the checkpoints; None for the caches alone.
            compute: Where and how it runs.

        Raises:
            CheckpointError: The file is absent, damaged, or not the published one where that is meant.
        """
        from segment_anything import sam_model_registry

        size, file, digest = named(spec, lambda name: CHECKPOINTS[SIZES[name]], weights)
        model = sam_model_registry[size]()
        check_keys(str(file), model, load_state(file))
        return cls(model, digest, size, compute)

    @cached_property
    def id(self) -> str:
        """Name, size and weights, code version, and what of `Compute` changes numbers."""
        return f"{self.name}-{self._origin}-{_VERSION}{self._compute.tag}"

    def embed(self, image: RGB) -> FloatMap:
        """What `SamPredictor.set_image` works out: float32 (C, h, w), (256, 64, 64) for the published networks."""
        import torch

        height, width = self._seen(*image.shape[:2])
        small = PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BILINEAR)
        seen = torch.as_tensor(np.array(small), device=self._compute.device)
        with inference(self._compute):
            found = self._encode(self._model.preprocess(seen.permute(2, 0, 1)[None].contiguous()))
            return np.asarray(found[0].float().cpu().numpy(), np.float32)

    @cached_property
    def _encode(self) -> Callable[[Any], Any]:
        import torch

        encoder = self._model.image_encoder
        if self._compute.runtime == "torch":
            return encoder  # type: ignore[no-any-return]
        example = torch.zeros(1, 3, self._side, self._side)
        return converted(encoder, example, f"{self._origin}-{_VERSION}", self._compute)

    def _seen(self, height: int, width: int) -> tuple[int, int]:
        """Height and width at which SAM sees an image, in the corner of a square of `_side`."""
        scale = self._side / max(height, width)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def __call__(self, image: RGB, boxes: Boxes, saliency: FloatMap, embedding: FloatMap | None = None) -> Refined:
        """Refine every box; see `RegionRefiner`. One with NaN, without area or outside the image has an empty mask."""
        height, width = image.shape[:2]
        usable = _usable(boxes, height, width)
        found: list[Rle] = [masks.empty(height, width)] * len(boxes)
        quality = np.zeros(len(boxes), np.float32)
        rows = np.flatnonzero(usable)
        if not rows.size:
            return Refined(tuple(found), quality)
        embedding = self.embed(image) if embedding is None else embedding
        with inference(self._compute):
            scene = self._scene(embedding)
            decoded = in_batches(
                rows.tolist(), self._at_once, lambda batch: self._decode(scene, boxes[list(batch)], (height, width))
            )
        for row, (mask, sure) in zip(rows.tolist(), decoded, strict=True):
            found[row], quality[row] = mask, sure
        return Refined(tuple(found), quality)

    def _scene(self, embedding: FloatMap) -> Scene:
        import torch

        return sam_decoder.scene(self._model, torch.tensor(embedding, device=self._compute.device))

    def _decode(self, scene: Scene, boxes: Boxes, size: tuple[int, int]) -> Sequence[tuple[Rle, float]]:
        import torch

        seen = self._seen(*size)
        scale = [seen[1] / size[1], seen[0] / size[0]] * 2
        wanted = torch.tensor(boxes * np.array(scale, np.float32), device=self._compute.device)
        logits, predicted = (part.float() for part in sam_decoder.decode(self._model, scene, wanted))
        shown = (-(-side * logits.shape[-1] // self._side) for side in seen)
        stable = _stability(logits[(slice(None), *map(slice, shown))])
        sure = (predicted.clamp(0, 1) * stable).sqrt().cpu().numpy()
        drawn = (self._drawn(each[None, None], seen, size) for each in logits)
        return [(mask, float(each)) for mask, each in zip(drawn, sure, strict=True)]

    def _drawn(self, logits: Any, seen: tuple[int, int], size: tuple[int, int]) -> Rle:
        full = self._model.postprocess_masks(logits, seen, size)[0, 0] > self._model.mask_threshold
        return masks.encode(np.asarray(full.cpu().numpy(), np.bool_))


def _usable(boxes: Boxes, height: int, width: int) -> BoolMask:
    """Boxes that have an area inside the image, bool (n,)."""
    x0, y0, x1, y1 = boxes.T
    with np.errstate(invalid="ignore"):
        inside = (np.minimum(x1, width) > np.maximum(x0, 0)) & (np.minimum(y1, height) > np.maximum(y0, 0))
    usable: NDArray[np.bool_] = inside & np.isfinite(boxes).all(axis=1)
    return usable


def _stability(logits: Any) -> Any:
    """Of masks (n, h, w): pixels above +1 over those above -1; 0 where there are none."""
    inner = (logits > _OFFSET).sum((-1, -2))
    outer = (logits > -_OFFSET).sum((-1, -2))
    return inner / outer.clamp(min=1)
