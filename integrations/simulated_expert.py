"""An expert who knows the truth and has human habits: reviews of a run, without a person and without a service.

For the demo and for experiments, where a product's true masks are known. What it says of an image depends on its seed,
on the image and on what was shown, never on the order of the images: the same image in another run meets the same
skips, the same overlooked defects and the same wobble of the hand. Costs and habits are assumptions, not measurements.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from scipy import ndimage

from integrations.label_studio.planning import draw
from integrations.labels import GENERIC, labels_of
from integrations.outputs import ImageRecord
from integrations.push_items import push_item
from saa_core.masks import Rle, containment, decode_crop, encode_crop, iou, union
from saa_core.prompts import PromptBundle
from saa_core.refinement.outcome import Effort
from saa_core.reviews import Outcome, PredictedRegion, RegionReview, Review, ReviewedRegion, Verdict, compare
from saa_core.types import ImageRef

SOURCE = "simulated-expert"
Defect = tuple[Rle, str]
"""A true mask of the image's size, and what the defect is called."""

COSTS = Effort(look=4.0, accept=1.5, adjust=12.0, delete=2.0, add=18.0, events=0)
"""What the expert of this module spends, by assumption."""

_TOUCHED = 0.1  # a region of less IoU with a defect is no help to draw it
_COVERED = 0.5  # a region shows the defects of which it covers this share
_SPREAD = 0.3  # of lead times: standard deviation of their logarithm


@dataclass(frozen=True, slots=True)
class Habits:
    """What an expert does with what is shown.

    Attributes:
        accept_iou: A region that fits this well is left as it is.
        find: Share of the defects that are noticed where no region points at them, in [0, 1].
        wobble: How far a drawn border strays from the true one, standard deviation in pixels; 0 draws the truth.
        skip: Share of the images that are skipped, in [0, 1].
        mistake: Share of the images of which the contrary is said, in [0, 1]: a good one is called defective and its
            regions are left, a defective one is called good and emptied.
        words: Whether a region gets words where its label does not say what it is.
        seconds: What an image and each action take; lead times spread around their sum.
    """

    accept_iou: float = 0.75
    find: float = 0.95
    wobble: float = 1.0
    skip: float = 0.05
    mistake: float = 0.01
    words: bool = True
    seconds: Effort = COSTS


