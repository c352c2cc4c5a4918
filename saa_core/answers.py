"""An explanation in plain words: why is this marked, why not, and what did an expert make of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from saa_core import masks
from saa_core.explanation import ExplainedCandidate, Explanation, PhrasePart
from saa_core.reviews import Finding, Outcome, RegionReview, Review, ReviewState, evidence

_LOUD = 0.01
"""Evidence is worth a word when it is so far above that of calm images."""
_SIMILAR = 0.1
"""An expert's region that no candidate meets at this IoU was not proposed at all."""


def verdict(explanation: Explanation) -> str:
    """Whether the image is marked, and what decided it."""
    if not explanation.candidates:
        return "Not marked: the models proposed no region on this image."
    first, shown = explanation.candidates[0], len(explanation.result.regions)
    of_all = _count(len(explanation.candidates), "candidate")
    if shown:
        return f"Marked: {_count(shown, 'region')} of {of_all}. {called(first)}: {why(first, explanation)}."
    return f"Not marked: none of {of_all} passes. Closest is {called(first)}: {why(first, explanation)}."


def called(candidate: ExplainedCandidate) -> str:
    """Number, phrase and place of a candidate."""
    x0, y0, x1, y1 = candidate.box
    return f"#{candidate.number} {candidate.label!r} at x {x0}-{x1}, y {y0}-{y1}"


def why(candidate: ExplainedCandidate, explanation: Explanation) -> str:
    """Why a candidate is shown or not, as a clause."""
    failed = candidate.failed
    if failed is None or failed.value is None:
        return _shown(candidate, explanation)
    match failed.rule:
        case "score floor":
            return _unspoken(candidate, failed.value, explanation)
        case "property":
            return _misfit(failed.name, failed.value, failed.limit or 0.0)
        case "suppression":
            shared, most = _told(failed.value, explanation.bundle.confidence.suppression)
            return f"it doubles #{candidate.rival}, a better one: they share {shared} of the smaller, {most} is allowed"
        case "region floor":
            sure, needed = _told(failed.value, explanation.floor)
            return f"its confidence is {sure}, and {needed} is needed{_lowered(explanation)}"
        case "top K":
            return f"by confidence it is number {failed.value:.0f}, and only the best {failed.limit} are shown"


def map_words(explanation: Explanation) -> str:
    """What the anomaly map is made of."""
    found = explanation.map
    if found.form != "dense":
        divisor = "" if found.form == "mean" else " plus one"
        rule = f"where regions lie, the sum of their scores over their number{divisor} (Eq. 9)"
        return f"Map: {rule}, of {_count(len(explanation.result.regions), 'region')}; image score {found.score:.2f}."
    alone = f"saliency ({found.source}) gives image score {found.saliency_score:.2f}"
    if not found.phrases:
        return f"Map: {alone}; no phrase adds to it."
    loud = sorted((part for part in found.phrases if part.peak >= part.calm + _LOUD), key=_quietness)
    seen = ", ".join(f"{part.text!r} {part.peak:.2f} over {part.calm:.2f}" for part in loud[:3])
    above = f"; evidence above that of calm images: {seen}" if seen else "; no phrase is above its calm level"
    return f"Map: {alone}, {found.score:.2f} with the phrases{above}."


def _quietness(part: PhrasePart) -> float:
    return part.calm - part.peak


def _shown(candidate: ExplainedCandidate, explanation: Explanation) -> str:
    prompt, best = explanation.bundle.saliency, max(phrase.score for phrase in candidate.phrases)
    needed = f", and {explanation.floor:.2f} is needed" if explanation.floor else ""
    stands = "it stands out from its surroundings by" if prompt.measure == "contrast" else "its saliency is"
    salient = f", and {stands} {candidate.saliency:.2f}" if prompt.gain else ""
    sure = f"its confidence is {candidate.confidence:.2f}{needed}{_experience(candidate)}"
    return f"{sure}; the phrase scores {best:.2f}{salient}"


def _experience(candidate: ExplainedCandidate) -> str:
    """What reviews of such regions have shown."""
    right = "" if candidate.precision is None else f"; {100 * candidate.precision:.0f} % of such regions were right"
    return right if candidate.needs_review else f"{right}; it needs no review"


def _unspoken(candidate: ExplainedCandidate, score: float, explanation: Explanation) -> str:
    if score > 0:
        found, needed = _told(score, explanation.bundle.decision.score_floor)
        return f"its best phrase scores {found}, and {needed} is needed"
    best = max(candidate.phrases, key=lambda phrase: phrase.raw, default=None)
    if best is None or best.raw <= 0:
        return "no phrase describes it"
    if not best.weight:
        return f"its best phrase {best.text!r} ({best.raw:.2f}) is silenced by a weight of 0"
    raw, threshold = _told(best.raw, best.threshold)
    return f"its best phrase {best.text!r} scores {raw}, and its threshold is {threshold}"


