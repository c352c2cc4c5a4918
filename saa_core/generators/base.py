"""What a generator is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from saa_core.types import RGB, Boxes, FloatMap, Query


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One question to a generator.

    Attributes:
        image: uint8 (H, W, 3), RGB. Requests that share an image share the very same array.
        query: What to look for.
        saliency: float32 (h, w) in [0, 1], of the same field of view; where the image is unlike the set. A generator
            that reads the image alone ignores it.
    """

    image: RGB
    query: Query
    saliency: FloatMap


@dataclass(frozen=True, slots=True, eq=False)
class Proposals:
    """What a generator found in one image for one query of P phrases, before any threshold.

    Attributes:
        boxes: float32 (n, 4), XYXY pixels of the image, x0 <= x1 and y0 <= y1; a detector's may reach beyond the image.
        scores: float32 (n, P) in [0, 1]: how well each phrase describes each box.
        evidence: float16 (P, h, w) in [0, 1], of the image's field of view: each phrase's dense evidence; a row of
            zeros says nothing. None where the generator has boxes only.
        unknown_words: Words of the phrases that the generator could not use, each once, in the order of the phrases.
        peaks: float32 (n,) in [0, 1]: how well each box's whole caption describes it; None without captions.
        object_boxes: float32 (m, 4), XYXY pixels, the boxes found for the object's name, best first.
    """

    boxes: Boxes
    scores: NDArray[np.float32]
    evidence: NDArray[np.float16] | None = None
    unknown_words: tuple[str, ...] = ()
    peaks: NDArray[np.float32] | None = None
    object_boxes: Boxes = field(default_factory=lambda: np.zeros((0, 4), np.float32))


class RegionGenerator(Protocol):
    """Finds boxes for phrases."""

    @property
    def name(self) -> str:
        """What the user calls it."""
        ...

    @property
    def id(self) -> str:
        """Name, weights and code version: changes whenever the same input may give other proposals."""
        ...

    @property
    def reads_set(self) -> bool:
        """Whether proposals depend on the saliency, and so on the other images of the set."""
        ...

    def parts(self, query: Query) -> tuple[Query, ...]:
        """The query in parts whose proposals do not depend on one another, so that each can be kept for itself."""
        ...

    def __call__(self, requests: Sequence[Request]) -> list[Proposals]:
        """Propose boxes for each request, in order; no request changes what another one gets."""
        ...


def merge(query: Query, parts: Sequence[Query], found: Sequence[Proposals]) -> Proposals:
    """The proposals of a query from those of its parts: boxes one after the other, 0 for phrases of another part.

    Args:
        query: The whole.
        parts: What the generator made of it.
        found: Proposals of each part.
    """
    if len(parts) == 1 and parts[0].phrases == query.phrases:
        return found[0]
    place = {phrase: column for column, phrase in enumerate(query.phrases)}
    scores = [np.zeros((len(each.boxes), len(query.phrases)), np.float32) for each in found]
    for wide, part, each in zip(scores, parts, found, strict=True):
        wide[:, [place[phrase] for phrase in part.phrases]] = each.scores
    none = np.zeros((0, 4), np.float32)
    peaks = [each.peaks for each in found if each.peaks is not None]
    return Proposals(
        boxes=np.concatenate([none, *(each.boxes for each in found)]),
        scores=np.concatenate([np.zeros((0, len(query.phrases)), np.float32), *scores]),
        unknown_words=tuple(dict.fromkeys(word for each in found for word in each.unknown_words)),
        peaks=np.concatenate(peaks) if peaks else None,
        object_boxes=np.concatenate([none, *(each.object_boxes for each in found)]),
    )
