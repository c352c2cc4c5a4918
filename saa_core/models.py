"""Sets of models that can run the method, by the name that the user gives them."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from saa_core.features.filter_bank import FilterBank
from saa_core.generators.lexical import Lexical
from saa_core.pipeline import SegmentAnyAnomaly
from saa_core.refiners.contour import Contour

ModelSet = Literal["weight-free"]


def build(models: ModelSet = "weight-free") -> SegmentAnyAnomaly:
    """The method over a set of models, with a call count of its own.

    `weight-free` is the lexical generator, the contour refiner and filter-bank features: no weights, no GPU, any
    machine. They stand in for GroundingDINO, SAM and a CNN, and are not these.
    """
    generator, refiner, extractor = _weight_free()
    return SegmentAnyAnomaly(generator, refiner, extractor)


@lru_cache(maxsize=1)
def _weight_free() -> tuple[Lexical, Contour, FilterBank]:
    return Lexical(), Contour(), FilterBank()