class SimulatedExpert:
    """Reviews images whose defects are known.

    Args:
        name: The annotator.
        habits: What it does with what is shown.
        seed: Two experts with different seeds overlook different defects.
    """

    def __init__(self, name: str = "simulated", habits: Habits | None = None, seed: int = 0) -> None:
        self.name = name
        self.habits = habits or Habits()
        self.seed = seed

    def review(
        self,
        record: ImageRecord,
        truth: Sequence[Defect],
        *,
        product: str,
        run: str,
        bundle: PromptBundle,
        at: datetime,
        aided: bool = True,
    ) -> Review:
        """The review of one image of a run.

        A region that fits a defect, or all those that it covers, by `accept_iou` is left; one that overlaps is redrawn;
        any other is deleted. Each defect is one region's, and what is left of the defects is added where it is noticed.
        A label is chosen as in the labeling project of the bundle: a class-specific phrase, or the general one.

        Args:
            record: What the run found.
            truth: The image's defects; none where it is good.
            product: What is inspected.
            run: Id of the run.
            bundle: Of the run.
            at: When, UTC.
            aided: Whether the regions are shown; where not, everything is drawn.

        Raises:
            ReviewError, MaskError: A true mask of another size than the image.
        """
        shown = push_item(record, ImageRef(record["key"], "", tuple(record["names"])), 0.0, run, bundle).regions
        skipped = self._happens(self.habits.skip, record["key"], "skip")
        verdict: Verdict | None = None
        left: Sequence[ReviewedRegion] = ()
        if not skipped:
            real = [defect for defect in truth if defect[0].area]
            verdict, left = self._judgement(shown if aided else (), real, record["key"], labels_of(bundle))
        return Review(
            product=product,
            image=record["key"],
            source=SOURCE,
            id=hashlib.sha256(f"{self.name}\n{run}\n{record['key']}".encode()).hexdigest(),
            state="skipped" if skipped else "submitted",
            annotator=self.name,
            updated=at,
            verdict=verdict,
            words="",
            lead_seconds=self._seconds(() if skipped else compare(shown if aided else (), left), record["key"]),
            run=run,
            bundle=bundle.id,
            aided=aided,
            regions=() if skipped else compare(shown, left),
        )

    def _judgement(
        self, shown: Sequence[PredictedRegion], truth: Sequence[Defect], key: str, labels: Collection[str]
    ) -> tuple[Verdict, Sequence[ReviewedRegion]]:
        """The verdict on an image, and its regions as the expert leaves them."""
        if self._happens(self.habits.mistake, key, "mistake"):
            untouched = [ReviewedRegion(region.id, region.label, region.mask) for region in shown]
            return ("good", ()) if truth else ("defective", untouched)
        left = self._left(shown, truth, key, labels)
        return "defective" if left else "good", left

    def _left(
        self, shown: Sequence[PredictedRegion], truth: Sequence[Defect], key: str, labels: Collection[str]
    ) -> list[ReviewedRegion]:
        """The regions as the expert leaves them."""
        masks = [mask for mask, _ in truth]
        left: list[ReviewedRegion] = []
        done: set[int] = set()
        for index, defects, fit in _matches([region.mask for region in shown], masks):
            region, first = shown[index], min(defects)
            mask = region.mask
            if fit < self.habits.accept_iou:
                mask = self._drawn(union([masks[number] for number in defects]), key, first)
            left.append(self._called(region.id, mask, truth[first][1], labels))
            done.update(defects)
        for number, (mask, name) in enumerate(truth):
            if number not in done and self._happens(self.habits.find, key, "find", number):
                left.append(self._called(None, self._drawn(mask, key, number), name, labels))
        return left

    def _called(self, identity: str | None, mask: Rle, name: str, labels: Collection[str]) -> ReviewedRegion:
        plain = name.replace("_", " ")
        label = plain if plain in labels else GENERIC
        return ReviewedRegion(identity, label, mask, plain if self.habits.words and label != plain else "")

    def _drawn(self, mask: Rle, key: str, number: int) -> Rle:
        return wobbled(mask, self.habits.wobble, self._rng(key, "draw", number))

    def _seconds(self, regions: Sequence[RegionReview], key: str) -> float:
        cost = self.habits.seconds
        of: dict[Outcome, float] = {
            "accepted": cost.accept,
            "adjusted": cost.adjust,
            "relabelled": cost.adjust,
            "rejected": cost.delete,
            "added": cost.add,
        }
        total = cost.look + sum(of[region.outcome] for region in regions)
        return round(total * math.exp(_SPREAD * self._rng(key, "seconds").standard_normal()), 2)

    def _happens(self, share: float, *what: object) -> bool:
        return bool(self._rng(*what).random() < share)

    def _rng(self, *what: object) -> np.random.Generator:
        """A generator of its own for each thing that may happen: one more defect does not change all that follows."""
        words = "\n".join(map(str, (self.seed, self.name, *what)))
        return np.random.default_rng(int.from_bytes(hashlib.sha256(words.encode()).digest()[:16]))


