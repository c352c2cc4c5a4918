"""The rules of the decision, each once: what they look at, in which order, and which of them removed a candidate.

    score floor     the best phrase, after threshold and weight, reaches the bundle's score floor and is above 0
    property        Eq. 4: the area is within its limits, and enough of it lies on the object
    suppression     Eq. 6-7 give scores; no better region that stays covers more than its share
    region floor    the confidence reaches the floor
    top K           Eq. 8; a box that no mask was made of, since it cannot get there, falls here too

A candidate meets a rule when it passed those before. `decide` and `explain` both ask `judge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from saa_core import confidence, masks, properties, saliency
from saa_core import regions as regions_of_map
from saa_core.maps import resize
from saa_core.masks import Rle
from saa_core.prompts import PromptBundle
from saa_core.types import BoolMask, Candidates, FloatMap

Rule = Literal["score floor", "property", "suppression", "region floor", "top K"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What became of the n candidates of an image under a bundle.

    Attributes:
        language: float64 (n, P) in [0, 1], score of each of the bundle's phrases after threshold and weight.
        areas: float64 (n,), pixels, by mask or by box as the bundle measures.
        object_pixels: Area of the inspected object in pixels.
        inside: float64 (n,) in [0, 1], share of each candidate on the object.
        fits: bool (n, 3), what of Eq. 4 each passes: large enough, small enough, on the object.
        rows: intp (m,), the candidates that passed Eq. 4, rising.
        saliency: float64 (m,), theirs, as the bundle measures it (Eq. 6).
        scores: float64 (m,), theirs after Eq. 7; may exceed 1.
        confidences: float64 (m,), theirs, in [0, 1).
        chosen: Positions in `rows` of those that are shown, best first.
        removed: For each other candidate the rule that removed it.
        rivals: For each suppressed candidate the better one that it doubles.
    """

    language: Floats
    areas: Floats
    object_pixels: float
    inside: Floats
    fits: BoolMask
    rows: NDArray[np.intp]
    saliency: Floats
    scores: Floats
    confidences: Floats
    chosen: NDArray[np.intp]
    removed: dict[int, Rule]
    rivals: dict[int, int]


def judge(candidates: Candidates, context: FloatMap, bundle: PromptBundle, floor: float) -> Judgement:
    """Eq. 4 and 6-8.

    Args:
        candidates: For at least the bundle's phrases.
        context: The saliency map s of Eq. 5, float32 (h, w).
        bundle: The prompts.
        floor: Regions of less confidence are not shown, in [0, 1].

    Raises:
        ValueError: The bundle has a phrase that the candidates were not proposed for.
    """
    language = phrase_scores(candidates, bundle)
    best = language.max(axis=1, initial=0)
    area, object_pixels = measured_areas(candidates, bundle)
    on_object = share_on_object(candidates)
    speaks = (best >= bundle.decision.score_floor) & (best > 0)
    fits = properties.passes(area, on_object, object_pixels, bundle.property)
    drawn = np.ones(len(candidates), np.bool_) if candidates.pending is None else ~candidates.pending
    rows = np.flatnonzero(speaks & drawn & fits.all(axis=1))
    found = [candidates.masks[row] for row in rows]
    salient = region_saliency(found, context, (candidates.height, candidates.width), bundle)
    scores = saliency.rescore(best[rows], saliency.saliency_prompt(salient, bundle.saliency.gain))
    sure = confidence.confidence(scores)
    doubled = confidence.suppressors(found, scores, bundle.confidence.suppression)
    chosen, fallen = _choose(doubled, scores, sure, floor, bundle.confidence.top_k)
    removed: dict[int, Rule] = dict.fromkeys(np.flatnonzero(~speaks).tolist(), "score floor")
    removed |= dict.fromkeys(np.flatnonzero(speaks & drawn & ~fits.all(axis=1)).tolist(), "property")
    removed |= dict.fromkeys(np.flatnonzero(speaks & ~drawn).tolist(), "top K")
    removed |= {int(rows[place]): rule for place, rule in fallen.items()}
    rivals = {int(rows[place]): int(rows[doubled[place]]) for place in np.flatnonzero(doubled >= 0)}
    return Judgement(
        language, area, object_pixels, on_object, fits, rows, salient, scores, sure, chosen, removed, rivals
    )


def _choose(
    doubled: NDArray[np.intp], scores: Floats, sure: Floats, floor: float, top_k: int | None
) -> tuple[NDArray[np.intp], dict[int, Rule]]:
    """Positions of those that are shown, best first, and the rule that removed each other one."""
    unique = doubled < 0
    order = confidence.top_k(np.where(unique, scores, -1.0), None)[: int(unique.sum())]
    passes = sure[order] >= floor
    chosen = order[passes][:top_k]
    fallen: dict[int, Rule] = dict.fromkeys(np.flatnonzero(~unique).tolist(), "suppression")
    fallen |= dict.fromkeys(order[~passes].tolist(), "region floor")
    fallen |= dict.fromkeys(order[passes][len(chosen) :].tolist(), "top K")
    return chosen, fallen


