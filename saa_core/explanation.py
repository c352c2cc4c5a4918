"""Why a region is shown or not: every candidate of an image, with each number and the limit it was held against.

The numbers are those of `rules.judge`, which `decide` asks too. Of a candidate that fell early, saliency, score and
confidence are what they would have been; no rule used them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from saa_core import confidence, masks, saliency
from saa_core.batch import image_score
from saa_core.language import peaks
from saa_core.masks import Rle
from saa_core.pipeline import decide, floor_of
from saa_core.prompts import PromptBundle
from saa_core.rules import Floats, Judgement, Rule, columns, judge, proposed_scores, region_saliency
from saa_core.types import AnomalyResult, Candidates, FloatMap, SetLevels

Sign = Literal[">", ">=", "<", "<="]

RULES: tuple[Rule, ...] = ("score floor", "property", "suppression", "region floor", "top K")
"""In the order in which candidates meet them."""


@dataclass(frozen=True, slots=True)
class PhraseScore:
    """What one phrase says of a candidate.

    Attributes:
        text: The phrase.
        raw: As the generator gave it, in [0, 1].
        threshold: Under it the phrase counts as 0.
        weight: Multiplies what is left.
        score: After both, in [0, 1].
    """

    text: str
    raw: float
    threshold: float
    weight: float
    score: float


@dataclass(frozen=True, slots=True)
class Check:
    """One number held against one limit.

    Attributes:
        rule: The rule that it belongs to; Eq. 4 has three checks, each other rule one.
        name: What is measured.
        value: The number; None where the rule compares candidates and this one never got there.
        sign: How the number must stand to the limit.
        limit: None is no limit.
        passed: None as for `value`.
    """

    rule: Rule
    name: str
    value: float | None
    sign: Sign
    limit: float | None
    passed: bool | None


@dataclass(frozen=True, slots=True)
class ExplainedCandidate:
    """One candidate.

    Attributes:
        number: For people, from 1: those shown first, best first, then those that got furthest.
        row: Its row in the candidates.
        mask: Run-length mask of the image's size.
        box: XYXY pixels of the mask, maximum exclusive.
        proposed: XYXY pixels, the generator's box (Eq. 1).
        image_share: Share of the image that it covers, in [0, 1].
        label: The phrase that scores best, the first of equal ones.
        phrases: All phrases of the bundle, in its order.
        saliency: As the bundle measures it (Eq. 6).
        factor: exp(gain * saliency), by which Eq. 7 multiplies the best phrase's score.
        score: After Eq. 7; may exceed 1.
        confidence: The same in [0, 1).
        precision: Share of such regions that experts found right, in [0, 1]; None where the bundle knows no
            calibration.
        needs_review: Whether an expert has to look at it, were it shown.
        rank: From 1 among those shown; None if it is not.
        rival: Number of the better candidate that it doubles, where that removed it.
        removed_by: The rule that removed it; None if it is shown.
        checks: Every number and its limit, in the order of the rules.
    """

    number: int
    row: int
    mask: Rle
    box: tuple[int, int, int, int]
    proposed: tuple[float, float, float, float]
    image_share: float
    label: str
    phrases: tuple[PhraseScore, ...]
    saliency: float
    factor: float
    score: float
    confidence: float
    precision: float | None
    needs_review: bool
    rank: int | None
    rival: int | None
    removed_by: Rule | None
    checks: tuple[Check, ...]

    @property
    def failed(self) -> Check | None:
        """The first check that it did not pass; None if it is shown."""
        return next((check for check in self.checks if check.passed is False), None)


@dataclass(frozen=True, slots=True)
class PhrasePart:
    """A phrase's part in the dense map.

    Attributes:
        text: The phrase.
        weight: Its weight; 0 is silenced.
        peak: The image's strongest evidence of it (99 % quantile over the pixels), in [0, 1].
        calm: What calm images of the set show; evidence counts above it.
    """

    text: str
    weight: float
    peak: float
    calm: float


@dataclass(frozen=True, slots=True)
class ExplainedMap:
    """What the anomaly map is made of.

    Attributes:
        form: `dense`: saliency and the phrases' evidence. `mean`, `shrunk`: Eq. 9 of the regions shown.
        source: Where the saliency comes from.
        score: Score of the image, in [0, 1].
        saliency_score: What saliency alone would give, in [0, 1].
        phrases: Those with a weight and evidence on this image; empty unless the map is dense.
    """

    form: str
    source: str
    score: float
    saliency_score: float
    phrases: tuple[PhrasePart, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """Why an image looks as it does under a bundle.

    Attributes:
        result: What `decide` says.
        bundle: The prompts.
        floor: The region floor that counted: the set's, which is the bundle's or lower.
        candidates: By number.
        map: What the map is made of.
    """

    result: AnomalyResult
    bundle: PromptBundle
    floor: float
    candidates: tuple[ExplainedCandidate, ...]
    map: ExplainedMap


def explain(
    candidates: Candidates, context: FloatMap, bundle: PromptBundle, levels: SetLevels | None = None
) -> Explanation:
    """Explain a decision; arguments and errors as for `decide`."""
    floor, result = floor_of(bundle, levels), decide(candidates, context, bundle, levels)
    judged = judge(candidates, context, bundle, floor)
    numbers = _numbers(candidates, context, bundle, judged)
    rows = [region.candidate for region in result.regions]
    rows += sorted(judged.removed, key=lambda row: (-RULES.index(judged.removed[row]), -numbers.scores[row], row))
    places = {row: number for number, row in enumerate(rows, start=1)}
    explained = tuple(_candidate(row, places, candidates, bundle, judged, numbers, floor) for row in rows)
    return Explanation(result, bundle, floor, explained, _map(candidates, context, bundle, levels, result.score))


# ---------------------------------------------------------------------------------------------------------- candidates


@dataclass(frozen=True, slots=True, eq=False)
class _Numbers:
    """Of all n candidates, float64 (n,): those that fell early included, with what they would have had.

    `overlap` is NaN for these: which better regions stay is known only of those that got there. So is `place`, which
    is the place among those with enough confidence, from 1.
    """

    saliency: Floats
    factor: Floats
    scores: Floats
    confidences: Floats
    overlap: Floats
    place: Floats


def _numbers(candidates: Candidates, context: FloatMap, bundle: PromptBundle, judged: Judgement) -> _Numbers:
    size = candidates.height, candidates.width
    salient = region_saliency(candidates.masks, context, size, bundle)
    salient[judged.rows] = judged.saliency  # the very bits, however a library adds up longer arrays
    factor = saliency.saliency_prompt(salient, bundle.saliency.gain)
    scores = saliency.rescore(judged.language.max(axis=1, initial=0), factor)
    scores[judged.rows] = judged.scores
    overlap, place = np.full((2, len(candidates)), np.nan)
    overlap[judged.rows] = _overlaps([candidates.masks[row] for row in judged.rows], judged)
    ranked = [row for row in judged.rows if judged.removed.get(int(row), "top K") == "top K"]
    place[sorted(ranked, key=lambda row: -scores[row])] = np.arange(1, len(ranked) + 1)
    return _Numbers(salient, factor, scores, confidence.confidence(scores), overlap, place)


def _overlaps(found: list[Rle], judged: Judgement) -> Floats:
    """What each mask shares with the better one that removed it, else the most with a better one that stays."""
    if not found:
        return np.zeros(0)
    shared = masks.containment(found, found)
    shared = np.maximum(shared, shared.T)
    order = confidence.top_k(judged.scores, None)
    place = np.argsort(order)
    counts = (place < place[:, None]) & ~np.isin(judged.rows, list(judged.rivals))
    for position, row in enumerate(judged.rows.tolist()):
        if row in judged.rivals:
            counts[position] = judged.rows == judged.rivals[row]
    most: Floats = np.where(counts, shared, 0.0).max(axis=1)
    return most


def _candidate(
    row: int,
    places: dict[int, int],
    candidates: Candidates,
    bundle: PromptBundle,
    judged: Judgement,
    numbers: _Numbers,
    floor: float,
) -> ExplainedCandidate:
    mask, removed = candidates.masks[row], judged.removed.get(row)
    rival, sure = judged.rivals.get(row), float(numbers.confidences[row])
    x0, y0, x1, y1 = candidates.boxes[row].tolist()
    return ExplainedCandidate(
        number=places[row],
        row=row,
        mask=mask,
        box=mask.box,
        proposed=(x0, y0, x1, y1),
        image_share=mask.area / (mask.height * mask.width),
        label=bundle.texts[int(judged.language[row].argmax())] if bundle.texts else "",
        phrases=_phrases(candidates, bundle, judged.language[row], row),
        saliency=float(numbers.saliency[row]),
        factor=float(numbers.factor[row]),
        score=float(numbers.scores[row]),
        confidence=sure,
        precision=bundle.decision.precision(sure),
        needs_review=bundle.decision.needs_review(sure),
        rank=places[row] if removed is None else None,
        rival=None if rival is None else places[rival],
        removed_by=removed,
        checks=(
            _best_phrase(judged, row, bundle),
            *_property(judged, row, bundle),
            *_among_others(row, removed, numbers, bundle, floor),
        ),
    )


def _phrases(candidates: Candidates, bundle: PromptBundle, scores: Floats, row: int) -> tuple[PhraseScore, ...]:
    raw = proposed_scores(candidates, bundle)[row, columns(candidates, bundle)].tolist()
    rows = zip(bundle.phrases, raw, scores.tolist(), strict=True)
    return tuple(
        PhraseScore(phrase.text, value, phrase.threshold, phrase.weight, score) for phrase, value, score in rows
    )


def _best_phrase(judged: Judgement, row: int, bundle: PromptBundle) -> Check:
    floor, best = bundle.decision.score_floor, float(judged.language[row].max(initial=0))
    return Check("score floor", "best phrase", best, ">=" if floor else ">", floor, best >= floor and best > 0)


def _property(judged: Judgement, row: int, bundle: PromptBundle) -> tuple[Check, ...]:
    prompt, share = bundle.property, float(judged.areas[row] / judged.object_pixels)
    large, small, on_object = judged.fits[row].tolist()
    return (
        Check("property", "least area", share, ">=" if prompt.area_min else ">", prompt.area_min, large),
        Check("property", "largest area", share, "<", prompt.area_max, small),
        Check("property", "on the object", float(judged.inside[row]), ">=", prompt.location, on_object),
    )


def _among_others(
    row: int, removed: Rule | None, numbers: _Numbers, bundle: PromptBundle, floor: float
) -> tuple[Check, ...]:
    prompt, sure = bundle.confidence, float(numbers.confidences[row])
    overlap, place = _known(numbers.overlap[row]), _known(numbers.place[row])
    unique = None if overlap is None else removed != "suppression"
    best = None if place is None else removed != "top K"
    return (
        Check("suppression", "overlap", overlap, "<=", prompt.suppression, unique),
        Check("region floor", "confidence", sure, ">=", floor, sure >= floor),
        Check("top K", "rank", place, "<=", prompt.top_k, best),
    )


def _known(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)


# -------------------------------------------------------------------------------------------------------------- the map


def _map(
    candidates: Candidates, context: FloatMap, bundle: PromptBundle, levels: SetLevels | None, score: float
) -> ExplainedMap:
    form = bundle.confidence.map
    alone = image_score(np.minimum(context, np.float32(1)))
    parts = _parts(candidates, bundle, levels) if form == "dense" else ()
    return ExplainedMap(form, bundle.saliency.source, score, alone, parts)


def _parts(candidates: Candidates, bundle: PromptBundle, levels: SetLevels | None) -> tuple[PhrasePart, ...]:
    if candidates.evidence is None:
        return ()
    chosen = columns(candidates, bundle)
    evidence = candidates.evidence[chosen]
    strongest = peaks(evidence)
    calm = strongest if levels is None else levels.calm[chosen]
    rows = zip(bundle.phrases, evidence, strongest.tolist(), calm.tolist(), strict=True)
    return tuple(
        PhrasePart(phrase.text, phrase.weight, peak, level)
        for phrase, seen, peak, level in rows
        if seen.any() and phrase.weight
    )
