"""Small random images with everything that a decision reads, as awkward as they come; all from one seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from saa_core import masks
from saa_core.masks import Rle
from saa_core.prompts import Profile, PromptBundle
from saa_core.refinement.evidence import LEVELS, ImageEvidence, Rows, Truth, gather, rows_of
from saa_core.refinement.judge import EvidenceSet
from saa_core.refinement.knobs import Knobs
from saa_core.types import Candidates, FloatMap

Rng = np.random.Generator
LABELS = ("crack", "hole")
SHARES = np.array([0.0, 0.1, 0.25, 0.5, 0.5, 0.75, 1.0])
"""Values that tie, and meet limits exactly."""


@dataclass(frozen=True)
class Scene:
    """An image: its candidates, its saliency maps, and what an expert says of it."""

    candidates: Candidates
    contexts: tuple[FloatMap, ...]
    truth: Truth

    @property
    def area(self) -> NDArray[np.bool_]:
        """The defective pixels."""
        pixels = np.zeros((self.candidates.height, self.candidates.width), np.bool_)
        for mask in self.truth.masks:
            pixels |= masks.decode(mask)
        return pixels


@dataclass(frozen=True)
class SceneSet:
    """Images of one set, some reviewed, and their calm levels."""

    reviewed: tuple[Scene, ...]
    others: tuple[Scene, ...]
    calm: NDArray[np.float32]
    neighbours: tuple[int, ...]

    def evidence(self, bundle: PromptBundle) -> EvidenceSet:
        """What a refinement keeps of it."""
        images = tuple(gathered(scene, bundle, self.calm) for scene in self.reviewed)
        others: tuple[Rows, ...] = tuple(rows_of(scene.candidates, scene.contexts, bundle) for scene in self.others)
        return EvidenceSet(images, others, self.neighbours)


def gathered(scene: Scene, bundle: PromptBundle, calm: NDArray[np.float32]) -> ImageEvidence:
    """The evidence of one image."""
    name = scene.candidates.image
    return gather(scene.candidates, scene.contexts, bundle, calm, scene.truth, name=name, lot=name, aided=True)


def random_bundle(rng: Rng, profile: str | None = None, objects: int = 1) -> PromptBundle:
    """Any profile, one to four phrases, each number at random."""
    profile = profile or str(rng.choice(["batch", "paper", "reference"]))
    texts = ["anomaly", "defect", "dent", "crack"][: int(rng.integers(1, 5))]
    general = int(rng.integers(0, len(texts) + 1))
    bundle = PromptBundle(
        product="plate",
        profile=cast("Profile", profile),
        property={"objects": objects},  # type: ignore[arg-type]
    )
    bundle = bundle.changed(language={"agnostic": texts[:general], "specific": texts[general:]})
    return random_knobs(rng, bundle, (bundle.saliency.neighbours,)).applied(bundle, bundle.id)


def random_knobs(rng: Rng, bundle: PromptBundle, neighbours: Sequence[int]) -> Knobs:
    """Other numbers for a bundle: half of them where nothing is limited, so that something is shown."""
    phrases = len(bundle.texts)
    dense = bundle.confidence.map == "dense"
    cuts = [*LEVELS, bundle.decision.threshold] if dense else [*SHARES, float(rng.random()), 1e-60]
    return Knobs(
        weights=tuple(float(rng.choice([0, 0.5, 1, 1, 2, 10, rng.random()])) for _ in range(phrases)),
        thresholds=tuple(_either(rng, 0.0, rng.choice(SHARES)) for _ in range(phrases)),
        area_min=_either(rng, 0.0, rng.choice([0.01, 0.1, 0.3 * rng.random()])),
        area_max=_either(rng, math.inf, rng.choice([0.25, 1, 0.01 + 0.9 * rng.random()])),
        location=_either(rng, 0.0, rng.choice(SHARES)),
        neighbours=int(rng.choice(neighbours)),
        gain=float(rng.choice([0, 1, 3, 20 * rng.random()])),
        top_k=_either(rng, math.inf, rng.integers(1, 6)),
        suppression=_either(rng, 1.0, rng.choice([0.1, 0.5, 0.01 + 0.9 * rng.random()])),
        score_floor=_either(rng, 0.0, rng.choice(SHARES)),
        region_floor=_either(rng, 0.0, rng.choice([0.2, 0.5, rng.random()])),
        threshold=float(rng.choice(cuts)),
    )


def _either(rng: Rng, usual: float, other: float) -> float:
    return usual if rng.random() < 0.5 else float(other)


def random_set(
    rng: Rng, bundle: PromptBundle, size: tuple[int, int] | None = None, most: int = 7, views: int = 2
) -> SceneSet:
    """A set of one to four images, of one size if it is given."""
    phrases = bundle.texts
    own = bundle.saliency.neighbours
    neighbours = (own, 4 * own)[:views]
    scenes = [random_scene(rng, str(number), phrases, len(neighbours), size, most) for number in range(4)]
    count = int(rng.integers(1, 5))
    reviewed = int(rng.integers(1, count + 1))
    calm = rng.choice([0, 0.05, 0.2], len(phrases)).astype(np.float32)
    return SceneSet(tuple(scenes[:reviewed]), tuple(scenes[reviewed:count]), calm, neighbours)


def random_scene(
    rng: Rng, name: str, phrases: Sequence[str], views: int, size: tuple[int, int] | None = None, most: int = 7
) -> Scene:
    """An image with up to `most` candidates; its maps are coarser or finer than it."""
    height, width = size or (int(side) for side in rng.integers(1, 14, 2))
    found = random_masks(rng, height, width, int(rng.integers(0, most + 1)))
    candidates = _candidates(rng, name, phrases, found, height, width)
    grid = (height, width) if rng.random() < 0.3 else tuple(int(side) for side in rng.integers(1, 9, 2))
    if not _scales_one_way(grid, (height, width)):
        grid = (1, 1)
    contexts = tuple((2 * rng.random(grid)).astype(np.float32) for _ in range(views))
    drawn = random_masks(rng, height, width, int(rng.integers(0, 4)))
    # As experts do: now and then exactly what was shown, or all but.
    drawn += [found[row] for row in rng.integers(0, len(found), 2)] if found and rng.random() < 0.6 else []
    labels = tuple(str(label) for label in rng.choice(LABELS, len(drawn)))
    return Scene(candidates, contexts, Truth(tuple(drawn), labels))


def _scales_one_way(grid: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether a map is not coarser on one side and finer on the other: no map of an image is."""
    return all(a <= b for a, b in zip(grid, size, strict=True)) or all(a >= b for a, b in zip(grid, size, strict=True))


