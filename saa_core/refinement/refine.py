"""One refinement: evidence in, a better bundle or a plain refusal out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from saa_core.prompts import PromptBundle
from saa_core.refinement import account
from saa_core.refinement.acceptance import accepted
from saa_core.refinement.guard import RISKY, STRICT, Gate, Resampled, gate_for, resample
from saa_core.refinement.judge import NEAR, SHOWN, EvidenceSet, Judge
from saa_core.refinement.knobs import Knobs
from saa_core.refinement.menu import Menu
from saa_core.refinement.objective import Tally
from saa_core.refinement.outcome import Effort, EvidenceSummary, Figures, ImageChange, Outcome, Refinement, Trial
from saa_core.refinement.search import Scope, Searcher, run_together

RESAMPLES = 200
HELD_LEAST = 4
HELD_LOSS = 0.05
"""With fewer than `HELD_LEAST` defective images held out, a smaller loss on them is shown, not obeyed: it is an
accident as often as not."""
_COUPLED = 16  # of the budget, so many are settings of the coupled numbers; the sweeps take the most


@dataclass(frozen=True, slots=True)
class Question:
    """What is refined, and how.

    Attributes:
        product: What is inspected.
        champion: The bundle that decides so far.
        first: Whether nothing was ever promoted for the product.
        effort: What experts spend.
        sources: Where phrases come from that the champion does not have, by text.
        unknown: Words that the models cannot use, by phrase.
        seed: Of everything random.
        budget: Bundles to try, about.
        resamples: Bootstraps of the whole selection.
        risk: Whether the looser gate may be used; only for a first bundle.
        target: Precision that is asked for before regions are accepted without review.
    """

    product: str
    champion: PromptBundle
    first: bool
    effort: Effort
    sources: Mapping[str, str] = field(default_factory=dict)
    unknown: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seed: int = 0
    budget: int = 2000
    resamples: int = RESAMPLES
    risk: bool = False
    target: float = 0.95

    @property
    def gate(self) -> Gate:
        """What a promotion needs."""
        return gate_for(risk=self.risk, first=self.first)


@dataclass(frozen=True, slots=True)
class Wider:
    """The champion with new phrases.

    Attributes:
        bundle: The champion, and the new phrases with a weight of 0.
        sets: The evidence gathered for it: of the same images in the same order.
        dropped: Phrases that were tried on few images and did not come that far.
    """

    bundle: PromptBundle
    sets: Sequence[EvidenceSet]
    dropped: tuple[Trial, ...] = ()


def refine(
    question: Question,
    sets: Sequence[EvidenceSet],
    held: Mapping[str, bool],
    summary: EvidenceSummary,
    wider: Wider | None = None,
) -> Refinement:
    """Look for a better bundle, and say whether it may decide.

    Args:
        question: What is refined.
        sets: The evidence, gathered for the champion's phrases.
        held: Lots, and whether they are held out.
        summary: What the evidence is.
        wider: New phrases to try as well.

    Returns:
        The refinement; `outcome` is ``promoted`` where the guard lets the bundle pass, and who called promotes it.

    Raises:
        ValueError: The wider evidence is of other images.
    """
    own = question.champion.changed(product=question.product)
    judge = Judge(own, sets)
    searched = np.array([not held.get(image.lot, False) for image in judge.images], np.bool_)
    contests = [_Contest(question, judge, searched, Knobs.of(own))]
    if wider is not None:
        contests.append(_widened(contests[0], wider))
    dropped = () if wider is None else wider.dropped
    return _Work(question, contests, replace(summary, held_out=int((~searched).sum())), dropped).refinement()


@dataclass
class _Contest:
    """Searches over one body of evidence."""

    question: Question
    judge: Judge
    searched: NDArray[np.bool_]
    start: Knobs
    tried: int = 0

    @cached_property
    def tally(self) -> Tally:
        return Tally(self.judge.images, self.judge.labels)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        return self.searched.astype(np.float64)

    @cached_property
    def menu(self) -> Menu:
        images = [image for image, seen in zip(self.judge.images, self.searched, strict=True) if seen]
        neighbours, trials = self.judge.sets[0].neighbours, self.question.budget // _COUPLED
        return Menu.of(self.judge.bundle, images, neighbours, self.question.seed, trials)

    @cached_property
    def searches(self) -> dict[Scope, Searcher]:
        lots = np.unique([image.lot for image in self.judge.images], return_inverse=True)[1]
        return {
            scope: Searcher(self.start, self.menu, self.tally, self.weights, lots, scope) for scope in get_args(Scope)
        }

    @cached_property
    def chosen(self) -> dict[Scope, Knobs]:
        found = run_together(list(self.searches.values()), self.judge)
        self.tried = self.judge.judged
        return dict(zip(self.searches, found, strict=True))

    def figures(self, knobs: Knobs, images: NDArray[np.bool_]) -> Figures:
        return self.tally.figures(self.judge.counts([knobs]), images.astype(np.float64), self.question.effort)

    def option(self, scope: Scope) -> _Option | None:
        """What a search chose, resampled; None where it stays with the champion."""
        knobs, question = self.chosen[scope], self.question
        if knobs == self.start:
            return None
        lots = [image.lot for image in self.judge.images]
        found = resample(
            self.judge, self.tally, self.menu, lots, self.searched, scope, question.seed, question.resamples
        )
        return _Option(self, knobs, found, found.refusals(question.gate))


@dataclass(frozen=True, slots=True)
class _Option:
    """A bundle that a search chose, and what the guard says of it."""

    contest: _Contest
    knobs: Knobs
    found: Resampled
    refusals: tuple[str, ...]

    @property
    def gain(self) -> float:
        return float(self.found.gains.mean()) if self.found.gains.size else 0.0

    @property
    def bundle(self) -> PromptBundle:
        return self.knobs.applied(self.contest.judge.bundle, self.contest.question.champion.id)


def _widened(contest: _Contest, wider: Wider) -> _Contest:
    """The search with new phrases. Before they speak the champion decides, on its own candidates."""
    judge, start = Judge(wider.bundle, wider.sets), Knobs.of(wider.bundle)
    if [image.image for image in judge.images] != [image.image for image in contest.judge.images]:
        raise ValueError("the evidence for new phrases is of other images")
    judge.given[start] = contest.judge.counts([contest.start])[0]
    return _Contest(contest.question, judge, contest.searched, start)


@dataclass(slots=True)
class _Work:
    question: Question
    contests: list[_Contest]
    summary: EvidenceSummary
    dropped: tuple[Trial, ...]

    def refinement(self) -> Refinement:
        refusal = self._degenerate()
        if refusal is not None:
            return self._without(*refusal)
        options = [option for option in (contest.option("all") for contest in self.contests) if option]
        if not any(not option.refusals for option in options):
            # What needs more evidence was refused; the cut of the map alone may still be sure.
            options += [option for option in [self.contests[0].option("threshold")] if option]
        if not options:
            return self._kept(self.contests[-1], "no-better: nothing that was tried is better")
        best = max(options, key=lambda option: (not option.refusals, option.gain))
        return self._judged(best, [option for option in options if option is not best])

    # ------------------------------------------------------------------------------------ evidence that says too little

    def _degenerate(self) -> tuple[Outcome, str] | None:
        """The outcome and the reason where nothing can be searched."""
        evidence, contest = self.summary, self.contests[0]
        if not evidence.defective and not evidence.good:
            return "collect-more", "no-reviews: no image of this product has a review that counts"
        if not evidence.defective:
            return "collect-more", f"all-good: none of {evidence.good} reviewed images has a defect to find"
        missing = self._missing()
        if missing:
            more = " and ".join(f"{number} more {kind} image{'s' * (number > 1)}" for kind, number in missing.items())
            name = "too-few" if evidence.good else "no-good-images"
            return "collect-more", f"{name}: {more} to review{self._hint()}"
        if not contest.tally.truth[contest.searched].any():
            return "collect-more", "one-lot: all defective images are of one lot, or held out"
        return self._nothing_to_learn(contest)

    def _hint(self) -> str:
        """What of `risk` a person should know."""
        if self.question.risk and not self.question.first:
            return " (the looser gate of --risk is for a product's first bundle)"
        return " (less is needed with --risk)" if self.question.first and not self.question.risk else ""

    def _missing(self) -> dict[str, int]:
        return self.question.gate.missing(self.summary.defective, self.summary.good)

    def _nothing_to_learn(self, contest: _Contest) -> tuple[Outcome, str] | None:
        scores = [image.rows.scores.ravel() for image in contest.judge.images if image.rows.scores.size]
        if not scores:
            return "kept", "no-candidates: the models proposed no region on any reviewed image"
        if np.ptp(np.concatenate(scores)) == 0 and not any(image.dense for image in contest.judge.images):
            return "kept", "constant-scores: all candidates score alike, so no threshold can tell them apart"
        counts, regions = contest.judge.counts([contest.start])[0], contest.tally.regions
        if ((counts[:, NEAR] == regions) & (counts[:, SHOWN] == regions)).all():
            return "kept", "everything-accepted: experts found nothing to correct"
        return None

    def _without(self, outcome: Outcome, reason: str) -> Refinement:
        contest, missing = self.contests[0], self._missing() if outcome == "collect-more" else {}
        return self._refinement(outcome, [reason], contest, contest.start, None, missing=missing)

    # --------------------------------------------------------------------------------------------------------- the word

    def _kept(self, contest: _Contest, reason: str) -> Refinement:
        return self._refinement("kept", [reason], contest, contest.start, None, **self._account(contest, contest.start))

    def _judged(self, best: _Option, others: Sequence[_Option]) -> Refinement:
        contest, knobs = best.contest, best.knobs
        said = {"gain": best.found.interval(), "resamples": self.question.resamples, **self._account(contest, knobs)}
        if best.refusals:
            reasons = [f"refused: {reason}" for reason in best.refusals]
            return self._refinement("kept", reasons, contest, knobs, best.bundle, **said)
        first = self.contests[0]
        before, after = first.figures(first.start, ~first.searched), contest.figures(knobs, ~contest.searched)
        outcome, reasons = self._verdict(best, before, after)
        reasons += [f"more was tried, but {reason}" for option in others for reason in option.refusals]
        return self._refinement(
            outcome, reasons, contest, knobs, best.bundle, held_before=before, held_after=after, **said
        )

    def _verdict(self, best: _Option, before: Figures, after: Figures) -> tuple[Outcome, list[str]]:
        """Promoted, unless the held-out images disagree."""
        contest = best.contest
        lower = float(np.quantile(best.found.gains, 0.2))
        sure = f"better: {best.gain:+.3f} on images left out, {lower:+.3f} or more in four of five repetitions"
        held = int((~contest.tally.good & ~contest.searched).sum())
        change = (after.objective or 0) - (before.objective or 0)
        if change < (0 if held >= HELD_LEAST else -HELD_LOSS):
            return "proposed", [f"held-out-disagrees: {change:+.3f} on {held} defective images held out", sure]
        quiet = int((contest.tally.good & ~contest.searched).sum())
        rise = (after.false_alarms or 0) - (before.false_alarms or 0)
        if rise > self.question.gate.alarms and round(rise * quiet) > 1:
            return "proposed", [f"held-out-disagrees: {rise:+.0%} false alarms on {quiet} good images held out", sure]
        return "promoted", [sure, *self._cautions(contest, change, held)]

    def _cautions(self, contest: _Contest, change: float, held: int) -> list[str]:
        """What the figures do not know."""
        cautions = []
        if change < 0:
            cautions.append(
                f"the {held} defective images held out say otherwise ({change:+.3f}), but are too few to decide"
            )
        if self.summary.good < STRICT.good:
            few = "no-good-images" if not self.summary.good else "few-good-images"
            cautions.append(f"{few}: little limits its false alarms, review good images soon")
        if contest is not self.contests[0]:
            cautions.append("its new phrases were raced on all images that were searched: the gain flatters a little")
        return cautions

    # ------------------------------------------------------------------------------------------------------ the account

    def _account(self, contest: _Contest, knobs: Knobs) -> dict[str, Any]:
        question = self.question
        shared = contest.judge, contest.tally, contest.menu, contest.weights
        general = contest.figures(contest.chosen["general"], contest.searched)
        return {
            "configurations": sum(each.tried for each in self.contests),
            "control": general if self._has_control(contest) else None,
            "phrases": account.phrase_rows(*shared, knobs, question.sources, question.unknown),
            "curves": account.curves(*shared, contest.start, knobs),
            "tried": tuple(trial for each in self.contests for trial in self._trials(each, knobs, contest))
            + self.dropped,
        }

    def _has_control(self, contest: _Contest) -> bool:
        """Whether general words alone were searched, beside specific ones."""
        weights = contest.chosen["general"].weights
        return bool(contest.menu.specific) and not any(weights[row] for row in contest.menu.specific)

    def _trials(self, contest: _Contest, knobs: Knobs, winner: _Contest) -> tuple[Trial, ...]:
        chosen = knobs if contest is winner else contest.start
        return account.trials(contest.searches["all"], chosen, contest.judge.bundle.texts, self.question.sources)

    def _refinement(
        self,
        outcome: Outcome,
        reasons: Sequence[str],
        contest: _Contest,
        knobs: Knobs,
        proposed: PromptBundle | None,
        **said: Any,
    ) -> Refinement:
        question, first = self.question, self.contests[0]
        changes: tuple[ImageChange, ...] = ()
        if proposed is not None:
            changes = account.changes(contest.judge, contest.tally, contest.searched, contest.start, knobs)
        if "held_after" not in said:  # nobody looked at these
            changes = tuple(change for change in changes if not change.held_out)
        acceptance = account.acceptance(contest.judge, knobs, question.target)
        return Refinement(
            product=question.product,
            outcome=outcome,
            reasons=tuple(reasons),
            champion=question.champion,
            proposed=None if proposed is None else accepted(proposed, acceptance),
            seed=question.seed,
            risk=question.gate is RISKY,
            evidence=self.summary,
            before=first.figures(first.start, first.searched) if first.judge.images else None,
            after=contest.figures(knobs, contest.searched) if proposed is not None else None,
            changes=changes,
            acceptance=acceptance,
            effort=question.effort,
            **{"configurations": 0, "resamples": 0, **said},
        )
