"""The search for better numbers: sweeps, phrases, coupled numbers, and back towards the simpler bundle.

A search is a generator: it yields bundles to judge and is sent their counts. So one search on the evidence and a
hundred on resamples of it run side by side and share what is judged, and the guard repeats exactly what was done.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from saa_core.refinement.judge import Judge
from saa_core.refinement.knobs import DIGITS, Knobs
from saa_core.refinement.menu import Menu
from saa_core.refinement.objective import Counts, Tally

Floats = NDArray[np.float64]
Search = Generator[Sequence[Knobs], Counts, Knobs]
"""Yields bundles, is sent their counts (C, I, 5 + L), returns the one it chose."""

Scope = Literal["all", "threshold", "general"]
"""What a search may move: everything, the cut of the map alone, or everything but the class-specific phrases, which it
silences: the generic control."""
_CUT = 0.005  # the step of `evidence.LEVELS`
_SHIFTS = np.round(np.arange(-5, 6) * 0.03, 2)
"""Around the threshold, when the phrases change and with them the level of the map."""
_PLATEAU = 2
_WEIGHTS = (0.5, 2.0)
_ALIKE = 0.1
"""Phrases whose gains differ by less than this part are told apart by what they repeat of the chosen ones."""
LABEL_LEAST = 3
"""Labels with fewer reviewed regions have no limit: one region more or less would decide."""
_LABEL_LOSS = 0.05
"""How much of a label's regions an option may stop finding: less than the guard lets pass on images left out."""
_CERTAIN = 1e-9
_DECIMALS = 9


@dataclass(frozen=True, slots=True)
class Step:
    """Something that was tried.

    Attributes:
        before: What the search had.
        after: What it tried instead.
        objective: Of that.
        gain: Over what it had.
        taken: Whether it went on with it.
    """

    before: Knobs
    after: Knobs
    objective: float
    gain: float
    taken: bool