def reason(judgement: Judgement, row: int, bundle: PromptBundle, floor: float) -> str:
    """Why a candidate was removed: the rule with its number and its limit, as results keep it."""
    match judgement.removed[row]:
        case "score floor":
            best = judgement.language[row].max(initial=0)
            return f"score {best:.3f} under the floor {bundle.decision.score_floor:g}"
        case "property":
            return _property_reason(judgement, row, bundle)
        case "suppression":
            return f"shares more than {bundle.confidence.suppression:g} of the smaller one with a better region"
        case "region floor":
            sure = judgement.confidences[np.searchsorted(judgement.rows, row)]
            return f"confidence {sure:.3f} under {floor:g}"
        case "top K" if row not in judgement.rows:
            return "Eq. 8: no mask was made, since its score cannot reach those that are shown"
        case "top K":
            return f"Eq. 8: not among the {bundle.confidence.top_k} best"


def _property_reason(judgement: Judgement, row: int, bundle: PromptBundle) -> str:
    prompt = bundle.property
    share = judgement.areas[row] / judgement.object_pixels
    limits = f"[{prompt.area_min:g}, {'no limit' if prompt.area_max is None else format(prompt.area_max, 'g')})"
    return (
        f"Eq. 4: {share:.4f} of the object's area, allowed {limits}; "
        f"{judgement.inside[row]:.2f} of it on the object, at least {prompt.location:g}"
    )


# --------------------------------------------------------------------------------------------- what the rules look at


def phrase_scores(candidates: Candidates, bundle: PromptBundle) -> Floats:
    """Scores of the bundle's phrases for every candidate, after threshold and weight.

    Returns:
        float64 (n, P) in [0, 1], phrases in the order of `bundle.phrases`.

    Raises:
        ValueError: As in `judge`.
    """
    scores = proposed_scores(candidates, bundle)[:, columns(candidates, bundle)].astype(np.float64)
    weights = np.array([phrase.weight for phrase in bundle.phrases])
    thresholds = np.array([phrase.threshold for phrase in bundle.phrases])
    weighted: Floats = np.minimum(np.where(scores >= thresholds, scores * weights, 0.0), 1.0)
    return weighted


def proposed_scores(candidates: Candidates, bundle: PromptBundle) -> NDArray[np.float32]:
    """Scores of the candidates' own phrases, float32 (n, P), before threshold and weight.

    Where the bundle scores boxes by the best slot of their captions, a box's best phrase has that score.
    """
    if bundle.language.score == "phrase" or candidates.peaks is None or not candidates.scores.size:
        return candidates.scores
    scores = candidates.scores.copy()
    scores[np.arange(len(scores)), scores.argmax(axis=1)] = candidates.peaks
    return scores


def columns(candidates: Candidates, bundle: PromptBundle) -> list[int]:
    """Where the bundle's phrases are among those of the candidates; raises ValueError as `judge`."""
    known = {text: column for column, text in enumerate(candidates.phrases)}
    missing = [text for text in bundle.texts if text not in known]
    if missing:
        raise ValueError(f"candidates of {candidates.image} were not proposed for {missing}")
    return [known[text] for text in bundle.texts]


def measured_areas(candidates: Candidates, bundle: PromptBundle) -> tuple[Floats, float]:
    """Areas of the candidates, float64 (n,), and of the object, in pixels, by mask or by box."""
    image_area = float(candidates.height * candidates.width)
    if bundle.property.measure == "box":
        area = properties.object_area(candidates.object_boxes, image_area, bundle.property.objects)
        return properties.box_area(candidates.boxes), area
    covered = np.array([mask.area for mask in candidates.masks], np.float64)
    return covered, float(max((mask.area for mask in candidates.objects), default=0) or image_area)


def share_on_object(candidates: Candidates) -> Floats:
    """Share of each candidate that lies on an object, float64 (n,); 1 where no object was found."""
    if not candidates.objects or not len(candidates):
        return np.ones(len(candidates))
    return masks.containment(candidates.masks, [masks.union(candidates.objects)])[:, 0]


def region_saliency(found: Sequence[Rle], context: FloatMap, size: tuple[int, int], bundle: PromptBundle) -> Floats:
    """Saliency of regions as the bundle measures it: the mean of Eq. 6, or the contrast with the surroundings.

    Args:
        found: n masks of the image's size.
        context: The saliency map s of Eq. 5, float32 (h, w).
        size: (H, W) of the image.
        bundle: The prompts.

    Returns:
        float64 (n,); each region's own, whatever the others are.
    """
    if bundle.saliency.measure == "contrast":
        return regions_of_map.contrast(found, context)
    return saliency.mean_saliency(found, resize(context, size))
