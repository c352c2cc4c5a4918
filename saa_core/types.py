"""The few values that travel through the method, as frozen dataclasses.

Boxes are XYXY in pixels of the image after EXIF orientation, maximum exclusive. Maps are float32 (h, w); a map may be
coarser than its image, both then cover the same field of view. Phrases are in the order of `PromptBundle.phrases`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from saa_core.masks import Rle

FloatMap = NDArray[np.float32]
BoolMask = NDArray[np.bool_]
Boxes = NDArray[np.float32]
RGB = NDArray[np.uint8]
"""uint8 (H, W, 3), red first, in [0, 255]."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image file by content.

    Attributes:
        key: SHA-256 of the file's bytes, hexadecimal. Two names with the same bytes are one image.
        uri: Where the bytes can be read: a path or an fsspec URL.
        names: Every name the image has in its set, relative to the set's root, sorted.
        lot: Production lot, the unit by which evidence is split later; None when unknown.
    """

    key: str
    uri: str
    names: tuple[str, ...]
    lot: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """What the models are asked to find in an image.

    Attributes:
        phrases: P phrases, each once.
        captions: For each phrase the number of the caption that it shares with others; None is one of its own. Empty
            where every phrase has its own.
        object: Name of the inspected object.
        background: Words that mean the product itself: a box that says them is no defect.
        objects: How many objects an image shows.
    """

    phrases: tuple[str, ...]
    captions: tuple[int | None, ...] = ()
    object: str | None = None
    background: str | None = None
    objects: int = 1

    def together(self) -> tuple[tuple[str, ...], ...]:
        """The phrases by caption, in the order of their first phrases."""
        groups: dict[object, list[str]] = {}
        for row, phrase in enumerate(self.phrases):
            number = self.captions[row] if self.captions else None
            groups.setdefault(("own", row) if number is None else number, []).append(phrase)
        return tuple(tuple(group) for group in groups.values())


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Every region the models proposed for one image, before any class threshold (Eq. 1-2).

    Attributes:
        image: Key of the image.
        height: Image height in pixels.
        width: Image width in pixels.
        phrases: The P phrases that were asked for.
        boxes: float32 (n, 4), XYXY pixels; a detector's may reach beyond the image.
        scores: float32 (n, P) in [0, 1]: how well each phrase describes each box.
        masks: n run-length masks of the image's size; an empty one where `pending`.
        quality: float32 (n,) in [0, 1]: how sure the refiner is of the border.
        objects: Masks of the inspected objects; empty when none was found, then the whole image is the object.
        object_boxes: float32 (m, 4), XYXY pixels, the boxes found for the object's name.
        evidence: float16 (P, h, w) in [0, 1]: the dense evidence of each phrase, where the generator has one.
        unknown_words: Words of the phrases that the generator could not use.
        peaks: float32 (n,) in [0, 1]: how well each box's whole caption describes it, as the released program scores
            boxes; None where the generator knows no captions.
        pending: bool (n,): boxes that no mask was made of, since they cannot be among the K best of the bundle that the
            candidates were made for; None where every box has its mask.
    """

    image: str
    height: int
    width: int
    phrases: tuple[str, ...]
    boxes: Boxes
    scores: NDArray[np.float32]
    masks: tuple[Rle, ...]
    quality: NDArray[np.float32]
    objects: tuple[Rle, ...] = ()
    object_boxes: Boxes = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    evidence: NDArray[np.float16] | None = None
    unknown_words: tuple[str, ...] = ()
    peaks: NDArray[np.float32] | None = None
    pending: BoolMask | None = None

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        n, p = len(self.masks), len(self.phrases)
        each = [self.quality, *(part for part in (self.peaks, self.pending) if part is not None)]
        if self.boxes.shape != (n, 4) or self.scores.shape != (n, p) or any(part.shape != (n,) for part in each):
            raise ValueError(
                f"candidates of {self.image}: {n} masks and {p} phrases do not fit boxes {self.boxes.shape}, "
                f"scores {self.scores.shape}, quality {self.quality.shape}"
            )

    def __len__(self) -> int:
        """Number of candidate regions."""
        return len(self.masks)


@dataclass(frozen=True, slots=True, eq=False)
class SetLevels:
    """What the decision on an image takes from the set it belongs to.

    Attributes:
        calm: float32 (P,), the evidence of each of the candidates' phrases that calm images of the set show.
        floor: Regions of less confidence are not shown, in [0, 1].
    """

    calm: NDArray[np.float32]
    floor: float


@dataclass(frozen=True, slots=True)
class Region:
    """A region that survived the decision.

    Attributes:
        mask: Run-length mask of the image's size.
        box: XYXY pixels of the mask, maximum exclusive.
        label: The phrase that describes it best.
        score: S_S of Eq. 7; exceeds 1 where saliency multiplies it up.
        confidence: The same order in [0, 1]; what leaves the program.
        phrase_scores: Score of each phrase of the bundle, by phrase.
        saliency: Saliency of the region, as the bundle measures it (the mean of Eq. 6).
        area: Pixels.
        candidate: Its row in the candidates.
    """

    mask: Rle
    box: tuple[float, float, float, float]
    label: str
    score: float
    confidence: float
    phrase_scores: dict[str, float] = field(hash=False)
    saliency: float
    area: int
    candidate: int


@dataclass(frozen=True, slots=True, eq=False)
class AnomalyResult:
    """What the method says of one image under one bundle.

    Attributes:
        image: Key of the image.
        bundle: Id of the bundle that decided.
        map: float32 (h, w), the anomaly map A: Eq. 9, exactly, or the dense map of the `batch` profile.
        bounded: Whether the map is within [0, 1]; Eq. 9 of scores after Eq. 7 need not be.
        score: Image score in [0, 1]: how anomalous the image is as a whole.
        regions: Best first, at most K.
        removed: For every candidate that did not survive, the rule that removed it.
    """

    image: str
    bundle: str
    map: FloatMap
    bounded: bool
    score: float
    regions: tuple[Region, ...]
    removed: dict[int, str]

    def heat(self) -> FloatMap:
        """The map in [0, 1] and in the same order, for files and pictures: A / (1 + A) where it is not bounded."""
        return self.map if self.bounded else self.map / (1 + self.map)
