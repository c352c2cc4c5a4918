"""The method as two steps: `propose` calls the models, `decide` is arithmetic on what they proposed.

    propose(image, query)         -> Candidates       Eq. 1-2, and Eq. 5 for the saliency map beside it
    decide(candidates, saliency)  -> AnomalyResult    Eq. 4 and 6-9; no model, microseconds to milliseconds

A bundle that changes only numbers needs `decide` alone. Nothing of one image reaches the next, except through the
`BatchContext` that the caller made of the whole set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from saa_core import confidence, masks, saliency
from saa_core.batch import BatchContext, dense_map, image_score
from saa_core.features.base import FeatureExtractor
from saa_core.generators.base import Proposals, RegionGenerator, Request, merge
from saa_core.language import fuse
from saa_core.lazy import complete
from saa_core.masks import Rle
from saa_core.prompts import PromptBundle, SaliencyPrompt
from saa_core.properties import may_be_objects
from saa_core.refiners.base import Refined, RegionRefiner
from saa_core.rules import Judgement, columns, judge, reason
from saa_core.types import RGB, AnomalyResult, Boxes, Candidates, FloatMap, Query, Region, SetLevels
from saa_core.views import reduce_grid

_MOST_CELLS = 2**16
"""Cells that are compared with one another at most, as many as the released program's finest grid has: the work grows
with their square. The finer grid of a tiled image is reduced."""


@dataclass(slots=True)
class SegmentAnyAnomaly:
    """The three models behind the method, and a count of their calls. The models may be shared; the count is not.

    Attributes:
        generator: Finds boxes for phrases (Eq. 1).
        refiner: Turns boxes into masks (Eq. 2).
        extractor: Gives the features of Eq. 5.
        images_at_once: So many images are worth one call of the generator.
        calls: Model calls so far.
    """

    generator: RegionGenerator
    refiner: RegionRefiner
    extractor: FeatureExtractor
    images_at_once: int = 1
    calls: int = field(default=0, init=False)

    @property
    def models(self) -> dict[str, str]:
        """Name of the model in each role, as every output states it."""
        return {"generator": self.generator.name, "refiner": self.refiner.name, "features": self.extractor.name}

    @property
    def ids(self) -> dict[str, str]:
        """Id of the model in each role: weights, pre-processing and code version."""
        return {"generator": self.generator.id, "refiner": self.refiner.id, "features": self.extractor.id}

    @property
    def id(self) -> str:
        """The three ids as one."""
        return "+".join(self.ids.values())

    @property
    def reads_set(self) -> bool:
        """Whether candidates depend on the other images of the set."""
        return self.generator.reads_set or self.refiner.reads_set

    def at(self, bundle: PromptBundle) -> SegmentAnyAnomaly:
        """The method with features as a bundle wants them, with a call count of its own."""
        extractor = self.extractor.at(bundle.saliency, bundle.property.objects)
        return SegmentAnyAnomaly(self.generator, self.refiner, extractor, self.images_at_once)

    def features(self, image: RGB) -> FloatMap:
        """Features of an image, float32 (h, w, C)."""
        self.calls += 1
        return self.extractor(image)

    def ask(self, requests: Sequence[Request]) -> list[Proposals]:
        """Eq. 1: boxes for each request, with scores; one call of the generator for each image."""
        self.calls += len({id(request.image) for request in requests})
        return self.generator(requests)

    def embed(self, image: RGB) -> FloatMap | None:
        """What the refiner works out once for an image."""
        embedding = self.refiner.embed(image)
        self.calls += embedding is not None
        return embedding

    def refine(self, image: RGB, boxes: Boxes, prior: FloatMap, embedding: FloatMap | None = None) -> Refined:
        """Eq. 2: masks of boxes."""
        self.calls += bool(len(boxes))
        return self.refiner(image, boxes, prior, embedding)

    def propose(self, key: str, image: RGB, query: Query, prior: FloatMap) -> Candidates:
        """Eq. 1-2: every region that the models see, before any class threshold, and the inspected objects.

        Args:
            key: The image's key.
            image: uint8 (H, W, 3), RGB.
            query: What to look for.
            prior: float32 (h, w) in [0, 1], the set's saliency map; a generator that reads the image alone ignores it.
        """
        parts = self.generator.parts(query)
        found = merge(query, parts, self.ask([Request(image, part, prior) for part in parts]))
        undrawn = without_masks(key, (image.shape[0], image.shape[1]), query.phrases, found)
        embedding = self.embed(image) if len(found.boxes) + len(found.object_boxes) else None

        def refine(boxes: Boxes) -> Refined:
            return self.refine(image, boxes, prior, embedding)

        return complete(with_objects(undrawn, refine, query.objects), refine)


def without_masks(key: str, size: tuple[int, int], phrases: Sequence[str], found: Proposals) -> Candidates:
    """Candidates before Eq. 2: every box is pending.

    Args:
        key: The image's key.
        size: (H, W) of the image.
        phrases: The P phrases that were asked for.
        found: What the generator found.
    """
    count, nothing = len(found.boxes), masks.empty(*size)
    return Candidates(
        image=key,
        height=size[0],
        width=size[1],
        phrases=tuple(phrases),
        boxes=found.boxes,
        scores=found.scores,
        masks=(nothing,) * count,
        quality=np.zeros(count, np.float32),
        object_boxes=found.object_boxes,
        evidence=found.evidence,
        unknown_words=found.unknown_words,
        peaks=found.peaks,
        pending=np.ones(count, np.bool_),
    )


def with_objects(candidates: Candidates, refine: Callable[[Boxes], Refined], objects: int) -> Candidates:
    """The candidates with masks of the objects that were found by name.

    Args:
        candidates: With the boxes that the object's name got.
        refine: Gives masks of boxes (Eq. 2).
        objects: How many objects an image shows; a box too large for one of them is none, nor is one without pixels.
    """
    boxes = candidates.object_boxes
    plausible = may_be_objects(boxes, candidates.height * candidates.width, objects)
    if not plausible.any():
        return candidates
    found = refine(boxes[plausible]).masks
    return replace(candidates, objects=tuple(mask for mask in found if mask.area))


def needs_objects(bundle: PromptBundle) -> bool:
    """Whether a decision looks at masks of the inspected objects, and not only at their boxes."""
    return bundle.property.measure == "mask" or bundle.property.location > 0 or bundle.saliency.source == "object"


def prior_map(key: str, image: RGB, features: FloatMap, context: BatchContext) -> FloatMap:
    """The set's saliency map of one image, float32 (h, w) in [0, 1]: mutual scores of `batch`, fitted to the image."""
    return dense_map(context.saliency(key, features), image)