def _candidates(
    rng: Rng, name: str, phrases: Sequence[str], found: Sequence[Rle], height: int, width: int
) -> Candidates:
    count = len(found)
    scores = rng.choice(SHARES, (count, len(phrases)))
    if rng.random() < 0.5:
        scores = rng.random((count, len(phrases)))
    boxes = np.array([mask.box for mask in found], np.float32).reshape(count, 4)
    objects = random_masks(rng, height, width, int(rng.integers(0, 3)))
    made = Candidates(
        image=name,
        height=height,
        width=width,
        phrases=tuple(phrases),
        boxes=boxes + rng.integers(0, 2, (count, 4)).astype(np.float32),
        scores=scores.astype(np.float32),
        masks=tuple(found),
        quality=np.ones(count, np.float32),
        objects=tuple(objects),
        object_boxes=np.array([mask.box for mask in objects], np.float32).reshape(len(objects), 4),
    )
    return made if rng.random() < 0.3 else replace(made, evidence=_dense_evidence(rng, len(phrases)))


def _dense_evidence(rng: Rng, phrases: int) -> NDArray[np.float16]:
    """Some phrases say nothing, and most places show nothing."""
    size = phrases, *rng.integers(1, 9, 2)
    heard = (rng.random(size) < 0.4) & (rng.random((phrases, 1, 1)) < 0.7)
    return np.where(heard, rng.random(size), 0).astype(np.float16)


def random_masks(rng: Rng, height: int, width: int, count: int) -> list[Rle]:
    """Rectangles, specks, full and empty masks, and copies and parts of earlier ones."""
    found: list[NDArray[np.bool_]] = []
    for _ in range(count):
        made = _mask(rng, int(rng.integers(0, 6)), height, width)
        if found and rng.random() < 0.3:
            earlier = found[int(rng.integers(0, len(found)))]
            made = earlier & made if rng.random() < 0.7 else earlier
        found.append(made)
    return [masks.encode(mask) for mask in found]


def _mask(rng: Rng, kind: int, height: int, width: int) -> NDArray[np.bool_]:
    if kind < 2:
        return np.full((height, width), bool(kind))
    if kind == 2:
        return rng.random((height, width)) < 0.5
    made = np.zeros((height, width), np.bool_)
    rows, columns = np.sort(rng.integers(0, height + 1, 2)), np.sort(rng.integers(0, width + 1, 2))
    made[rows[0] : rows[1], columns[0] : columns[1]] = True
    return made
