"""How often the guard lets a worse bundle pass, and how much of a possible gain it lets through, by simulation.

    OMP_NUM_THREADS=1 python benchmarks/guard.py [--repetitions 200] [--profile paper|batch] [--population 3000]

A product is a rule by which images arise: scratches and dents to find, dirt that is none, a phrase for each, and the
word "defect" that fits all of them somewhat. A population of its images is the truth that no refinement gets to see.
A refinement sees 40 of them, 20 with defects, in lots of two. Each repetition draws others, from one of several
products. Two questions:

1. The champion is the best that a search on the whole population finds. How often is a bundle promoted that does
   worse than it on the population? At most 3 %.
2. The champion listens to dirt, shows too much, and cuts its map too high. What part of the gain that a search on the
   whole population has over it do 40 images bring, if only promotions count? At least 50 %.
"""

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from saa_core import masks
from saa_core.language import calm_levels, peaks
from saa_core.prompts import LanguagePrompt, Phrase, PromptBundle
from saa_core.refinement.effort import DEFAULT
from saa_core.refinement.evidence import ImageEvidence, Truth, gather
from saa_core.refinement.guard import hold_out
from saa_core.refinement.judge import EvidenceSet, Judge
from saa_core.refinement.knobs import Knobs
from saa_core.refinement.menu import Menu
from saa_core.refinement.objective import Tally
from saa_core.refinement.outcome import EvidenceSummary, Refinement
from saa_core.refinement.refine import Question, refine
from saa_core.refinement.search import Searcher, run_together
from saa_core.types import Candidates

SIDE, GRID, CELL = 48, 24, 16
PRODUCTS = 4
SEARCHED = 1000
"""Images of the population that the search for the best bundle sees; it is scored on all."""
EACH = 20
"""Reviewed images of each kind."""
KINDS = ("scratch", "dent", "dirt")
GENERAL = ("defect",)
TEXTS = (*GENERAL, *KINDS)
Profile = Literal["paper", "batch"]
Floats = NDArray[np.float64]


# ------------------------------------------------------------------------------------------------------------ a product


@dataclass(frozen=True)
class Spot:
    """Something on an image: centre and radius in pixels, and which of `KINDS` it is."""

    x: float
    y: float
    radius: float
    kind: int

    def disc(self, scale: float = 1.0, side: int = SIDE) -> NDArray[np.bool_]:
        """Its pixels, `scale` times as wide."""
        y, x = (np.mgrid[:side, :side] + 0.5) * (SIDE / side)
        return np.hypot(x - self.x, y - self.y) <= max(self.radius * scale, 1)


@dataclass(frozen=True)
class Product:
    """How images of a product arise; scores and saliency are in [0, 1].

    Attributes:
        scores: (4, 3), the level of each phrase's score on each kind of spot.
        noise: Of a candidate's scores.
        saliency: (3,), of each kind of spot.
        shift: How much a lot shifts all scores.
        dirt: Mean number of spots of dirt.
    """

    scores: Floats
    noise: float
    saliency: Floats
    shift: float
    dirt: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Product":
        """One product of many."""
        levels = np.array([[0.50, 0.45, 0.35], [0.60, 0.20, 0.15], [0.20, 0.55, 0.20], [0.25, 0.20, 0.60]])
        return cls(
            scores=np.clip(levels + rng.normal(0, 0.06, levels.shape), 0.05, 0.95),
            noise=rng.uniform(0.08, 0.14),
            saliency=np.array([0.45, 0.40, 0.25]) + rng.normal(0, 0.05, 3),
            shift=0.03,
            dirt=rng.uniform(0.8, 1.6),
        )

    def spots(self, rng: np.random.Generator, defective: bool) -> list[Spot]:
        """What is on an image; in different cells, so that nothing overlaps."""
        defects = rng.integers(0, 2, 1 + rng.poisson(0.6)) if defective else ()
        kinds = [*defects, *([2] * rng.poisson(self.dirt))]
        cells = rng.permutation((SIDE // CELL) ** 2)[: len(kinds)]
        return [
            self._spot(rng, divmod(int(cell), SIDE // CELL), int(kind))
            for cell, kind in zip(cells, kinds, strict=False)
        ]

    def _spot(self, rng: np.random.Generator, cell: tuple[int, int], kind: int) -> Spot:
        x, y = (np.array(cell) + rng.uniform(0.35, 0.65, 2)) * CELL
        return Spot(x, y, float(np.clip(rng.lognormal(1.2, 0.35), 1.5, 7)), kind)

    def image(self, rng: np.random.Generator, name: str, lot: str, shift: float, defective: bool) -> "Image":
        """One image of a lot."""
        spots = self.spots(rng, defective)
        found = [(spot, scale) for spot in spots if rng.random() < 0.92 for scale in self._scales(rng)]
        found += [(Spot(*rng.uniform(4, SIDE - 4, 2), rng.uniform(2, 14), 2), 1.0) for _ in range(rng.poisson(1))]
        scores = [self._scores(rng, spot, shift) for spot, _ in found]
        saliency, evidence = self._maps(rng, spots, shift)
        candidates = Candidates(
            image=name,
            height=SIDE,
            width=SIDE,
            phrases=TEXTS,
            boxes=np.zeros((len(found), 4), np.float32),
            scores=np.array(scores, np.float32).reshape(-1, len(TEXTS)),
            masks=tuple(masks.encode(spot.disc(scale)) for spot, scale in found),
            quality=np.ones(len(found), np.float32),
            evidence=evidence,
        )
        defects = [spot for spot in spots if KINDS[spot.kind] != "dirt"]
        truth = Truth(tuple(masks.encode(spot.disc()) for spot in defects), tuple(KINDS[spot.kind] for spot in defects))
        return Image(candidates, saliency, truth, lot)

    def _maps(
        self, rng: np.random.Generator, spots: Sequence[Spot], shift: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
        """Saliency and the phrases' dense evidence; general words say nothing of a pixel."""
        saliency = rng.uniform(0, 0.12, (GRID, GRID))
        evidence = rng.uniform(0, 0.08, (len(TEXTS), GRID, GRID))
        for spot in spots:
            inside = cv2.GaussianBlur(spot.disc(side=GRID).astype(np.float64), (0, 0), 0.7)
            saliency += inside * max(0, self.saliency[spot.kind] + rng.normal(0, 0.1))
            evidence += inside * 0.4 * self._scores(rng, spot, shift)[:, None, None]
        evidence[: len(GENERAL)] = 0
        return np.clip(saliency, 0, 1).astype(np.float32), np.where(evidence > 0.1, evidence, 0).astype(np.float16)

    def _scores(self, rng: np.random.Generator, spot: Spot, shift: float) -> Floats:
        """How well each phrase describes a spot, (4,)."""
        return np.clip(self.scores[:, spot.kind] + shift + rng.normal(0, self.noise, len(TEXTS)), 0, 1)

    def _scales(self, rng: np.random.Generator) -> list[float]:
        """Outlines of one spot that the models propose: about right, too wide, too narrow."""
        return [rng.normal(1, 0.08), *rng.choice([1.7, 0.55], rng.integers(0, 3), replace=False)]


@dataclass(frozen=True)
class Image:
    """An image before it is evidence."""

    candidates: Candidates
    saliency: NDArray[np.float32]
    truth: Truth
    lot: str


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
    parser.add_argument("--profile", choices=("paper", "batch"), default="batch")
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
