"""Small plots of the refinement report: where each line and mark goes, in the units of an SVG view box."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from saa_core.refinement.outcome import Curve, Interval

WIDTH, HEIGHT = 300, 110
"""Of a plot's area."""

_LOG_FROM = 50.0  # spread of positive values from which on their logarithm is shown
_UNLIMITED = 0.93  # share of the width that finite values have where one is "no limit"


@dataclass(frozen=True, slots=True)
class Mark:
    """A value of the number that a bundle has.

    Attributes:
        x: In the view box.
        text: Of the value.
        kind: `before`, `after`, or `same` where both bundles have it.
    """

    x: float
    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Plot:
    """One curve, ready to draw.

    Attributes:
        name: Path of the number in the bundle.
        objective: Points of the line, for SVG.
        alarms: Points of the line of false alarms; empty where there are none.
        top: Value at the upper end; the lower end is 0.
        ends: Text of the least and the largest value.
        log: Whether values are spaced by their logarithm.
        marks: The bundles' values.
    """

    name: str
    objective: str
    alarms: str
    top: float
    ends: tuple[str, str]
    log: bool
    marks: tuple[Mark, ...]


def plot(curve: Curve, top: float) -> Plot:
    """Where the lines of one curve go.

    Args:
        curve: At least one value.
        top: Value at the upper end, the same for all curves of a page so that they can be compared.
    """
    axis = _Axis(curve)
    return Plot(
        name=curve.name,
        objective=_points(axis, curve.values, curve.objective, top),
        alarms="" if curve.false_alarms is None else _points(axis, curve.values, curve.false_alarms, top),
        top=top,
        ends=axis.ends,
        log=axis.log,
        marks=tuple(_marks(axis, curve)),
    )


def top_of(curves: Sequence[Curve]) -> float:
    """The next tenth above every value of every curve, at least 0.1."""
    highest = max((max((*curve.objective, *(curve.false_alarms or ()))) for curve in curves), default=0.0)
    return max(math.ceil(10 * highest - 1e-9), 1) / 10


class _Axis:
    """From a value of the number to its place; None and infinity, both no limit, are at the right end."""

    def __init__(self, curve: Curve) -> None:
        shown = [*curve.values, curve.before, curve.after]
        finite = [value for value in shown if value is not None and math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        unlimited = len(finite) < len(shown)
        self.ends = number(low), f"{number(high)}, then no limit" if unlimited else number(high)
        self.log = low > 0 and high / low >= _LOG_FROM
        self._low, self._high = self._scaled(low), self._scaled(high)
        self._width = WIDTH * (_UNLIMITED if unlimited else 1.0)

    def __call__(self, value: float | None) -> float:
        if value is None or math.isinf(value):
            return WIDTH
        if self._high == self._low:
            return self._width / 2
        return round(self._width * (self._scaled(value) - self._low) / (self._high - self._low), 1)

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else value


def _points(axis: _Axis, values: Sequence[float], shares: Sequence[float], top: float) -> str:
    pairs = zip(values, shares, strict=True)
    return " ".join(f"{axis(value)},{HEIGHT * (1 - share / top):.1f}" for value, share in pairs)


def _marks(axis: _Axis, curve: Curve) -> Iterator[Mark]:
    if curve.before == curve.after:
        yield Mark(axis(curve.after), number(curve.after), "same")
        return
    yield Mark(axis(curve.before), number(curve.before), "before")
    yield Mark(axis(curve.after), number(curve.after), "after")


@dataclass(frozen=True, slots=True)
class Span:
    """An interval on a line with 0 on it, all in percent of the line's length from the left.

    Attributes:
        zero: Where 0 is.
        lower: Left end.
        mean: The dot.
        upper: Right end.
    """

    zero: float
    lower: float
    mean: float
    upper: float


def span(interval: Interval) -> Span:
    """Where the ends of an interval and 0 go on a line that holds both with room on either side."""
    low, high = min(interval.lower, interval.mean, 0.0), max(interval.upper, interval.mean, 0.0)
    room = 0.15 * (high - low) or 0.01
    left, whole = low - room, high - low + 2 * room
    places = (round(100 * (value - left) / whole, 1) for value in (0.0, interval.lower, interval.mean, interval.upper))
    return Span(*places)


def number(value: float | None) -> str:
    """At most four significant decimals; None and infinity are no limit."""
    return "no limit" if value is None or math.isinf(value) else f"{value:.4g}"
