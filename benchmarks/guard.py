"""How often the guard lets a worse bundle pass, and how much of a possible gain it lets through, by simulation.

    OMP_NUM_THREADS=1 python benchmarks/guard.py [--repetitions 200] [--profile paper|batch] [--verbose]

A product is a rule by which images arise: scratches and dents to find, dirt that is none, a phrase for each, and the
word "defect" that fits all of them somewhat. A population of its images is the truth that no refinement gets to see.
A refinement sees 40 of them, 20 with defects, in lots of two. Each repetition draws others, from one of several
products. Two questions:

1. The champion is the best that searches on 1000 images find. How often is a bundle promoted that does worse than it
   on the population? At most 3 %.
2. The champion listens to dirt, shows too much, and cuts its map too high. What part of what the bundle of question 1
   gains on it do 40 images bring, if only promotions count? At least 50 %.

Two processes; about half an hour for each question where two cores are free.
"""

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from products import GENERAL, KINDS, Product

from saa_core.language import calm_levels, peaks
from saa_core.prompts import LanguagePrompt, Phrase, PromptBundle
from saa_core.refinement.effort import DEFAULT
from saa_core.refinement.evidence import ImageEvidence, gather
from saa_core.refinement.guard import hold_out
from saa_core.refinement.judge import EvidenceSet, Judge
from saa_core.refinement.knobs import Knobs
from saa_core.refinement.menu import Menu
from saa_core.refinement.objective import Tally
from saa_core.refinement.outcome import EvidenceSummary, Refinement
from saa_core.refinement.refine import Question, refine
from saa_core.refinement.search import Searcher, run_together

PRODUCTS = 4
SEARCHED = 1000
"""Images of the population that the search for the best bundle sees; it is scored on all."""
EACH = 20
"""Reviewed images of each kind."""
Profile = Literal["paper", "batch"]
Floats = NDArray[np.float64]


# ----------------------------------------------------------------------------------------------------------- the truth


@dataclass(frozen=True)
class Population:
    """All images of a product, in lots of two, and the two champions.

    Attributes:
        images: In the order of the lots.
        poor: A champion that a search should improve on.
        best: What a search on many of the images finds.
    """

    images: tuple[ImageEvidence, ...]
    poor: PromptBundle
    best: PromptBundle

    def scores(self, champion: PromptBundle, bundles: Sequence[PromptBundle]) -> Floats:
        """The objective of bundles that descend from a champion, on all images."""
        judge = Judge(champion, [EvidenceSet(self.images, (), (champion.saliency.neighbours,))])
        tally = Tally(judge.images, judge.labels)
        return tally.objective(judge.counts([Knobs.of(bundle) for bundle in bundles]), np.ones(len(self.images)))


