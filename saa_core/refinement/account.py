"""An account of a refinement for people: phrases, curves, images that got better and worse, what was tried."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saa_core.refinement.acceptance import accept
from saa_core.refinement.evidence import FOUND, MATCH, ImageEvidence
from saa_core.refinement.judge import ALARM, HIT, SHOWN, Judge
from saa_core.refinement.knobs import Knobs
from saa_core.refinement.menu import Menu
from saa_core.refinement.objective import Tally, f1
from saa_core.refinement.outcome import Acceptance, Curve, ImageChange, PhraseRow, Trial
from saa_core.refinement.search import Searcher, Step, moved, weighted

Floats = NDArray[np.float64]

_CURVES = {
    "threshold": "decision.threshold",
    "region_floor": "decision.region_floor",
    "area_max": "property.area_max",
    "area_min": "property.area_min",
    "gain": "saliency.gain",
}
_SAME = 1e-6


@dataclass(frozen=True, slots=True)
class Shown:
    """A region that a bundle shows on a reviewed image.

    Attributes:
        phrase: Row of the phrase that it scores best on.
        confidence: In [0, 1].
        iou: float64 (T,), with the reviewed regions.
    """

    phrase: int
    confidence: float
    iou: Floats

    @property
    def right(self) -> bool:
        """Whether it matches a reviewed region."""
        return bool(self.iou.max(initial=0) >= MATCH)


def shown(judge: Judge, knobs: Knobs) -> list[tuple[ImageEvidence, tuple[Shown, ...]]]:
    """What a bundle shows on each reviewed image."""
    return [(image, tuple(_shown(image, *decided, knobs))) for image, decided in judge.decided(knobs)]


def _shown(image: ImageEvidence, scores: Floats, rows: NDArray[np.intp], knobs: Knobs) -> Iterator[Shown]:
    raw = image.rows.scores.astype(np.float64)
    spoken = np.where(raw >= np.array(knobs.thresholds), raw * np.array(knobs.weights), 0)
    for row in rows:
        confidence = float(scores[row] / (1 + scores[row]))
        yield Shown(int(np.minimum(spoken[row], 1).argmax()), confidence, image.iou[row])


def phrase_rows(
    judge: Judge,
    tally: Tally,
    menu: Menu,
    weights: Floats,
    knobs: Knobs,
    sources: Mapping[str, str],
    unknown: Mapping[str, Sequence[str]],
) -> tuple[PhraseRow, ...]:
    """What each phrase is worth under a bundle, on the images that `weights` counts."""
    texts = judge.bundle.texts
    seen = [pair for pair, weight in zip(shown(judge, knobs), weights, strict=True) if weight]
    silenced = [weighted(knobs, row, 0.0) for row in range(len(texts))]
    values = np.nan_to_num(tally.objective(judge.counts([knobs, *silenced]), weights))
    total = max(1, sum(len(image.labels) for image, _ in seen))
    return tuple(
        PhraseRow(
            text=text,
            kind="agnostic" if row in menu.agnostic else "specific",
            source=sources.get(text, "champion"),
            weight=knobs.weights[row],
            coverage=_reached(seen, row, FOUND) / total,
            precision=_precision(seen, row),
            recall=_reached(seen, row, MATCH) / total,
            unique=float(values[0] - values[1 + row]),
            overlap=_overlap(menu.correlation, row),
            unknown_words=tuple(unknown.get(text, ())),
        )
        for row, text in enumerate(texts)
    )


def _reached(seen: Sequence[tuple[ImageEvidence, tuple[Shown, ...]]], row: int, least: float) -> int:
    """Reviewed regions that a region shown under a phrase overlaps that much."""
    reached = 0
    for image, regions in seen:
        mine = [region.iou for region in regions if region.phrase == row]
        reached += int((np.max(mine, axis=0) >= least).sum()) if mine and image.labels else 0
    return reached


def _precision(seen: Sequence[tuple[ImageEvidence, tuple[Shown, ...]]], row: int) -> float | None:
    right = [region.right for _, regions in seen for region in regions if region.phrase == row]
    return float(np.mean(right)) if right else None


def _overlap(correlation: Floats, row: int) -> float | None:
    others = np.delete(correlation[row], row)
    return float(others.max()) if others.size else None


def curves(judge: Judge, tally: Tally, menu: Menu, weights: Floats, before: Knobs, after: Knobs) -> tuple[Curve, ...]:
    """The numbers that matter, each swept with all others as refined."""
    return tuple(
        _curve(judge, tally, weights, name, menu.sweeps[name], before, after) for name in _CURVES if name in menu.sweeps
    )


def _curve(
    judge: Judge, tally: Tally, weights: Floats, name: str, values: Sequence[float], before: Knobs, after: Knobs
) -> Curve:
    own = {getattr(before, name), getattr(after, name)}
    tried = sorted({value for value in (*values, *own) if not math.isinf(value)})
    counts = judge.counts([moved(after, **{name: value}) for value in tried])
    alarms = tally.false_alarms(counts, weights)
    return Curve(
        name=_CURVES[name],
        values=tuple(tried),
        objective=tuple(np.nan_to_num(tally.objective(counts, weights)).tolist()),
        false_alarms=None if np.isnan(alarms).any() else tuple(alarms.tolist()),
        before=_finite(getattr(before, name)),
        after=_finite(getattr(after, name)),
    )


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else value


def changes(
    judge: Judge, tally: Tally, searched: NDArray[np.bool_], before: Knobs, after: Knobs
) -> tuple[ImageChange, ...]:
    """Images that two bundles decide differently, the greatest loss first."""
    values = [_each(tally, counts) for counts in judge.counts([before, after])]
    rows = zip(judge.images, searched, *values, strict=True)
    found = [
        ImageChange(image.image, image.name, float(then), float(now), not seen)
        for image, seen, then, now in rows
        if abs(now - then) > _SAME
    ]
    return tuple(sorted(found, key=lambda each: (each.after - each.before, each.image)))


def _each(tally: Tally, counts: NDArray[np.float32]) -> Floats:
    """Pixel F1 of each defective image; of a good one, 1 if nothing is shown on it."""
    values = f1(counts[:, HIT], counts[:, ALARM], tally.truth)
    return np.where(tally.good, counts[:, SHOWN] == 0, values).astype(np.float64)


def acceptance(judge: Judge, knobs: Knobs, target: float) -> Acceptance:
    """From which confidence on a bundle's regions need no review, by the random slice alone."""
    regions = [region for image, each in shown(judge, knobs) if not image.aided for region in each]
    confidences = np.array([region.confidence for region in regions], np.float64)
    return accept(confidences, np.array([region.right for region in regions], np.bool_), target)