def review_run(
    expert: SimulatedExpert,
    records: Iterable[ImageRecord],
    truth: Mapping[str, Sequence[Defect]],
    *,
    product: str,
    run: str,
    bundle: PromptBundle,
    at: datetime,
    lots: Mapping[str, str | None] | None = None,
    share: float = 1.0,
    unaided: float = 0.1,
) -> tuple[Review, ...]:
    """Reviews of some lots of a run, as good as chosen at random: by a hash with the expert's seed.

    Args:
        expert: Who reviews.
        records: Of the run.
        truth: The defects of each image by any of its names; an image without a name in it is good.
        product: What is inspected.
        run: Id of the run.
        bundle: Of the run.
        at: When, UTC.
        lots: Lot of each image by key; an image without one is its own lot.
        share: Of the lots, in [0, 1].
        unaided: Share of the images reviewed, in [0, 1], that are shown without regions: those that a push would
            choose of them.

    Returns:
        In the order of the records.

    Raises:
        ReviewError, MaskError: A true mask of another size than its image.
    """
    held = list(records)
    lot_of = {record["key"]: (lots or {}).get(record["key"]) or record["key"] for record in held}
    chosen = chosen_lots(lot_of.values(), share, expert.seed)
    seen = [record for record in held if lot_of[record["key"]] in chosen]
    alone = draw(product, {record["key"] for record in seen}, round(unaided * len(seen)))
    return tuple(
        expert.review(
            record,
            next((truth[name] for name in record["names"] if name in truth), ()),
            product=product,
            run=run,
            bundle=bundle,
            at=at,
            aided=record["key"] not in alone,
        )
        for record in seen
    )


def chosen_lots(lots: Iterable[str], share: float, seed: int) -> frozenset[str]:
    """This share of the different lots, in [0, 1], rounded up; a larger share holds a smaller one."""
    ranked = sorted(set(lots), key=lambda lot: hashlib.sha256(f"lot\n{seed}\n{lot}".encode()).digest())
    return frozenset(ranked[: math.ceil(share * len(ranked))])


def wobbled(mask: Rle, wobble: float, rng: np.random.Generator) -> Rle:
    """A mask as a hand draws it: its border strays in smooth waves, outwards and inwards.

    Inwards never by more than half of the shape's depth, for a hand does not tear a scratch into pieces.

    Args:
        mask: With at least one pixel.
        wobble: Standard deviation of the border's place, pixels, not negative.
        rng: Decides the waves.
    """
    if not wobble:
        return mask
    room = math.ceil(3 * wobble) + 1
    crop, top, left = decode_crop(mask)
    inside = np.pad(crop, room)
    # Signed distance to the border, which runs between the pixels: positive inside, negative outside.
    depth = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    depth -= np.where(inside, 0.5, -0.5)
    waves = ndimage.gaussian_filter(rng.standard_normal(inside.shape), 4 * wobble)
    waves *= wobble / waves.std()
    drawn = depth + np.maximum(waves, -depth.max() / 2) > 0
    rows, columns = (
        slice(max(0, room - at), room - at + size) for at, size in zip((top, left), mask.size, strict=True)
    )
    window = drawn[rows, columns]
    return encode_crop(window, max(0, top - room), max(0, left - room), *mask.size)


def _matches(shown: Sequence[Rle], truth: Sequence[Rle]) -> list[tuple[int, tuple[int, ...], float]]:
    """Which region shows which defects and how well, best first; no region and no defect occurs twice."""
    if not shown or not truth:
        return []
    options = [
        (float(iou([mask], [union([truth[number] for number in group])])[0, 0]), index, group)
        for index, mask in enumerate(shown)
        for group in _groups(mask, truth)
    ]
    found: list[tuple[int, tuple[int, ...], float]] = []
    for fit, index, group in sorted(options, key=lambda option: (-option[0], *option[1:])):
        taken = {number for _, numbers, _ in found for number in numbers}
        if fit >= _TOUCHED and taken.isdisjoint(group) and all(index != other for other, _, _ in found):
            found.append((index, group, fit))
    return found


def _groups(mask: Rle, truth: Sequence[Rle]) -> set[tuple[int, ...]]:
    """Defects that a region may be meant for: each alone, or all that it covers."""
    share = containment(truth, [mask])[:, 0]
    alone = {(int(number),) for number in np.flatnonzero(share)}
    covered = tuple(np.flatnonzero(share >= _COVERED).tolist())
    return alone | ({covered} if covered else set())