@dataclass(slots=True)
class Searcher:
    """One search.

    Attributes:
        start: The champion.
        menu: What may be tried.
        tally: What counts.
        weights: float64 (I,), how often each image counts.
        lots: int (I,), the lot of each image, for the standard errors.
        scope: What may be moved.
        steps: What was tried, in order: all that was taken, and of the phrases and coupled numbers what was not.
    """

    start: Knobs
    menu: Menu
    tally: Tally
    weights: Floats
    lots: NDArray[np.intp]
    scope: Scope = "all"
    steps: list[Step] = field(default_factory=list, init=False)

    def run(self) -> Search:
        """The search."""
        if self.scope == "threshold":
            return (yield from self._best(self.start, self._swept(self.start, "threshold"), _PLATEAU))
        best = self._silent(self.start) if self.scope == "general" else self.start
        best = yield from self._sweep(best)
        best = yield from self._choose_phrases(best)
        best = yield from self._couple(best)
        best = yield from self._sweep(best)
        return (yield from self._simplify(best)) if self.scope == "all" else best

    # ------------------------------------------------------------------------------------------------------- the steps

    def _sweep(self, best: Knobs) -> Search:
        """Each number in turn, over its break points."""
        for name in self.menu.sweeps:
            width = _PLATEAU if name in ("threshold", "region_floor") else 0
            best = yield from self._best(best, self._swept(best, name), width)
        for row in range(len(best.weights)):
            options = (_replaced(best.thresholds, row, value) for value in self.menu.sweeps["score_floor"][::4])
            best = yield from self._best(best, [best._replace(thresholds=each) for each in options])
        return best

    def _choose_phrases(self, best: Knobs) -> Search:
        """Forward from the general phrases that speak, then back; then the weights."""
        rows = self._eligible()
        if not rows:
            return best
        current, left = self._silent(best), list(rows)
        current = yield from self._best(current, shifted(current))
        while left:
            gained = yield from self._most(current, [self._spoken(current, row) for row in left])
            if gained is None:
                break
            place, current = gained
            left.pop(place)
        for row in [row for row in rows if current.weights[row]]:
            dropped = weighted(current, row, 0.0)
            current = yield from self._best(current, shifted(dropped))
        best = yield from self._best(best, [current])
        for row in [row for row, weight in enumerate(best.weights) if weight]:
            options = [weighted(best, row, weight) for weight in _WEIGHTS]
            best = yield from self._best(best, [one for each in options for one in shifted(each)])
        return best

    def _eligible(self) -> list[int]:
        """Phrases to choose from: the specific ones, but for the control, and general ones that do not speak yet."""
        mute = [row for row in self.menu.agnostic if not self.start.weights[row]]
        return [*mute, *(self.menu.specific if self.scope == "all" else ())]

    def _couple(self, best: Knobs) -> Search:
        """Numbers that depend on one another, all at once."""
        return (yield from self._best(best, [moved(best, **each) for each in self.menu.coupled]))

    def _simplify(self, best: Knobs) -> Search:
        """Back to the champion's numbers, one by one: the loss within one standard error, and no worse than it."""
        chosen = best
        while True:
            options = list(self._reverted(chosen))
            counts = yield [self.start, best, *options]
            losses, errors = self._losses(counts[1:])
            values = self._values(counts)[1:]
            small = (losses <= errors + _CERTAIN) & (values >= self._objective(counts)[0])
            allowed = np.flatnonzero(small)
            if not allowed.size:
                return chosen
            place = int(allowed[np.argmin(losses[allowed])])
            self.steps.append(Step(chosen, options[place], float(values[place]), -float(losses[place]), taken=True))
            chosen = options[place]

    # ------------------------------------------------------------------------------------------------------- the choice

    def _best(self, best: Knobs, options: Sequence[Knobs], width: int = 0) -> Search:
        """The best option, or `best` where none is better.

        Args:
            best: What the search has.
            options: In the order of the number that they differ in.
            width: An option counts as the mean of itself and so many neighbours on either side: a plateau is a safer
                place than a peak.
        """
        if not options:
            return best
        counts = yield [self.start, best, *options]
        values = self._values(counts)
        levels = _smoothed(values[1:], width)
        # Of equals the first, which is what we have; what we have may alarm too often for the resample at hand.
        place = 1 + int(np.argmax(levels > levels.max() - _CERTAIN))
        if not values[place] > values[0] + _CERTAIN:
            return best
        gain = float(values[place] - self._objective(counts)[1])
        self.steps.append(Step(best, options[place - 1], float(values[place]), gain, taken=True))
        return options[place - 1]

    def _most(
        self, current: Knobs, options: Sequence[Sequence[Knobs]]
    ) -> Generator[Sequence[Knobs], Counts, tuple[int, Knobs] | None]:
        """Of groups of options the group whose best gains most, or about as much and repeats less."""
        counts = yield [self.start, current, *(each for group in options for each in group)]
        values, had = self._values(counts), float(self._objective(counts)[1])
        grouped = values[1:].reshape(len(options), -1)
        gains = grouped.max(axis=1) - had
        tried = [group[int(row.argmax())] for group, row in zip(options, grouped, strict=True)]
        if not gains.max() > _CERTAIN:
            self.steps += [Step(current, *each, taken=False) for each in zip(tried, gains + had, gains, strict=True)]
            return None
        alike = np.flatnonzero(gains >= (1 - _ALIKE) * gains.max())
        group = int(min(alike, key=lambda each: (self._repeats(current, tried[each]), each)))
        self.steps.append(Step(current, tried[group], float(gains[group] + had), float(gains[group]), taken=True))
        return group, tried[group]

    def _repeats(self, current: Knobs, option: Knobs) -> float:
        """Highest correlation of what an option adds with a phrase that speaks already."""
        speaking = np.flatnonzero(current.weights)
        added = np.flatnonzero((np.array(option.weights) > 0) & (np.array(current.weights) == 0))
        return float(self.menu.correlation[np.ix_(added, speaking)].max(initial=-1))

    def _values(self, counts: Counts) -> Floats:
        """Objectives of all but the first of the counts, the champion's; what is not allowed is worth nothing."""
        return np.where(self._allowed(counts), self._objective(counts), -np.inf)[1:]

    def _objective(self, counts: Counts) -> Floats:
        """Rounded: equal bundles stay equal, in whatever order their images are summed."""
        known = np.nan_to_num(self.tally.objective(counts, self.weights), nan=-1.0)
        return np.asarray(np.round(known, _DECIMALS), np.float64)

    def _allowed(self, counts: Counts) -> NDArray[np.bool_]:
        """Which bundles alarm no more often than the first of the counts, the champion, and find of each label as much.

        The guard asks for both; a search that does not know of it chooses what will be refused.
        """
        rates, found = self.tally.false_alarms(counts, self.weights), self.tally.found(counts, self.weights)
        limited = self.weights @ self.tally.label_regions >= LABEL_LEAST
        lost = (found[0] - found)[:, limited].max(axis=1, initial=0)
        quiet = np.isnan(rates) | (rates <= rates[0] + _CERTAIN)
        return np.asarray(quiet & (lost <= _LABEL_LOSS + _CERTAIN), np.bool_)

    def _losses(self, counts: Counts) -> tuple[Floats, Floats]:
        """What each bundle but the first loses against the first, and the standard error of it by jackknife."""
        present = np.unique(self.lots[self.weights > 0])
        without = self.weights * (self.lots != present[:, None])
        whole, parts = self._objective(counts), np.nan_to_num(self.tally.objective(counts, without), nan=-1.0)
        losses, spread = whole[:1] - whole[1:], parts[:, :1] - parts[:, 1:]
        variance = (len(present) - 1) * spread.var(axis=0)
        return losses, np.sqrt(variance)

    # ------------------------------------------------------------------------------------------------------- the moves

    def _swept(self, knobs: Knobs, name: str) -> list[Knobs]:
        return [moved(knobs, **{name: value}) for value in self.menu.sweeps[name]]

    def _silent(self, knobs: Knobs) -> Knobs:
        weights = [0.0 if row in self.menu.specific else weight for row, weight in enumerate(knobs.weights)]
        if not any(weights):
            return knobs  # without general phrases nothing would speak
        return knobs._replace(weights=tuple(weights))

    def _spoken(self, knobs: Knobs, row: int) -> list[Knobs]:
        return shifted(weighted(knobs, row, 1.0))

    def _reverted(self, knobs: Knobs) -> Iterator[Knobs]:
        for name in Knobs._fields:
            now, then = getattr(knobs, name), getattr(self.start, name)
            if now == then:
                continue
            if not isinstance(now, tuple):
                yield moved(knobs, **{name: then})
                continue
            for row, (value, old) in enumerate(zip(now, then, strict=True)):
                if value != old:
                    yield moved(knobs, **{name: _replaced(now, row, old)})


