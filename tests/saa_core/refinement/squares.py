"""Images of squares: what is a defect, and what each phrase says of it, written out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saa_core import masks
from saa_core.masks import Rle
from saa_core.prompts import LanguagePrompt, Phrase, PromptBundle
from saa_core.refinement.evidence import ImageEvidence, Truth, gather
from saa_core.refinement.judge import EvidenceSet, Judge
from saa_core.refinement.knobs import Knobs
from saa_core.refinement.menu import Menu
from saa_core.refinement.objective import Tally
from saa_core.refinement.search import Scope, Searcher, run_together
from saa_core.types import Candidates

SIDE, SLOTS, WIDTH = 20, 5, 4
PHRASES = ("defect", "scratch", "dirt")
BUNDLE = PromptBundle(
    product="plate",
    profile="paper",
    language=LanguagePrompt(agnostic=(Phrase(text="defect"),), specific=(Phrase(text="scratch"), Phrase(text="dirt"))),
    decision={"threshold": 0.3},
)


def square(slot: int, width: int = WIDTH) -> Rle:
    """A square in one of 25 slots."""
    pixels = np.zeros((SIDE, SIDE), np.bool_)
    top, left = (place * WIDTH for place in divmod(slot, SLOTS))
    pixels[top : top + width, left : left + width] = True
    return masks.encode(pixels)


@dataclass(frozen=True)
class Found:
    """A candidate: where, and the score of each phrase."""

    slot: int
    scores: tuple[float, ...]
    width: int = WIDTH


def image(
    name: str,
    found: Sequence[Found] = (),
    truth: Mapping[int, str] | None = None,
    *,
    lot: str | None = None,
    bundle: PromptBundle = BUNDLE,
    saliency: float = 0.0,
    heat: Mapping[int, float] | None = None,
    aided: bool = True,
    views: int = 1,
) -> ImageEvidence:
    """One reviewed image; `truth` is the label of each defective slot, `heat` the saliency of some."""
    truth, phrases = truth or {}, len(bundle.texts)
    candidates = Candidates(
        image=name,
        height=SIDE,
        width=SIDE,
        phrases=bundle.texts,
        boxes=np.zeros((len(found), 4), np.float32),
        scores=np.array([each.scores for each in found], np.float32).reshape(-1, phrases),
        masks=tuple(square(each.slot, each.width) for each in found),
        quality=np.ones(len(found), np.float32),
    )
    said = Truth(tuple(square(slot) for slot in truth), tuple(truth.values()))
    warm = np.full((SIDE, SIDE), saliency, np.float32)
    for slot, value in (heat or {}).items():
        warm[masks.decode(square(slot))] = value
    contexts = [warm * np.float32(view + 1) for view in range(views)]
    calm = np.ones(phrases, np.float32)
    return gather(candidates, contexts, bundle, calm, said, name=name, lot=lot or name, aided=aided)


def plates(defective: int = 10, good: int = 20, seed: int = 0, **given: Any) -> tuple[ImageEvidence, ...]:
    """Scratched plates and clean ones; dirt on both, which the champion takes for a defect and "dirt" is loudest on."""
    rng = np.random.default_rng(seed)
    return tuple(_plate(rng, number, number < defective, given) for number in range(defective + good))


def _plate(rng: np.random.Generator, number: int, scratched: bool, given: Mapping[str, Any]) -> ImageEvidence:
    noise = rng.uniform(-0.05, 0.05, (2, 3)).round(3)
    dirt, scratch = (
        tuple(np.add(level, wobble).tolist())
        for level, wobble in zip(([0.3, 0.2, 0.8], [0.5, 0.7, 0.2]), noise, strict=True)
    )
    found = [Found(7, dirt), *([Found(12, scratch)] if scratched else [])]
    return image(f"{number:03}", found, {12: "scratch"} if scratched else None, **given)


def sets(images: Sequence[ImageEvidence], bundle: PromptBundle = BUNDLE) -> list[EvidenceSet]:
    """One set of all."""
    return [EvidenceSet(tuple(images), (), (bundle.saliency.neighbours,))]


@dataclass
class Bench:
    """A search laid out: all that it needs, made from images."""

    images: tuple[ImageEvidence, ...]
    bundle: PromptBundle = BUNDLE
    trials: int = 8

    def __post_init__(self) -> None:
        """Lay it out."""
        self.judge = Judge(self.bundle, sets(self.images, self.bundle))
        self.tally = Tally(self.judge.images, self.judge.labels)
        self.menu = Menu.of(self.bundle, self.images, (self.bundle.saliency.neighbours,), 0, self.trials)
        self.start = Knobs.of(self.bundle)
        self.lots = np.unique([each.lot for each in self.images], return_inverse=True)[1]
        self.weights = np.ones(len(self.images))

    def searcher(self, scope: Scope = "all") -> Searcher:
        """A search on all images alike."""
        return Searcher(self.start, self.menu, self.tally, self.weights, self.lots, scope)

    def search(self, scope: Scope = "all") -> tuple[Knobs, Searcher]:
        """What it chooses, and how."""
        searcher = self.searcher(scope)
        return run_together([searcher], self.judge)[0], searcher

    def objective(self, *knobs: Knobs) -> list[float]:
        """Of bundles on all images."""
        return [float(value) for value in self.tally.objective(self.judge.counts(knobs), self.weights)]

    def alarms(self, *knobs: Knobs) -> list[float]:
        """Of bundles on all images."""
        return [float(value) for value in self.tally.false_alarms(self.judge.counts(knobs), self.weights)]
