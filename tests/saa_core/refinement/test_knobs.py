"""A bundle's numbers out of it, into another, and as columns."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saa_core.errors import BundleError
from saa_core.prompts import PromptBundle
from saa_core.refinement.knobs import Knobs, Stacked
from tests.saa_core.refinement.scenes import random_bundle, random_knobs

BUNDLE = PromptBundle.from_content(
    {
        "product": "plate",
        "profile": "paper",
        "language": {
            "agnostic": ["anomaly", {"text": "defect", "weight": 2}],
            "specific": [{"text": "crack", "threshold": 0.25, "caption": 1}, {"text": "defect", "weight": 0.5}],
            "object": "plate",
        },
        "property": {"area_min": 0.01, "area_max": 0.5},
        "confidence": {"top_k": None},
    }
)


def test_of_a_bundle() -> None:
    """In the order of its phrases, of which the later of two with one text counts; no limit is infinity."""
    assert Knobs.of(BUNDLE) == Knobs(
        weights=(1, 0.5, 1),
        thresholds=(0, 0, 0.25),
        area_min=0.01,
        area_max=0.5,
        location=0.5,
        neighbours=400,
        gain=1,
        top_k=math.inf,
        suppression=1,
        score_floor=0,
        region_floor=0,
        threshold=0.5,
    )


@given(st.integers(0, 2**32 - 1))
def test_a_child_has_the_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bundle = random_bundle(rng)
    knobs = random_knobs(rng, bundle, (1, 50, 400))
    child = knobs.applied(bundle, "a" * 16)
    assert Knobs.of(child) == knobs
    assert PromptBundle.from_yaml(child.to_yaml()).id == child.id
    assert Knobs.of(bundle).applied(child, bundle.parent or "").decision == bundle.decision


def test_a_child_keeps_everything_else() -> None:
    child = Knobs.of(BUNDLE)._replace(area_max=math.inf, top_k=3.0, weights=(1, 0.25, 4)).applied(BUNDLE, BUNDLE.id)
    assert child.parent == BUNDLE.id
    assert child.origin == "refined from experts' corrections"
    assert child.confidence.top_k == 3
    assert child.property.area_max is None
    assert [phrase.weight for phrase in child.language.agnostic] == [1, 0.25]
    assert [phrase.weight for phrase in child.language.specific] == [4, 0.25]
    as_before = child.changed(
        parent=None, origin="", language=BUNDLE.language, property=BUNDLE.property, confidence=BUNDLE.confidence
    )
    assert as_before == BUNDLE


def test_numbers_that_no_bundle_may_have() -> None:
    with pytest.raises(BundleError, match=r"decision\.threshold"):
        Knobs.of(BUNDLE)._replace(threshold=1.5).applied(BUNDLE, BUNDLE.id)


def test_stacked() -> None:
    own = Knobs.of(BUNDLE)
    stacked = Stacked.of([own, own._replace(gain=2.0, top_k=3.0)])
    assert (stacked.said.tolist(), stacked.weights.tolist()) == ([0, 0], [[1, 0.5, 1]])
    assert stacked.thresholds.tolist() == [[0, 0, 0.25]]
    assert stacked.gain.tolist() == [[1], [2]]
    assert stacked.top_k.tolist() == [[math.inf], [3]]
    assert {column.dtype for column in stacked[1:]} == {np.dtype(np.float64)}


def test_equal_numbers_are_one_key() -> None:
    own = Knobs.of(BUNDLE)
    assert len({own, Knobs.of(BUNDLE), own._replace(top_k=5.0), own._replace(top_k=5)}) == 2