def saliency_map(features: FloatMap, prompt: SaliencyPrompt, objects: Sequence[Rle] = ()) -> FloatMap:
    """Eq. 5 with the image or its objects as context; the source `batch` is `prior_map`.

    Args:
        features: float32 (h, w, C) of the image.
        prompt: Source and neighbours.
        objects: Masks of the inspected objects, for the source `object`.

    Returns:
        float32 (h, w).

    Raises:
        ValueError: The source is `batch`.
    """
    match prompt.source:
        case "batch":
            raise ValueError("the set is the context: see prior_map")
        case "object":
            features = reduce_grid(features, _MOST_CELLS)
            height, width = features.shape[:2]
            grids = [masks.decode(masks.resize(mask, height, width)) for mask in objects]
            return saliency.object_context(features, grids)
        case source:
            return saliency.image_context(
                reduce_grid(features, _MOST_CELLS), prompt.neighbours, farthest=source == "image-farthest"
            )


def decide(
    candidates: Candidates,
    context: FloatMap,
    bundle: PromptBundle,
    levels: SetLevels | None = None,
) -> AnomalyResult:
    """Eq. 4 and 6-9: which candidates are defects, and the anomaly map.

    Args:
        candidates: What `propose` gave, for at least the bundle's phrases.
        context: The saliency map s of Eq. 5, float32 (h, w).
        bundle: The prompts.
        levels: What the image's set says; None takes the image's own evidence and the bundle's region floor.

    Returns:
        Map and regions. No candidate, no object, a constant map: all have a result, an empty one.

    Raises:
        ValueError: The bundle has a phrase that the candidates were not proposed for.
    """
    floor = floor_of(bundle, levels)
    judged = judge(candidates, context, bundle, floor)
    regions = tuple(_region(candidates, judged, place, bundle) for place in judged.chosen)
    removed = {row: reason(judged, row, bundle, floor) for row in sorted(judged.removed)}
    area, bounded = _map(candidates, context, regions, bundle, levels)
    result = AnomalyResult(candidates.image, bundle.id, area, bounded, 0.0, regions, removed)
    return replace(result, score=image_score(result.heat()))


def best_confidence(candidates: Candidates, context: FloatMap, bundle: PromptBundle) -> float:
    """Confidence in [0, 1] of the best region that `decide` finds with no region floor, 0 without one; no map is made.

    Args and errors as in `decide`.
    """
    judged = judge(candidates, context, bundle, 0.0)
    return float(judged.confidences[judged.chosen[0]]) if judged.chosen.size else 0.0


def floor_of(bundle: PromptBundle, levels: SetLevels | None) -> float:
    """The region floor that counts: the set's, or the bundle's own without one."""
    return bundle.decision.region_floor if levels is None else levels.floor


def _region(candidates: Candidates, judged: Judgement, place: np.intp, bundle: PromptBundle) -> Region:
    row = int(judged.rows[place])
    mask, language = candidates.masks[row], judged.language[row]
    x0, y0, x1, y1 = mask.box
    return Region(
        mask=mask,
        box=(float(x0), float(y0), float(x1), float(y1)),
        label=bundle.texts[int(language.argmax())],
        score=float(judged.scores[place]),
        confidence=float(judged.confidences[place]),
        phrase_scores=dict(zip(bundle.texts, language.tolist(), strict=True)),
        saliency=float(judged.saliency[place]),
        area=mask.area,
        candidate=row,
    )


def _map(
    candidates: Candidates,
    context: FloatMap,
    regions: Sequence[Region],
    bundle: PromptBundle,
    levels: SetLevels | None,
) -> tuple[FloatMap, bool]:
    """Eq. 9 or the dense map, and whether it is bounded by 1."""
    form = bundle.confidence.map
    if form == "dense":
        context = np.minimum(context, np.float32(1))  # Eq. 5 as printed reaches 2
        if candidates.evidence is None:
            return context, True
        weights = np.array([phrase.weight for phrase in bundle.phrases], np.float32)
        chosen = columns(candidates, bundle)
        calm = None if levels is None else levels.calm[chosen]
        return fuse(context, candidates.evidence[chosen], weights, calm), True
    scores = np.array([region.score for region in regions])
    size = candidates.height, candidates.width
    return confidence.anomaly_map([region.mask for region in regions], scores, size, form), False