@cache
def population(number: int, profile: Profile, size: int) -> Population:
    """The population of one product."""
    rng = np.random.default_rng([number, 1])
    product = Product.drawn(rng)
    defective = rng.permutation(size) < size // 2
    shifts = np.repeat(rng.normal(0, product.shift, size // 2 + 1), 2)[:size]
    made = [
        product.image(rng, f"{number}/{place}", f"{number}/{place // 2}", shift, bool(bad))
        for place, (shift, bad) in enumerate(zip(shifts, defective, strict=True))
    ]
    calm = calm_levels(np.stack([peaks(image.candidates.evidence) for image in made]))
    poor = _poor(profile)
    images = tuple(
        gather(
            image.candidates, [image.saliency], poor, calm, image.truth,
            name=image.candidates.image, lot=image.lot, aided=True,
        )
        for image in made
    )  # fmt: skip
    return Population(images, poor, searched_on(images[:SEARCHED], poor))


def _poor(profile: Profile) -> PromptBundle:
    return PromptBundle(
        product="simulated",
        profile=profile,
        language=LanguagePrompt(
            agnostic=tuple(Phrase(text=text) for text in GENERAL), specific=tuple(Phrase(text=text) for text in KINDS)
        ),
        confidence={"top_k": 8, "suppression": 1.0},
        decision={"threshold": 0.75 if profile == "paper" else 0.6, "region_floor": 0.1},
    )


def searched_on(images: Sequence[ImageEvidence], champion: PromptBundle) -> PromptBundle:
    """The bundle at which searches on many images come to rest."""
    judge = Judge(champion, [EvidenceSet(tuple(images), (), (champion.saliency.neighbours,))])
    tally, everything = Tally(judge.images, judge.labels), np.ones(len(images))
    lots = np.unique([image.lot for image in images], return_inverse=True)[1]
    for _ in range(4):
        menu = Menu.of(champion, images, (champion.saliency.neighbours,), 0, 128)
        searcher = Searcher(Knobs.of(champion), menu, tally, everything, lots)
        found = run_together([searcher], judge)[0]
        if found == Knobs.of(champion):
            break
        champion = found.applied(champion, parent=champion.id)
    return champion


# ------------------------------------------------------------------------------------------------------- the simulation


@dataclass(frozen=True)
class Task:
    """One repetition."""

    number: int
    champion: Literal["best", "poor"]
    profile: Profile
    size: int


@dataclass(frozen=True)
class Result:
    """Of one repetition: objectives on the population.

    Attributes:
        had: The champion's.
        found: The refined bundle's; the champion's where none was found.
        best: The best bundle's.
    """

    task: Task
    outcome: str
    reason: str
    had: float
    found: float
    best: float
    seconds: float


def sample(images: Sequence[ImageEvidence], rng: np.random.Generator) -> tuple[ImageEvidence, ...]:
    """Whole lots, until there are `EACH` images with defects and as many without."""
    chosen: list[ImageEvidence] = []
    for first in rng.permutation(len(images) // 2) * 2:
        more = [*chosen, *images[first : first + 2]]
        if sum(image.good for image in more) <= EACH and sum(not image.good for image in more) <= EACH:
            chosen = more
    return tuple(chosen)


def refined(images: Sequence[ImageEvidence], champion: PromptBundle, number: int) -> Refinement:
    """What the program makes of the reviewed images."""
    defective = {lot: any(not i.good for i in images if i.lot == lot) for lot in {image.lot for image in images}}
    held = hold_out(f"simulated {number}", {}, defective)
    summary = EvidenceSummary(
        hash="0" * 16,
        defective=sum(not image.good for image in images),
        good=sum(image.good for image in images),
        undrawn=0,
        lots=len(defective),
        held_out=0,
        regions=sum(len(image.labels) for image in images),
    )
    question = Question("simulated", champion, first=False, effort=DEFAULT, sources={}, seed=number)
    return refine(question, [EvidenceSet(tuple(images), (), (champion.saliency.neighbours,))], held, summary)


def repeat(task: Task) -> Result:
    """One repetition."""
    start = perf_counter()
    whole = population(task.number % PRODUCTS, task.profile, task.size)
    champion = whole.best if task.champion == "best" else whole.poor
    images = sample(whole.images, np.random.default_rng([task.number, 2]))
    found = refined(images, champion, task.number)
    had, now, best = whole.scores(champion, [champion, found.proposed or champion, whole.best])
    return Result(task, found.outcome, found.reasons[0], had, now, best, perf_counter() - start)


def lines(results: Sequence[Result]) -> Iterator[str]:
    """The answer to one question."""
    promoted = [each for each in results if each.outcome == "promoted"]
    worse = [each for each in promoted if each.found < each.had - 1e-9]
    n = len(results)
    yield f"  promoted              {len(promoted):4} of {n}"
    yield f"  worse and promoted    {len(worse):4} of {n}: {len(worse) / n:.1%}"
    if worse:
        yield f"  their loss            {np.mean([e.had - e.found for e in worse]):.4f} on average"
    unguarded = sum(each.found < each.had - 1e-9 for each in results)
    yield f"  worse, guarded or not {unguarded:4} of {n}: {unguarded / n:.1%}"
    gains = np.array([each.found - each.had for each in promoted])
    possible = np.array([each.best - each.had for each in results])
    if possible.any():
        shares = np.array([(e.found - e.had) * (e.outcome == "promoted") / (e.best - e.had) for e in results])
        yield f"  best possible gain    {possible.mean():.4f} on average"
        yield f"  recovered             {shares.mean():.1%} of it (promotions alone: {gains.sum() / n:.4f} on average)"
    yield f"  seconds a repetition  {np.mean([each.seconds for each in results]):.1f}"


def main() -> None:
    """Print both answers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--population", type=int, default=3000)
    parser.add_argument("--profile", choices=("paper", "batch"), default="paper")
    parser.add_argument("--champion", choices=("best", "poor"), action="append")
    parser.add_argument("--verbose", action="store_true", help="one line a repetition")
    asked = parser.parse_args()
    for number in range(PRODUCTS):
        start = perf_counter()
        whole = population(number, asked.profile, asked.population)  # the processes inherit it
        had, best = whole.scores(whole.poor, [whole.poor, whole.best])
        print(
            f"product {number}: objective {had:.3f} poor, {best:.3f} best, {perf_counter() - start:.0f} s", flush=True
        )
    for champion in asked.champion or ("best", "poor"):
        tasks = [Task(number, champion, asked.profile, asked.population) for number in range(asked.repetitions)]
        results = []
        with ProcessPoolExecutor(2) as pool:
            for result in pool.map(repeat, tasks):
                results.append(result)
                if asked.verbose:
                    change = f"{result.found - result.had:+.4f} of {result.best - result.had:+.4f}"
                    print(
                        result.task.number, result.outcome, change, result.reason, f"{result.seconds:.1f} s", flush=True
                    )
        print(f"{'1. A good' if champion == 'best' else '2. A poor'} champion, profile {asked.profile}")
        print(*lines(results), sep="\n", flush=True)


if __name__ == "__main__":
    main()
