"""The figures of a refinement before and after: the few at the top of its report, and the whole table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from integrations.report import verdict
from integrations.report.page import duration
from saa_core.refinement.outcome import Figures, Interval, Refinement

_UNSEEN: Final = {"share": 5e-4, "percent": 5e-4, "seconds": 0.05}  # differences that the decimals shown hide


@dataclass(frozen=True, slots=True)
class Fact:
    """A figure at the top of the page.

    Attributes:
        name: What it is.
        value: The figure.
        note: Its uncertainty, or where it was measured.
        bad: Whether it speaks against the new bundle.
    """

    name: str
    value: str
    note: str
    bad: bool = False


def facts(refinement: Refinement) -> Iterator[Fact]:
    """The figures that decide, or, where no new bundle was measured, what has been reviewed so far."""
    if refinement.gain is not None:
        yield _gain(refinement.gain, refinement.resamples)
    if refinement.after is None:
        yield from _reviewed(refinement)
        return
    yield _held_out(refinement)
    yield _compared(refinement, "False alarms on good images", "false_alarms", "percent")
    yield _compared(refinement, "Expert's time an image", "seconds", "seconds")
    worse, better = len(verdict.losses(refinement)), len(verdict.gains(refinement))
    yield Fact("Images that change", f"{better} better, {worse} worse", "all are listed below", worse > better)


def _gain(found: Interval, resamples: int) -> Fact:
    ends = f"{verdict.signed(found.lower)} to {verdict.signed(found.upper)}"
    reach = f"{ends} in the middle 60 % of {verdict.plural(resamples, 'resample')}"
    return Fact("Expected gain in agreement", verdict.signed(found.mean), reach, found.lower <= 0)


def _reviewed(refinement: Refinement) -> Iterator[Fact]:
    for kind, number in (("defective", refinement.evidence.defective), ("good", refinement.evidence.good)):
        more = refinement.missing.get(kind, 0)
        yield Fact(f"Reviewed, {kind}", str(number), f"{more} more needed" if more else "enough", more > 0)
    yield Fact("Lots", str(refinement.evidence.lots), "that the images come from")


def _held_out(refinement: Refinement) -> Fact:
    name, images = "Agreement on held-out images", verdict.plural(refinement.evidence.held_out, "image")
    before, after = refinement.held_before, refinement.held_after
    if before is None or after is None:
        return Fact(name, "not looked at", f"{images} held out", bad=True)
    bad = _change(before.objective, after.objective, "share").kind == "worse"
    value = f"{_text(before.objective, 'share')} → {_text(after.objective, 'share')}"
    return Fact(
        name, value, f"{images} that the search never saw, look {refinement.looks}; measured once, no interval", bad
    )


def _compared(refinement: Refinement, name: str, metric: str, kind: str) -> Fact:
    """Before and after: on the held-out images if somebody looked, else on those that the search saw."""
    where, before, after = _apart(refinement)
    old, new = getattr(before, metric, None), getattr(after, metric, None)
    if old is None or new is None:
        return Fact(name, "–", "not defined: no such image was reviewed")
    note = f"on the {where} images"
    if kind == "seconds":
        note = f"{duration(abs(100 * (old - new)))} {'less' if new <= old else 'more'} for 100 images, {note}"
    return Fact(name, f"{_text(old, kind)} → {_text(new, kind)}", note, _change(old, new, kind).kind == "worse")


def _apart(refinement: Refinement) -> tuple[str, Figures | None, Figures | None]:
    if refinement.held_after is None:
        return "searched", refinement.before, refinement.after
    return "held-out", refinement.held_before, refinement.held_after


# ----------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure as text, and whether it is `better`, `worse` or neither."""

    text: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: what it is, before, after and change on the images searched, the same held out, and the control."""

    name: str
    meaning: str
    cells: tuple[Cell, ...]


_METRICS: Final = (
    ("objective", "Agreement with the experts", "mean of pixel F1 and region F1", "share"),
    (
        "pixel_f1",
        "Map F1",
        "how well the anomaly map fits where the bundle cuts it; masks come from the regions",
        "share",
    ),
    ("pixel_precision", "Pixel precision", "share of the marked pixels that are defect", "share"),
    ("pixel_recall", "Pixel recall", "share of the defects' pixels that are marked", "share"),
    ("region_f1", "Region F1", "how well the regions fit, one to one, IoU 0.5", "share"),
    ("region_precision", "Region precision", "share of the shown regions that are right", "share"),
    ("region_recall", "Region recall", "share of the experts' regions that are shown", "share"),
    ("false_alarms", "False alarms", "share of the good images with a region; less is better", "percent"),
    ("seconds", "Expert's time an image", "expected; less is better", "seconds"),
)


def rows(refinement: Refinement) -> Iterator[Row]:
    """Of every figure that is defined anywhere, then the recall of each label."""
    columns = refinement.before, refinement.after, refinement.held_before, refinement.held_after, refinement.control
    for name, title, meaning, kind in _METRICS:
        values = [None if figures is None else getattr(figures, name) for figures in columns]
        if any(value is not None for value in values):
            yield Row(title, meaning, _cells(values, kind))
    for label in sorted({label for figures in columns if figures is not None for label in figures.recall}):
        values = [None if figures is None else figures.recall.get(label) for figures in columns]
        yield Row(f"Recall of “{label}”", "share of its pixels that are marked", _cells(values, "share"))


def groups(shown: Sequence[Row], held_out: int) -> list[tuple[str, tuple[str, ...], list[int]]]:
    """Heading, headings of the columns, and numbers of the cells of each group of columns that says anything."""
    both = ("before", "after", "change")
    every = [
        ("Images searched", both, [0, 1, 2]),
        (f"Held-out images ({held_out})", both, [3, 4, 5]),
        ("Control", ("general words",), [6]),
    ]
    return [group for group in every if any(row.cells[cell].text != "–" for row in shown for cell in group[2])]


def _cells(values: Sequence[float | None], kind: str) -> tuple[Cell, ...]:
    before, after, held_before, held_after, control = values
    return (
        *(Cell(_text(value, kind)) for value in (before, after)),
        _change(before, after, kind),
        *(Cell(_text(value, kind)) for value in (held_before, held_after)),
        _change(held_before, held_after, kind),
        Cell(_text(control, kind)),
    )


def _text(value: float | None, kind: str) -> str:
    if value is None:
        return "–"
    return {"share": f"{value:.3f}", "percent": f"{value:.1%}", "seconds": f"{value:.1f} s"}[kind]


def _change(before: float | None, after: float | None, kind: str) -> Cell:
    if before is None or after is None:
        return Cell("–")
    more = after - before
    if abs(more) < _UNSEEN[kind]:
        return Cell("same")
    said = {"share": f"{more:+.3f}", "percent": f"{100 * more:+.1f} pt", "seconds": f"{more:+.1f} s"}[kind]
    good = (more > 0) == (kind == "share")
    return Cell(said.replace("-", "−"), "better" if good else "worse")