def _misfit(name: str, value: float, limit: float) -> str:
    share, asked = _told(100 * value, 100 * limit, digits=1)
    match name:
        case "least area":
            return (
                f"it covers {share} % of the inspected area, and {asked} % is the least" if value else "it has no area"
            )
        case "largest area":
            return f"it covers {share} % of the inspected area, and less than {asked} % is allowed"
    return f"{share} % of it lies on the object, and at least {asked} % must"


def _lowered(explanation: Explanation) -> str:
    usual = explanation.bundle.decision.region_floor
    return f" (this set's floor; the bundle's is {usual:.2f})" if explanation.floor < usual else ""


def _told(value: float, limit: float, digits: int = 2) -> tuple[str, str]:
    """Both with as few digits as tell them apart, six at most."""
    enough = (count for count in range(digits, 6) if f"{value:.{count}f}" != f"{limit:.{count}f}")
    count = digits if value == limit else next(enough, 6)
    return f"{value:.{count}f}", f"{limit:.{count}f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# ----------------------------------------------------------------------------------------------------------- the expert


@dataclass(frozen=True, slots=True)
class ExpertRegion:
    """What an expert did to one region, and the candidate that is most like it now.

    Attributes:
        outcome: As in `RegionReview`.
        label: What the expert calls it; what it was called, if rejected.
        words: The expert's own words.
        shown_iou: Of the expert's mask with the one that was shown, in [0, 1]; None if one of them is missing.
        mask: As the expert left it; as it was shown, if rejected.
        number: Of the candidate with the highest IoU; None if none overlaps.
        iou: Of the expert's mask with that candidate's, in [0, 1].
    """

    outcome: Outcome
    label: str
    words: str
    shown_iou: float | None
    mask: masks.Rle
    number: int | None
    iou: float


@dataclass(frozen=True, slots=True)
class Expert:
    """The review of an image that counts, else the newest; attributes as in `Review`."""

    annotator: str
    updated: datetime
    state: ReviewState
    finding: Finding | None
    verdict: str | None
    words: str
    aided: bool
    run: str | None
    bundle: str | None
    regions: tuple[ExpertRegion, ...]


def expert(reviews: Iterable[Review], explanation: Explanation) -> Expert | None:
    """What experts did of the image; None if nobody reviewed it.

    Args:
        reviews: Of the image, every version, in any order.
        explanation: Its candidates are looked up for each of the expert's regions.
    """
    held = sorted(reviews, key=lambda review: (review.updated, review.source, review.id, review.state))
    if not held:
        return None
    review = evidence(held).get(explanation.result.image, held[-1])
    regions = tuple(_expert_region(region, explanation) for region in review.regions)
    return Expert(
        review.annotator,
        review.updated,
        review.state,
        review.finding,
        review.verdict,
        review.words,
        review.aided,
        review.run,
        review.bundle,
        regions,
    )


def expert_words(said: Expert, explanation: Explanation) -> Iterator[str]:
    """The review in sentences: the finding, then each region."""
    finding = f"found it {said.finding}" if said.finding else _nothing(said)
    words = f", in words: {said.words!r}" if said.words else ""
    shown = f" (shown: regions of bundle {said.bundle})" if said.bundle != explanation.bundle.id and said.aided else ""
    yield f"Expert {said.annotator} {finding} on {said.updated:%Y-%m-%d}{words}{shown}."
    for region in said.regions:
        yield f"  {_done(region)}{_nearest(region, explanation)}"


def _nothing(said: Expert) -> str:
    if said.state != "submitted":
        return {"skipped": "skipped it", "withdrawn": "withdrew the review"}.get(said.state, "left nothing readable")
    return (
        "is unsure of it" if said.verdict == "unsure" else "called it good and left regions on it, which is no finding"
    )


def _done(region: ExpertRegion) -> str:
    words = f" ({region.words})" if region.words else ""
    done = {"accepted": "accepted", "rejected": "rejected", "added": "added", "relabelled": "renamed to"}
    if region.outcome == "adjusted":
        return f"redrew {region.label!r}{words}, IoU {region.shown_iou:.2f} with what was shown"
    return f"{done[region.outcome]} {region.label!r}{words}"


def _nearest(region: ExpertRegion, explanation: Explanation) -> str:
    if region.number is None:
        return ": no candidate lies there"
    nearest = explanation.candidates[region.number - 1]
    fate = "shown" if nearest.rank is not None else f"not shown, {why(nearest, explanation)}"
    far = "; nothing closer was proposed" if region.iou < _SIMILAR else ""
    return f": candidate #{region.number} (IoU {region.iou:.2f}) is {fate}{far}"


def _expert_region(region: RegionReview, explanation: Explanation) -> ExpertRegion:
    left = region.reviewed or region.predicted
    assert left is not None  # a region was shown, left by the expert, or both
    found = [candidate.mask for candidate in explanation.candidates]
    alike = found and found[0].size == left.mask.size
    overlaps = masks.iou([left.mask], found)[0].tolist() if alike else [0.0]
    iou = max(overlaps)
    number = overlaps.index(iou) + 1 if iou else None
    words = "" if region.reviewed is None else region.reviewed.words
    return ExpertRegion(region.outcome, left.label, words, region.iou, left.mask, number, iou)
