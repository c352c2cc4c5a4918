"""What an expert said of an image, region by region, and what of it counts.

A review is one version of one annotation: it is never changed, a later version stands beside it. Which versions count
is decided when they are read: of an annotation the newest, of an image the newest that says something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Literal

import numpy as np

from saa_core.errors import ReviewError
from saa_core.masks import Rle, iou, to_string, union

Outcome = Literal["accepted", "adjusted", "rejected", "added", "relabelled"]
Verdict = Literal["good", "defective", "unsure"]
ReviewState = Literal["submitted", "skipped", "withdrawn", "unreadable"]
Finding = Literal["good", "defective"]

SAME = 0.5
"""Two masks of at least this IoU may show the same thing; the usual threshold of detection (PASCAL VOC, COCO AP50)."""

_LABEL_BONUS = 1e-9  # less than any IoU that matters: of pairs that overlap alike, those of one label are chosen


@dataclass(frozen=True, slots=True)
class PredictedRegion:
    """A region as it was shown, or withheld.

    Attributes:
        id: Known to the service that showed it; unique in its image.
        label: What it was called there.
        phrase: The words of the bundle that found it.
        score: Its confidence, in [0, 1].
        mask: Run-length mask of the image's size.
    """

    id: str
    label: str
    phrase: str
    score: float
    mask: Rle


@dataclass(frozen=True, slots=True)
class ReviewedRegion:
    """A region as the expert left it.

    Attributes:
        id: Of the predicted region that it was, or an id of its own; None where the source knows no ids.
        label: What the expert calls it.
        mask: Run-length mask of the image's size.
        words: What it is, in the expert's words.
    """

    id: str | None
    label: str
    mask: Rle
    words: str = ""


@dataclass(frozen=True, slots=True)
class RegionReview:
    """What became of one region.

    Attributes:
        outcome: `accepted` as it was, `adjusted` in its mask, `relabelled` (its mask may have changed as well),
            `rejected`, or `added` by the expert.
        predicted: What was shown; None if added.
        reviewed: What the expert left; None if rejected.
        iou: Of the two masks, in [0, 1], 1 if accepted; None if one of them is missing.
    """

    outcome: Outcome
    predicted: PredictedRegion | None
    reviewed: ReviewedRegion | None
    iou: float | None


@dataclass(frozen=True, slots=True)
class Review:
    """One version of what one annotator said of one image.

    Attributes:
        product: What was inspected.
        image: Key of the image.
        source: Where it was made: a service with its project, or `masks`.
        id: Of the annotation in its source. Versions of one annotation share it.
        state: `withdrawn` is an annotation that was deleted, `unreadable` one that holds something else than masks.
        annotator: Who made it, as the source names them.
        updated: When this version was made, UTC, by the source's clock.
        verdict: The expert's word on the image as a whole; None without one.
        words: What the expert wrote about the image.
        lead_seconds: Time spent on it, seconds; None when not known.
        run: Id of the run whose regions were shown or withheld; None when not known.
        bundle: Id of that run's bundle; None when not known.
        aided: Whether regions were shown, or may have been.
        regions: What became of each region, shown and added.
    """

    product: str
    image: str
    source: str
    id: str
    state: ReviewState
    annotator: str
    updated: datetime
    verdict: Verdict | None
    words: str
    lead_seconds: float | None
    run: str | None
    bundle: str | None
    aided: bool
    regions: tuple[RegionReview, ...]

    @property
    def masks(self) -> tuple[Rle, ...]:
        """Masks of the regions that remain."""
        return tuple(region.reviewed.mask for region in self.regions if region.reviewed is not None)

    @property
    def contradictory(self) -> bool:
        """Whether it calls the image good and leaves regions on it."""
        return self.state == "submitted" and self.verdict == "good" and bool(self.masks)

    @property
    def finding(self) -> Finding | None:
        """What it says of the image; None if nothing: skipped, withdrawn, unsure or contradictory.

        An annotation that was submitted without regions and without a verdict says that the image is good.
        """
        if self.state != "submitted" or self.verdict == "unsure" or self.contradictory:
            return None
        return "defective" if self.verdict == "defective" or self.masks else "good"


@dataclass(frozen=True, slots=True)
class Disagreement:
    """An image on which annotators do not agree.

    Attributes:
        image: Key of the image.
        annotators: All whose findings were compared, sorted.
        reason: On what they differ.
    """

    image: str
    annotators: tuple[str, ...]
    reason: str


# ----------------------------------------------------------------------------------------------------- region by region


def compare(predicted: Sequence[PredictedRegion], reviewed: Sequence[ReviewedRegion]) -> tuple[RegionReview, ...]:
    """What became of each predicted region, and what was added.

    A reviewed region with an id is the predicted one of that id, or an added one. Those without ids are assigned one to
    one to the predicted regions that are left, such that the sum of the IoUs is largest; pairs below `SAME` do not
    count, and of equal overlaps those with the same label are preferred. The order of the regions does not matter.
    A reviewed region without pixels was erased: it does not count.

    Args:
        predicted: What was shown or withheld, with unique ids.
        reviewed: What the expert left; ids, where there are some, are unique.

    Returns:
        One entry for each predicted region, in their order, then one for each added region, in theirs.

    Raises:
        ReviewError: Masks of different sizes, or an id that occurs twice.
    """
    _check_sizes([*predicted, *reviewed])
    _check_ids([region.id for region in predicted])
    _check_ids([region.id for region in reviewed if region.id is not None])
    left = [region for region in reviewed if region.mask.area]
    pairs = _by_id(predicted, left)
    pairs |= _by_geometry(
        [index for index in range(len(predicted)) if index not in pairs],
        [index for index, region in enumerate(left) if region.id is None],
        predicted,
        left,
    )
    matched = set(pairs.values())
    shown = [_outcome(region, left[pairs[i]] if i in pairs else None) for i, region in enumerate(predicted)]
    added = [RegionReview("added", None, region, None) for i, region in enumerate(left) if i not in matched]
    return (*shown, *added)


def _check_sizes(regions: Sequence[PredictedRegion | ReviewedRegion]) -> None:
    for region in regions[1:]:
        if region.mask.size != regions[0].mask.size:
            sizes = [" x ".join(map(str, each.mask.size)) for each in (region, regions[0])]
            name = f"region {region.id or region.label}"
            raise ReviewError(name, f"its mask has {sizes[0]} pixels, other masks of its image have {sizes[1]}")


def _check_ids(ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)
        raise ReviewError(f"region {twice}", "its id occurs twice in one image")


def _by_id(predicted: Sequence[PredictedRegion], reviewed: Sequence[ReviewedRegion]) -> dict[int, int]:
    """For each predicted region that is still there, by its number, the number of the reviewed one."""
    places = {region.id: index for index, region in enumerate(reviewed) if region.id is not None}
    return {index: places[region.id] for index, region in enumerate(predicted) if region.id in places}


def _by_geometry(
    rows: list[int], columns: list[int], predicted: Sequence[PredictedRegion], reviewed: Sequence[ReviewedRegion]
) -> dict[int, int]:
    """The same for those without ids: pairs of `rows` and `columns`, numbers of predicted and reviewed regions."""
    if not rows or not columns:
        return {}
    from scipy.optimize import linear_sum_assignment  # a third of a second, which reviews with ids never need

    # In an order of their own, so that ties do not fall as the regions happen to stand.
    rows = sorted(rows, key=lambda i: _key(predicted[i]))
    columns = sorted(columns, key=lambda j: _key(reviewed[j]))
    overlap = iou([predicted[i].mask for i in rows], [reviewed[j].mask for j in columns])
    same = np.array([[predicted[i].label == reviewed[j].label for j in columns] for i in rows])
    gain = np.where(overlap >= SAME, overlap + _LABEL_BONUS * same, 0)
    found = zip(*linear_sum_assignment(gain, maximize=True), strict=True)
    return {rows[row]: columns[column] for row, column in found if gain[row, column] > 0}


def _key(region: PredictedRegion | ReviewedRegion) -> tuple[str, ...]:
    words = (region.id, region.phrase) if isinstance(region, PredictedRegion) else (region.words,)
    return region.label, to_string(region.mask), *words


def _outcome(predicted: PredictedRegion, reviewed: ReviewedRegion | None) -> RegionReview:
    if reviewed is None:
        return RegionReview("rejected", predicted, None, None)
    overlap = 1.0 if predicted.mask == reviewed.mask else float(iou([predicted.mask], [reviewed.mask])[0, 0])
    if predicted.label != reviewed.label:
        return RegionReview("relabelled", predicted, reviewed, overlap)
    outcome: Outcome = "accepted" if predicted.mask == reviewed.mask else "adjusted"
    return RegionReview(outcome, predicted, reviewed, overlap)


# ------------------------------------------------------------------------------------------------------- image by image


def evidence(reviews: Iterable[Review]) -> dict[str, Review]:
    """For each image the newest review that says something of it.

    Of an annotation its newest version counts alone: one that was withdrawn, skipped or called unsure later says
    nothing any more, whatever it said before.

    Args:
        reviews: Of one product, in any order.

    Returns:
        By image key, sorted. An image of which no review has a finding is not in it.
    """
    newest = _newest_by(_findings(reviews), lambda review: (review.image,))
    return {review.image: review for review in sorted(newest, key=lambda review: review.image)}


def disagreements(reviews: Iterable[Review]) -> tuple[Disagreement, ...]:
    """Images on which annotators differ, each by their newest finding: good or defective, or where the defect is.

    Args:
        reviews: Of one product, in any order; versions of annotations count as in `evidence`.

    Returns:
        By image key, sorted.
    """
    newest = _newest_by(_findings(reviews), lambda review: (review.image, review.annotator))
    images: dict[str, list[Review]] = {}
    for review in sorted(newest, key=lambda review: (review.image, review.annotator)):
        images.setdefault(review.image, []).append(review)
    reasons = {image: _difference(held) for image, held in images.items()}
    return tuple(
        Disagreement(image, tuple(review.annotator for review in images[image]), reason)
        for image, reason in reasons.items()
        if reason is not None
    )


def _findings(reviews: Iterable[Review]) -> list[Review]:
    """The newest version of each annotation, where it has a finding."""
    versions = _newest_by(reviews, lambda review: (review.image, review.source, review.id))
    return [review for review in versions if review.finding is not None]


def _newest_by(reviews: Iterable[Review], group: Callable[[Review], tuple[str, ...]]) -> list[Review]:
    newest: dict[tuple[str, ...], Review] = {}
    for review in reviews:
        held = newest.setdefault(group(review), review)
        if _age(review) > _age(held):
            newest[group(review)] = review
    return list(newest.values())


def _age(review: Review) -> tuple[datetime, str, str, str]:
    # What is withdrawn at a moment was there before: of the states, "withdrawn" is also the last in the alphabet. The
    # rest makes the choice the same in any order.
    return review.updated, review.state, review.source, review.id


def _difference(reviews: Sequence[Review]) -> str | None:
    """On what the findings of one image differ; None if they do not."""
    if len({review.finding for review in reviews}) > 1:
        said = ", ".join(f"{review.annotator} says {review.finding}" for review in reviews)
        return f"good or defective: {said}"
    areas = [union(review.masks) for review in reviews if review.masks]
    overlap = min((float(iou([a], [b])[0, 0]) for a, b in combinations(areas, 2)), default=1.0)
    return f"where the defect is: their masks have an IoU of {overlap:.2f}" if overlap < SAME else None
