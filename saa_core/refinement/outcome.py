"""What a refinement found, as plain values: for the flow, the command line, the report and the catalog."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from saa_core.prompts import PromptBundle

Outcome = Literal["promoted", "proposed", "kept", "collect-more"]
"""A better bundle decides from now on; one was found and waits for a person; none was; the evidence is too thin."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its uncertainty.

    Attributes:
        mean: Of the resamples.
        lower: Their 20 % quantile.
        upper: Their 80 % quantile.
    """

    mean: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Figures:
    """How one bundle does on reviewed images. Whatever is not defined is None.

    Attributes:
        objective: What the search maximises: the mean of `pixel_f1` and `region_f1`, in [0, 1].
        pixel_f1: Of the anomaly map cut at the bundle's threshold, pixels of all images pooled, in [0, 1].
        pixel_precision: In [0, 1].
        pixel_recall: In [0, 1].
        region_f1: Regions matched one to one at an IoU of 0.5, pooled, in [0, 1].
        region_precision: In [0, 1].
        region_recall: In [0, 1].
        false_alarms: Share of the good images on which a region is shown, in [0, 1].
        recall: Of each label that experts used, the share of its reviewed regions that a shown region overlaps with an
            IoU of at least 0.1, in [0, 1].
        seconds: What an expert is expected to spend on an image, seconds.
    """

    objective: float | None
    pixel_f1: float | None
    pixel_precision: float | None
    pixel_recall: float | None
    region_f1: float | None
    region_precision: float | None
    region_recall: float | None
    false_alarms: float | None
    recall: dict[str, float] = field(default_factory=dict, hash=False)
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class EvidenceSummary:
    """What the refinement had to go by.

    Attributes:
        hash: Of the reviews, candidates and sets behind it, 16 hexadecimal digits; independent of any order.
        defective: Reviewed images with masks.
        good: Images reviewed as good.
        undrawn: Images called defective on which nothing is drawn: they count nowhere.
        lots: Lots that all these come from.
        held_out: Images that the search never saw.
        regions: Reviewed regions.
        unusable: (image, reason) of reviewed images that cannot be used.
        disputed: (image, reason) of those on which annotators differ; the newest review counts.
    """

    hash: str
    defective: int
    good: int
    undrawn: int
    lots: int
    held_out: int
    regions: int
    unusable: tuple[tuple[str, str], ...] = ()
    disputed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class PhraseRow:
    """What one phrase is worth, on the images that the search saw.

    Attributes:
        text: The phrase.
        kind: `agnostic` or `specific`.
        source: Where it comes from: "champion", or the reason for which it was proposed.
        weight: Its weight in the refined bundle; 0 is silenced.
        coverage: Share of the reviewed regions for which some shown region scores best on this phrase.
        precision: Share of the regions shown under this phrase that match a reviewed one; None if none is shown.
        recall: Share of the reviewed regions that regions shown under this phrase match.
        unique: What the objective loses when the phrase is silenced.
        overlap: Highest correlation of its scores with those of another phrase, in [-1, 1]; None if there is none.
        unknown_words: Words that the models cannot use.
    """

    text: str
    kind: str
    source: str
    weight: float
    coverage: float
    precision: float | None
    recall: float
    unique: float
    overlap: float | None
    unknown_words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Curve:
    """One number of the bundle, swept with all others as refined.

    Attributes:
        name: Path of the number in the bundle, such as ``decision.threshold``.
        values: Rising.
        objective: At each value.
        false_alarms: At each value; None where there are no good images.
        before: The champion's value; None where it has no limit.
        after: The refined value; None where it has no limit.
    """

    name: str
    values: tuple[float, ...]
    objective: tuple[float, ...]
    false_alarms: tuple[float, ...] | None
    before: float | None
    after: float | None


@dataclass(frozen=True, slots=True)
class ImageChange:
    """What the refined bundle does to one reviewed image.

    Attributes:
        image: Key of the image.
        name: Its name.
        before: Pixel F1 of the champion on it, or, on a good image, 1 without and 0 with a region shown.
        after: The same under the refined bundle.
        held_out: Whether the search never saw it.
    """

    image: str
    name: str
    before: float
    after: float
    held_out: bool


@dataclass(frozen=True, slots=True)
class Trial:
    """Something that was tried.

    Attributes:
        what: In words, such as "silence 'dirt'" or "+ 'black spot' (an expert's words, 4 times)".
        objective: On the images that the search saw; None where it could not be measured.
        taken: Whether it is part of the refined bundle.
        why: Why it was taken or not, in words.
    """

    what: str
    objective: float | None
    taken: bool
    why: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """Confidence to precision, a rising step function.

    Attributes:
        confidences: Lower ends of the steps, rising, in [0, 1].
        precisions: Share of the regions in each step that an expert confirmed, rising, in [0, 1].
        regions: Regions it was fitted to.
    """

    confidences: tuple[float, ...]
    precisions: tuple[float, ...]
    regions: int


@dataclass(frozen=True, slots=True)
class Acceptance:
    """From which confidence on a region needs no review.

    Attributes:
        target: Precision that is asked for, in (0, 1).
        threshold: Lowest confidence at which it is proved; None: review everything.
        regions: Regions of the random slice that were judged.
        correct: How many of them an expert confirmed.
        lower: Exact lower bound of the precision above `threshold`; None without one.
        missing: How many more regions of the random slice would have to be judged, all without error, before anything
            can be accepted; 0 with a threshold.
        calibration: None where there are too few regions to fit one.
    """

    target: float
    threshold: float | None
    regions: int
    correct: int
    lower: float | None
    missing: int
    calibration: Calibration | None = None


@dataclass(frozen=True, slots=True)
class Effort:
    """What experts spend.

    Attributes:
        look: Seconds for an image, whatever is on it.
        accept: Seconds for a region that is right.
        adjust: Seconds for one whose border is redrawn.
        delete: Seconds for one that is not a defect.
        add: Seconds for one that was missed.
        events: Reviews with a lead time that these were fitted to; 0: these are the defaults.
    """

    look: float
    accept: float
    adjust: float
    delete: float
    add: float
    events: int


@dataclass(frozen=True, slots=True)
class Refinement:
    """One refinement of one product.

    Attributes:
        product: What is inspected.
        outcome: See `Outcome`.
        reasons: Why, a sentence each; the first is the decisive one.
        champion: The bundle that decided so far.
        proposed: The refined bundle; None where none is better.
        seed: Of everything random.
        configurations: Bundles that were tried.
        resamples: Bootstraps of the whole selection.
        risk: Whether the looser gate of a first bundle was used.
        evidence: What it had to go by.
        gain: Of the objective, out of bag, over the resamples; None where nothing was searched.
        before: The champion on the images that the search saw.
        after: The proposed bundle there.
        held_before: The champion on the held-out images; None unless somebody looked.
        held_after: The proposed bundle there.
        looks: How often the held-out images were looked at, this time included.
        control: The best that general words alone reach with the same search; None where there is no general phrase.
        missing: What more evidence is needed, by kind: ``defective``, ``good``.
        phrases: One row a phrase.
        curves: Of the numbers that matter.
        changes: One for each reviewed image that both bundles decide differently.
        tried: What was tried, in order.
        acceptance: Of the proposed bundle, or the champion where there is none.
        effort: What was assumed of experts.
    """

    product: str
    outcome: Outcome
    reasons: tuple[str, ...]
    champion: PromptBundle
    proposed: PromptBundle | None
    seed: int
    configurations: int
    resamples: int
    risk: bool
    evidence: EvidenceSummary
    gain: Interval | None = None
    before: Figures | None = None
    after: Figures | None = None
    held_before: Figures | None = None
    held_after: Figures | None = None
    looks: int = 0
    control: Figures | None = None
    missing: dict[str, int] = field(default_factory=dict, hash=False)
    phrases: tuple[PhraseRow, ...] = ()
    curves: tuple[Curve, ...] = ()
    changes: tuple[ImageChange, ...] = ()
    tried: tuple[Trial, ...] = ()
    acceptance: Acceptance | None = None
    effort: Effort | None = None
