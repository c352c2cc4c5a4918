"""What a generator is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from saa_core.types import RGB, Boxes, FloatMap


@dataclass(frozen=True, slots=True, eq=False)
class Proposals:
    """What a generator found in one image, before any threshold.

    Attributes:
        boxes: float32 (n, 4), XYXY pixels of the image.
        scores: float32 (n, P) in [0, 1]: how well each phrase describes each box.
        evidence: float16 (P, h, w) in [0, 1], of the image's field of view: each phrase's dense evidence; a row of
            zeros says nothing. None where the generator has boxes only.
        unknown_words: Words of the phrases that the generator could not use, each once, in the order of the phrases.
    """

    boxes: Boxes
    scores: NDArray[np.float32]
    evidence: NDArray[np.float16] | None = None
    unknown_words: tuple[str, ...] = ()


class RegionGenerator(Protocol):
    """Finds boxes for phrases.

    Attributes:
        name: What the user calls it.
        id: Name, weights and code version: changes whenever the same input may give other proposals.
    """

    @property
    def name(self) -> str:
        """As above."""
        ...

    @property
    def id(self) -> str:
        """As above."""
        ...

    def __call__(self, image: RGB, phrases: Sequence[str], saliency: FloatMap) -> Proposals:
        """Propose boxes.

        Args:
            image: uint8 (H, W, 3), RGB.
            phrases: What to look for, P phrases.
            saliency: float32 (h, w) in [0, 1], of the same field of view; where the image is unlike the set. A
                generator that reads the image alone ignores it.
        """
        ...