def moved(knobs: Knobs, **numbers: Any) -> Knobs:
    """The same with numbers replaced, by name."""
    return knobs._replace(**numbers)


def weighted(knobs: Knobs, row: int, weight: float) -> Knobs:
    """The same with another weight of one phrase; 0 silences it."""
    return knobs._replace(weights=_replaced(knobs.weights, row, weight))


def shifted(knobs: Knobs) -> list[Knobs]:
    """The same at thresholds around its own: new phrases change the level of the map."""
    cuts = np.clip(np.round((knobs.threshold + _SHIFTS) / _CUT) * _CUT, _CUT, 1 - _CUT)
    return [knobs._replace(threshold=float(np.round(cut, DIGITS))) for cut in cuts]


def run_together(searches: Sequence[Searcher], judge: Judge) -> list[Knobs]:
    """Run searches side by side; what several ask for is judged once."""
    running = {number: search.run() for number, search in enumerate(searches)}
    asked = {number: next(search) for number, search in running.items()}
    chosen: dict[int, Knobs] = {}
    while asked:
        places = {knobs: place for place, knobs in enumerate(dict.fromkeys(k for each in asked.values() for k in each))}
        counts = judge.counts(list(places))
        following = {}
        for number, wanted in asked.items():
            try:
                following[number] = running[number].send(counts[[places[knobs] for knobs in wanted]])
            except StopIteration as end:
                chosen[number] = end.value
        asked = following
    return [chosen[number] for number in range(len(searches))]


def _smoothed(values: Floats, width: int) -> Floats:
    """Means over 2 `width` + 1 values, the ends repeated."""
    padded = np.pad(values, width, mode="edge")
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, 2 * width + 1).mean(axis=1), np.float64)


def _replaced(values: tuple[float, ...], place: int, value: float) -> tuple[float, ...]:
    return (*values[:place], value, *values[place + 1 :])
