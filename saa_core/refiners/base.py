"""What a refiner is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from saa_core.masks import Rle
from saa_core.types import RGB, Boxes, FloatMap


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """Masks of n boxes, in the order of the boxes.

    Attributes:
        masks: n run-length masks of the image's size; an empty one where the refiner finds nothing in the box.
        quality: float32 (n,) in [0, 1]: how sure the refiner is of each border.
    """

    masks: tuple[Rle, ...]
    quality: NDArray[np.float32]


class RegionRefiner(Protocol):
    """Finds the border of what a box holds."""

    @property
    def name(self) -> str:
        """What the user calls it."""
        ...

    @property
    def id(self) -> str:
        """Name, weights and code version: changes whenever the same input may give another mask."""
        ...

    @property
    def reads_set(self) -> bool:
        """Whether masks depend on the saliency, and so on the other images of the set."""
        ...

    def embed(self, image: RGB) -> FloatMap | None:
        """What the refiner works out once for an image, float32; None where it has nothing of the kind."""
        ...

    def __call__(self, image: RGB, boxes: Boxes, saliency: FloatMap, embedding: FloatMap | None = None) -> Refined:
        """Refine every box, without regard to the others.

        Args:
            image: uint8 (H, W, 3), RGB.
            boxes: float32 (n, 4), XYXY pixels; parts outside the image are ignored.
            saliency: float32 (h, w), at least 0, of the same field of view; where the image is unlike the set. A
                refiner that reads the image alone ignores it.
            embedding: What `embed` gave for the image; None has it made.
        """
        ...