def trials(search: Searcher, chosen: Knobs, texts: Sequence[str], sources: Mapping[str, str]) -> tuple[Trial, ...]:
    """What a search tried, in its order."""
    return tuple(
        Trial(
            what=_said(step, texts, sources),
            objective=step.objective if math.isfinite(step.objective) else None,
            taken=step.taken and _holds(step, chosen),
            why=_why(step, chosen),
        )
        for step in search.steps
    )


def _why(step: Step, chosen: Knobs) -> str:
    if not math.isfinite(step.objective):
        return "more false alarms on good images than the champion's, or fewer regions of a label found"
    if not step.taken:
        return f"gains nothing ({step.gain:+.3f})"
    if step.gain <= 0:
        return f"simpler, and costs {-step.gain:.3f}, less than its standard error"
    return f"gains {step.gain:+.3f}" + ("" if _holds(step, chosen) else ", but a later step replaced it")


def _holds(step: Step, chosen: Knobs) -> bool:
    """Whether what a step changed is as it left it."""
    return all(_at(chosen, place) == _at(step.after, place) for place in _changed(step))


def _said(step: Step, texts: Sequence[str], sources: Mapping[str, str]) -> str:
    return ", ".join(_said_of(step, place, texts, sources) for place in _changed(step))


def _said_of(step: Step, place: tuple[str, int | None], texts: Sequence[str], sources: Mapping[str, str]) -> str:
    name, row = place
    before, after = (f"{_at(knobs, place):g}" for knobs in (step.before, step.after))
    if row is None:
        return f"{name} {before} -> {after}"
    reason = f" ({sources[texts[row]]})" if texts[row] in sources else ""
    if name == "thresholds":
        return f"threshold of {texts[row]!r} {before} -> {after}"
    if after == "0":
        return f"silence {texts[row]!r}"
    return f"use {texts[row]!r}{reason}" if before == "0" else f"weight of {texts[row]!r} {before} -> {after}"


def _changed(step: Step) -> list[tuple[str, int | None]]:
    """What differs: names of numbers, with the phrase's row where they are of phrases."""
    found: list[tuple[str, int | None]] = []
    for name in Knobs._fields:
        old, new = getattr(step.before, name), getattr(step.after, name)
        if isinstance(old, tuple):
            found += [(name, row) for row, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1]]
        elif old != new:
            found.append((name, None))
    return found


def _at(knobs: Knobs, place: tuple[str, int | None]) -> float:
    value = getattr(knobs, place[0])
    return float(value if place[1] is None else value[place[1]])
