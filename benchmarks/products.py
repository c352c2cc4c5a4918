"""Simulated products: rules by which images, their candidates, maps and defects arise. For `guard.py`."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from saa_core import masks
from saa_core.refinement.evidence import Truth
from saa_core.types import Candidates

SIDE, GRID, CELL = 48, 24, 16
KINDS = ("scratch", "dent", "dirt")
GENERAL = ("defect",)
TEXTS = (*GENERAL, *KINDS)
Floats = NDArray[np.float64]


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
