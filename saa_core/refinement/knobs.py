"""The numbers of a bundle that a search moves, as a plain, hashable value that is validated once, not per trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from saa_core.prompts import Phrase, PromptBundle

Floats = NDArray[np.float64]

DIGITS = 4
"""Decimals of what a search proposes: a person reads them."""


class Knobs(NamedTuple):
    """The numbers, named as in `PromptBundle`; weights and thresholds in the order of its phrases.

    Attributes:
        area_max: Infinity is no limit.
        top_k: Infinity is no limit.
    """

    weights: tuple[float, ...]
    thresholds: tuple[float, ...]
    area_min: float
    area_max: float
    location: float
    neighbours: int
    gain: float
    top_k: float
    suppression: float
    score_floor: float
    region_floor: float
    threshold: float

    @classmethod
    def of(cls, bundle: PromptBundle) -> Self:
        """The numbers of a bundle."""
        area_max, top_k = bundle.property.area_max, bundle.confidence.top_k
        return cls(
            weights=tuple(phrase.weight for phrase in bundle.phrases),
            thresholds=tuple(phrase.threshold for phrase in bundle.phrases),
            area_min=bundle.property.area_min,
            area_max=math.inf if area_max is None else area_max,
            location=bundle.property.location,
            neighbours=bundle.saliency.neighbours,
            gain=bundle.saliency.gain,
            top_k=math.inf if top_k is None else top_k,
            suppression=bundle.confidence.suppression,
            score_floor=bundle.decision.score_floor,
            region_floor=bundle.decision.region_floor,
            threshold=bundle.decision.threshold,
        )

    def applied(self, bundle: PromptBundle, parent: str) -> PromptBundle:
        """The bundle with these numbers, as a child of the bundle with the id `parent`."""
        numbers = dict(zip(bundle.texts, zip(self.weights, self.thresholds, strict=True), strict=True))
        return bundle.changed(
            parent=parent,
            origin="refined from experts' corrections",
            language={
                "agnostic": _with_numbers(bundle.language.agnostic, numbers),
                "specific": _with_numbers(bundle.language.specific, numbers),
            },
            property={
                "area_min": self.area_min,
                "area_max": None if math.isinf(self.area_max) else self.area_max,
                "location": self.location,
            },
            saliency={"neighbours": self.neighbours, "gain": self.gain},
            confidence={
                "top_k": None if math.isinf(self.top_k) else int(self.top_k),
                "suppression": self.suppression,
            },
            decision={
                "score_floor": self.score_floor,
                "region_floor": self.region_floor,
                "threshold": self.threshold,
            },
        )


def _with_numbers(phrases: Sequence[Phrase], numbers: dict[str, tuple[float, float]]) -> list[dict[str, object]]:
    return [
        {**phrase.model_dump(), "weight": numbers[phrase.text][0], "threshold": numbers[phrase.text][1]}
        for phrase in phrases
    ]


class Stacked(NamedTuple):
    """C sets of numbers as columns, float64 (C, 1) each but those of the phrases, which many share.

    Attributes:
        said: intp (C,), the row of `weights` and `thresholds` of each.
        weights: float64 (W, P), no two rows alike in both.
        thresholds: float64 (W, P).
    """

    said: NDArray[np.intp]
    weights: Floats
    thresholds: Floats
    area_min: Floats
    area_max: Floats
    location: Floats
    gain: Floats
    top_k: Floats
    suppression: Floats
    score_floor: Floats
    region_floor: Floats
    threshold: Floats

    @classmethod
    def of(cls, knobs: Sequence[Knobs]) -> Self:
        """Stack them."""
        pairs = [(each.weights, each.thresholds) for each in knobs]
        rows = {pair: row for row, pair in enumerate(dict.fromkeys(pairs))}
        weights, thresholds = (np.array(each, np.float64).reshape(len(rows), -1) for each in zip(*rows, strict=True))
        return cls(
            np.array([rows[pair] for pair in pairs], np.intp),
            weights,
            thresholds,
            *(np.array([[getattr(each, name)] for each in knobs], np.float64) for name in cls._fields[3:]),
        )
