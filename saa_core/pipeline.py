"""The method as two steps: `propose` calls the models, `decide` is arithmetic on what they proposed.

    propose(image, phrases)       -> Candidates       Eq. 1-2, and Eq. 5 for the saliency map beside it
    decide(candidates, saliency)  -> AnomalyResult    Eq. 4 and 6-9; no model, microseconds to milliseconds

A bundle that changes only numbers needs `decide` alone. Nothing of one image reaches the next, except through the
`BatchContext` that the caller made of the whole set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from saa_core import confidence, masks, properties, saliency
from saa_core import regions as regions_of_map
from saa_core.batch import BatchContext, dense_map, image_score
from saa_core.features.base import FeatureExtractor
from saa_core.generators.base import RegionGenerator
from saa_core.language import fuse
from saa_core.maps import resize
from saa_core.masks import Rle
from saa_core.prompts import ConfidencePrompt, PromptBundle, SaliencyPrompt
from saa_core.refiners.base import RegionRefiner
from saa_core.types import RGB, AnomalyResult, Candidates, FloatMap, Region, SetLevels


@dataclass(slots=True)
class SegmentAnyAnomaly:
    """The three models behind the method, and a count of their calls. The models may be shared; the count is not.

    Attributes:
        generator: Finds boxes for phrases (Eq. 1).
        refiner: Turns boxes into masks (Eq. 2).
        extractor: Gives the features of Eq. 5.
        calls: Model calls so far.
    """

    generator: RegionGenerator
    refiner: RegionRefiner
    extractor: FeatureExtractor
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

    def features(self, image: RGB) -> FloatMap:
        """Features of an image, float32 (h, w, C)."""
        self.calls += 1
        return self.extractor(image)

    def propose(self, key: str, image: RGB, phrases: Sequence[str], prior: FloatMap) -> Candidates:
        """Eq. 1-2: every region that the models see, before any class threshold.

        Args:
            key: The image's key.
            image: uint8 (H, W, 3), RGB.
            phrases: What to look for, P phrases.
            prior: float32 (h, w) in [0, 1], the set's saliency map; a generator that reads the image alone ignores it.
        """
        self.calls += 2
        height, width = image.shape[:2]
        proposals = self.generator(image, phrases, prior)
        refined = self.refiner(image, proposals.boxes, prior)
        return Candidates(
            image=key,
            height=height,
            width=width,
            phrases=tuple(phrases),
            boxes=proposals.boxes,
            scores=proposals.scores,
            masks=refined.masks,
            quality=refined.quality,
            evidence=proposals.evidence,
            unknown_words=proposals.unknown_words,
        )


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
            height, width = features.shape[:2]
            grids = [masks.decode(masks.resize(mask, height, width)) for mask in objects]
            return saliency.object_context(features, grids)
        case source:
            return saliency.image_context(features, prompt.neighbours, farthest=source == "image-farthest")


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
    floor = bundle.decision.region_floor if levels is None else levels.floor
    regions, removed = _regions(candidates, context, bundle, floor)
    area, bounded = _map(candidates, context, regions, bundle, levels)
    result = AnomalyResult(candidates.image, bundle.id, area, bounded, 0.0, regions, removed)
    return replace(result, score=image_score(result.heat()))


def best_confidence(candidates: Candidates, context: FloatMap, bundle: PromptBundle) -> float:
    """Confidence in [0, 1] of the best region that `decide` finds with no region floor, 0 without one; no map is made.

    Args and errors as in `decide`.
    """
    regions, _ = _regions(candidates, context, bundle, 0.0)
    return regions[0].confidence if regions else 0.0


def _regions(
    candidates: Candidates, context: FloatMap, bundle: PromptBundle, floor: float
) -> tuple[tuple[Region, ...], dict[int, str]]:
    """Eq. 4 and 6-8: the regions, best first, and the rule that removed each other candidate."""
    size = candidates.height, candidates.width
    language = phrase_scores(candidates, bundle)
    removed = _filter(candidates, language.max(axis=1, initial=0), bundle)
    rows = np.array([row for row in range(len(candidates)) if row not in removed], np.intp)
    kept = [candidates.masks[row] for row in rows]
    salient = _region_saliency(kept, context, size, bundle)
    prompt = saliency.saliency_prompt(salient, bundle.saliency.gain)
    scores = saliency.rescore(language[rows].max(axis=1, initial=0), prompt)
    chosen = _choose(rows, kept, scores, bundle.confidence, floor, removed)
    regions = tuple(_region(candidates, language, rows[i], scores[i], salient[i], bundle) for i in chosen)
    return regions, removed


def phrase_scores(candidates: Candidates, bundle: PromptBundle) -> NDArray[np.float64]:
    """Scores of the bundle's phrases for every candidate, after threshold and weight.

    Returns:
        float64 (n, P) in [0, 1], phrases in the order of `bundle.phrases`.

    Raises:
        ValueError: As in `decide`.
    """
    scores = candidates.scores[:, _columns(candidates, bundle)].astype(np.float64)
    weights = np.array([phrase.weight for phrase in bundle.phrases])
    thresholds = np.array([phrase.threshold for phrase in bundle.phrases])
    weighted: NDArray[np.float64] = np.minimum(np.where(scores >= thresholds, scores * weights, 0.0), 1.0)
    return weighted


def _region_saliency(
    found: Sequence[Rle], context: FloatMap, size: tuple[int, int], bundle: PromptBundle
) -> NDArray[np.float64]:
    if bundle.saliency.measure == "contrast":
        return regions_of_map.contrast(found, context)
    return saliency.mean_saliency(found, resize(context, size))


def _columns(candidates: Candidates, bundle: PromptBundle) -> list[int]:
    known = {text: column for column, text in enumerate(candidates.phrases)}
    missing = [text for text in bundle.texts if text not in known]
    if missing:
        raise ValueError(f"candidates of {candidates.image} were not proposed for {missing}")
    return [known[text] for text in bundle.texts]


def _filter(candidates: Candidates, best: NDArray[np.float64], bundle: PromptBundle) -> dict[int, str]:
    """Rows that fail the score floor or Eq. 4, with the rule in words."""
    prompt, floor = bundle.property, bundle.decision.score_floor
    areas, object_pixels = _areas(candidates, bundle)
    inside = _inside(candidates)
    passes = properties.keep(areas, inside, object_pixels, prompt)
    removed = {}
    for row in range(len(candidates)):
        if best[row] < floor or best[row] <= 0:
            removed[row] = f"score {best[row]:.3f} under the floor {floor:g}"
        elif not passes[row]:
            share = areas[row] / object_pixels
            limits = f"[{prompt.area_min:g}, {'no limit' if prompt.area_max is None else format(prompt.area_max, 'g')})"
            removed[row] = (
                f"Eq. 4: {share:.4f} of the object's area, allowed {limits}; "
                f"{inside[row]:.2f} of it on the object, at least {prompt.location:g}"
            )
    return removed


def _areas(candidates: Candidates, bundle: PromptBundle) -> tuple[NDArray[np.float64], float]:
    """Areas of the candidates and of the object, in pixels, by mask or by box."""
    image_area = float(candidates.height * candidates.width)
    if bundle.property.measure == "box":
        area = properties.object_area(candidates.object_boxes, image_area, bundle.property.objects)
        return properties.box_area(candidates.boxes), area
    areas = np.array([mask.area for mask in candidates.masks], np.float64)
    return areas, float(max((mask.area for mask in candidates.objects), default=0) or image_area)


def _inside(candidates: Candidates) -> NDArray[np.float64]:
    """Share of each candidate that lies on an object; 1 where no object was found."""
    if not candidates.objects or not len(candidates):
        return np.ones(len(candidates))
    return masks.containment(candidates.masks, [masks.union(candidates.objects)])[:, 0]


def _choose(
    rows: NDArray[np.intp],
    kept: list[Rle],
    scores: NDArray[np.float64],
    prompt: ConfidencePrompt,
    floor: float,
    removed: dict[int, str],
) -> NDArray[np.intp]:
    """Suppression, Eq. 8 and the region floor; what falls is written into `removed`. Returns positions, best first."""
    unique = confidence.suppress(kept, scores, prompt.suppression)
    double = f"shares more than {prompt.suppression:g} of the smaller one with a better region"
    removed.update(dict.fromkeys(rows[~unique].tolist(), double))
    order = confidence.top_k(np.where(unique, scores, -1.0), None)[: int(unique.sum())]
    sure = confidence.confidence(scores)
    removed.update({int(rows[i]): f"confidence {sure[i]:.3f} under {floor:g}" for i in order if sure[i] < floor})
    order = order[sure[order] >= floor]
    chosen = order[: prompt.top_k]
    removed.update({int(rows[i]): f"Eq. 8: not among the {prompt.top_k} best" for i in order[len(chosen) :]})
    return chosen


def _region(
    candidates: Candidates,
    language: NDArray[np.float64],
    row: np.intp,
    score: np.float64,
    salient: np.float64,
    bundle: PromptBundle,
) -> Region:
    mask = candidates.masks[row]
    x0, y0, x1, y1 = mask.box
    return Region(
        mask=mask,
        box=(float(x0), float(y0), float(x1), float(y1)),
        label=bundle.texts[int(language[row].argmax())],
        score=float(score),
        confidence=float(confidence.confidence(np.asarray(score))),
        phrase_scores=dict(zip(bundle.texts, language[row].tolist(), strict=True)),
        saliency=float(salient),
        area=mask.area,
        candidate=int(row),
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
        columns = _columns(candidates, bundle)
        return fuse(
            context, candidates.evidence[columns], weights, None if levels is None else levels.calm[columns]
        ), True
    scores = np.array([region.score for region in regions])
    size = candidates.height, candidates.width
    return confidence.anomaly_map([region.mask for region in regions], scores, size, form), False
