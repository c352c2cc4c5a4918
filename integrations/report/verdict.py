"""A refinement in words: the verdict, what speaks against it, and the dozen lines for a terminal.

Agreement is the objective of the search, the mean of pixel F1 and region F1 against the experts' masks, in [0, 1].
Resamples are bootstraps of the whole selection, each judged on the images that it did not draw.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Final

from integrations.report.page import duration
from saa_core.refinement.outcome import Acceptance, Effort, Figures, ImageChange, Refinement

_UNSEEN: Final = 5e-4  # a difference of shares that three decimals do not show


def lines(refinement: Refinement) -> list[str]:
    """The refinement in about a dozen lines, for a terminal or a list in markdown; the first is the heading."""
    said = [
        verdict(refinement),
        *refinement.reasons,
        gain(refinement),
        *_agreement(refinement),
        *(f"MIND: {caution}" for caution in cautions(refinement)),
        acceptance(refinement.acceptance),
        effort(refinement),
        evidence(refinement),
        next_step(refinement),
    ]
    return list(dict.fromkeys(filter(None, said)))


def verdict(refinement: Refinement) -> str:
    """What came of it, in one sentence."""
    product = refinement.product
    if refinement.outcome == "promoted":
        return f"The new bundle for {product} did better and decides from now on."
    if refinement.outcome == "proposed":
        return f"A better bundle for {product} was found; it waits for a person's decision."
    if refinement.outcome == "kept":
        return f"The bundle for {product} stays as it is: none was found that is surely better."
    return f"Too little has been reviewed to refine {product}: {wanted(refinement)}."


def wanted(refinement: Refinement) -> str:
    """The images that are missing, such as "3 more defective and 12 more good images are needed"."""
    parts = [f"{number} more {kind}" for kind, number in refinement.missing.items() if number > 0]
    if not parts:
        return "more reviews are needed"
    total = sum(number for number in refinement.missing.values() if number > 0)
    return f"{' and '.join(parts)} {'image is' if total == 1 else 'images are'} needed"


def next_step(refinement: Refinement) -> str:
    """What the reader can do now."""
    product = shlex.quote(refinement.product)
    if refinement.outcome == "promoted":
        return f"The next saa label uses it. To take it back: saa rollback --product {product}"
    if refinement.outcome == "proposed" and refinement.proposed is not None:
        return f"Nothing has changed yet. To use it: saa promote {refinement.proposed.id}"
    return "Nothing has changed. Review more images, then refine again."


def gain(refinement: Refinement) -> str:
    """The gain that the gate looked at, with its interval; empty where nothing was searched."""
    found = refinement.gain
    if found is None:
        return ""
    doubt = "" if found.lower > 0 else ", so it may as well be a loss"
    return (
        f"Expected gain in agreement with the experts {signed(found.mean)}: {signed(found.lower)} to "
        f"{signed(found.upper)} in the middle 60 % of {plural(refinement.resamples, 'resample')}{doubt}."
    )


# ------------------------------------------------------------------------------------------------- what speaks against


def cautions(refinement: Refinement) -> list[str]:
    """Everything in the figures that a person should weigh before trusting the outcome; the gravest first."""
    return [
        *_worse_images(refinement),
        *_lost("images that the search never saw", refinement.held_before, refinement.held_after),
        *_lost("images that the search saw", refinement.before, refinement.after),
        *_thin(refinement),
        *_words(refinement),
        *_reviews(refinement),
    ]


def losses(refinement: Refinement) -> list[ImageChange]:
    """Images that the refined bundle gets worse, the worst first."""
    worse = (change for change in refinement.changes if change.after < change.before)
    return sorted(worse, key=lambda change: (change.after - change.before, change.name))


def gains(refinement: Refinement) -> list[ImageChange]:
    """Images that it gets better, the best first."""
    better = (change for change in refinement.changes if change.after > change.before)
    return sorted(better, key=lambda change: (change.before - change.after, change.name))


def _worse_images(refinement: Refinement) -> Iterator[str]:
    worse = losses(refinement)
    if worse:
        verb = "image gets" if len(worse) == 1 else "images get"
        yield (
            f"{len(worse)} {verb} worse and {len(gains(refinement))} better; the worst is "
            f"{worse[0].name}, from {worse[0].before:.2f} to {worse[0].after:.2f}."
        )


def _lost(where: str, before: Figures | None, after: Figures | None) -> Iterator[str]:
    if before is None or after is None:
        return
    if _falls(before.objective, after.objective):
        yield f"On the {where} agreement falls from {share(before.objective)} to {share(after.objective)}."
    if _falls(after.false_alarms, before.false_alarms):
        rise = f"rise from {percent(before.false_alarms)} to {percent(after.false_alarms)}"
        yield f"False alarms on the good {where} {rise}."
    for label, found in before.recall.items():
        if _falls(found, now := after.recall.get(label)):
            change = f"{percent(found)} of its pixels before, {percent(now)} now"
            yield f"On the {where} less of “{label}” is found: {change}."


def _falls(before: float | None, after: float | None) -> bool:
    return before is not None and after is not None and after < before - _UNSEEN


def _reaches(first: float | None, second: float | None) -> bool:
    return first is not None and second is not None and first >= second - _UNSEEN


def _thin(refinement: Refinement) -> Iterator[str]:
    if refinement.risk:
        yield "The looser gate for a first bundle was used (--risk): the gain is less certain than usual."
    if refinement.proposed is not None and refinement.held_after is None:
        yield "Nobody looked at held-out images: only the resamples speak for the gain."
    if refinement.held_after is not None and refinement.looks > 1:
        yield f"This is look {refinement.looks} at the held-out images; each look makes them a weaker proof."


def _words(refinement: Refinement) -> Iterator[str]:
    ours, control = refinement.after or refinement.before, refinement.control
    if ours is not None and control is not None and _reaches(control.objective, ours.objective):
        yield (
            f"General words alone reach an agreement of {share(control.objective)} with the same search, this bundle "
            f"{share(ours.objective)}: nothing shows that its specific phrases help."
        )
    unknown = sorted({word for row in refinement.phrases if row.weight for word in row.unknown_words})
    if unknown:
        yield f"The models cannot use these words: {', '.join(unknown)}."


def _reviews(refinement: Refinement) -> Iterator[str]:
    had = refinement.evidence
    unusable, undrawn = len(had.unusable), had.undrawn
    if unusable:
        yield f"{plural(unusable, 'reviewed image')} could not be used; the reasons are listed with the evidence."
    if undrawn:
        was, counts = ("image was", "counts") if undrawn == 1 else ("images were", "count")
        yield f"{undrawn} {was} called defective with nothing drawn, and {counts} nowhere."
    if had.disputed:
        example = ": ".join(had.disputed[0])
        yield f"Annotators differ on {plural(len(had.disputed), 'image')}, where the newest review counts ({example})."


# ---------------------------------------------------------------------------------------------------- the other lines


def _agreement(refinement: Refinement) -> Iterator[str]:
    held = f"{plural(refinement.evidence.held_out, 'held-out image')}, look {refinement.looks}"
    parts = [
        ("images searched, which flatters the new bundle", refinement.before, refinement.after),
        (held, refinement.held_before, refinement.held_after),
    ]
    for where, before, after in parts:
        if before is not None and after is not None:
            yield (
                f"Agreement {share(before.objective)} before, {share(after.objective)} after; false alarms "
                f"{percent(before.false_alarms)} before, {percent(after.false_alarms)} after ({where})."
            )


def acceptance(found: Acceptance | None) -> str:
    """From which confidence on a region needs no review, or how many more judged regions that takes."""
    if found is None:
        return ""
    if found.threshold is not None and found.lower is not None:
        return (
            f"Regions of confidence {found.threshold:.3f} or more can be accepted unseen: at least {found.lower:.1%} "
            f"of them are right, proved on {plural(found.regions, 'region')} of the random slice."
        )
    return (
        f"Review everything: before any region can be accepted unseen at {found.target:.0%} precision, "
        f"{plural(found.missing, 'more region')} have to be judged right on images that experts got without masks "
        f"({found.correct} of {found.regions} were right so far)."
    )


def effort(refinement: Refinement) -> str:
    """What an image costs an expert before and after; empty where it is not known."""
    held = refinement.held_before, refinement.held_after
    searched = refinement.before, refinement.after
    where, (before, after) = ("held-out", held) if held[1] is not None else ("searched", searched)
    if before is None or after is None or before.seconds is None or after.seconds is None:
        return ""
    less = before.seconds - after.seconds
    return (
        f"Expected time of an expert: {before.seconds:.1f} s an image before, {after.seconds:.1f} s after "
        f"({duration(abs(100 * less))} {'less' if less >= 0 else 'MORE'} for 100 images; {where} images, "
        f"{costs_from(refinement.effort)})."
    )


def costs_from(costs: Effort | None) -> str:
    """Where the costs of an expert's actions come from."""
    if costs is None or costs.events == 0:
        return "costs assumed, not measured"
    return f"costs fitted to {plural(costs.events, 'review')}"


def evidence(refinement: Refinement) -> str:
    """What the refinement had to go by."""
    had = refinement.evidence
    return (
        f"Evidence {had.hash}: {had.defective} defective and {had.good} good reviewed images, "
        f"{plural(had.regions, 'region')}, {plural(had.lots, 'lot')}, {plural(had.held_out, 'image')} held out."
    )


def signed(value: float) -> str:
    """Three decimals with a sign, such as ``+0.061`` or ``−0.012``; 0 has none."""
    return "0.000" if abs(value) < _UNSEEN else f"{value:+.3f}".replace("-", "−")


def share(value: float | None) -> str:
    """Three decimals, or that it is not defined."""
    return "undefined" if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A share of one in percent, or that it is not defined."""
    return "undefined" if value is None else f"{value:.1%}"


def plural(number: int, noun: str) -> str:
    """The number with its noun, which takes an s unless there is one of it."""
    return f"{number} {noun}{'s' if number != 1 else ''}"
