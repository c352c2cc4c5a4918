"""Lazy refining: the same decision as with every mask, and masks of few boxes only."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from saa_core import masks
from saa_core.lazy import complete, refine_lazily
from saa_core.masks import Rle
from saa_core.pipeline import best_confidence, decide
from saa_core.prompts import PromptBundle
from saa_core.refiners import Refined
from saa_core.types import AnomalyResult, Boxes, Candidates, FloatMap, SetLevels

HEIGHT, WIDTH = 13, 17
PHRASES = ("anomaly", "crack")


@dataclass
class Drawer:
    """Knows a mask and a quality for every box, and keeps what it was asked for."""

    masks: dict[bytes, Rle]
    asked: list[int] = field(default_factory=list)

    def __call__(self, boxes: Boxes) -> Refined:
        assert boxes.dtype == np.float32
        assert len(boxes) > 0
        self.asked.append(len(boxes))
        found = tuple(self.masks[box.tobytes()] for box in boxes)
        return Refined(found, np.array([mask.area / (HEIGHT * WIDTH) for mask in found], np.float32))


def mask_of(rng: np.random.Generator) -> Rle:
    """A block, cells strewn over the image, nothing, or everything: nothing ties a mask to its box."""
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    kind = rng.integers(8)
    if kind < 5:
        y, x = rng.integers(HEIGHT), rng.integers(WIDTH)
        mask[y : y + rng.integers(1, 7), x : x + rng.integers(1, 7)] = True
    elif kind == 5:
        mask = rng.random((HEIGHT, WIDTH)) < rng.random()
    elif kind == 6:
        mask[:] = True
    return masks.encode(mask)


def boxes_of(rng: np.random.Generator, n: int) -> Boxes:
    corners = rng.uniform(-3, WIDTH, (n, 2))
    return np.hstack([corners, corners + rng.uniform(0, 9, (n, 2))]).astype(np.float32)


def scores_of(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Few levels, so that many scores are equal."""
    return np.round(rng.random(shape) ** 2, int(rng.integers(1, 3))).astype(np.float32)


def saliency_of(rng: np.random.Generator) -> FloatMap:
    size = [(HEIGHT, WIDTH), (4, 5), (1, 1), (30, 30)][rng.integers(4)]
    return (rng.random(size) ** rng.integers(1, 5) * rng.choice([0, 0.3, 1, 2])).astype(np.float32)


def proposed(rng: np.random.Generator, n: int) -> tuple[Candidates, Drawer]:
    boxes = boxes_of(rng, n)
    blank = masks.encode(np.zeros((HEIGHT, WIDTH), np.bool_))
    found = Candidates(
        image="a",
        height=HEIGHT,
        width=WIDTH,
        phrases=PHRASES,
        boxes=boxes,
        scores=scores_of(rng, n, 2),
        masks=(blank,) * n,
        quality=np.zeros(n, np.float32),
        objects=tuple(mask_of(rng) for _ in range(rng.integers(3))),
        object_boxes=boxes_of(rng, int(rng.integers(3))),
        evidence=rng.random((2, 4, 5)).astype(np.float16) if rng.integers(2) else None,
        peaks=scores_of(rng, n) if rng.integers(2) else None,
        pending=np.ones(n, np.bool_),
    )
    return found, Drawer({box.tobytes(): mask_of(rng) for box in boxes})


def bundle_of(rng: np.random.Generator, profile: str) -> PromptBundle:
    """The profile as it is, or with every number that the decision reads changed."""
    phrases = [
        {"text": text, "weight": float(rng.choice([0, 0.5, 1, 3])), "threshold": float(rng.choice([0, 0.2]))}
        for text in PHRASES
    ]
    content: dict[str, object] = {
        "product": "plate",
        "profile": profile,
        "language": {"agnostic": phrases[:1], "specific": phrases[1:], "object": "plate"},
    }
    if rng.integers(2):
        content |= {
            "property": {
                "area_min": float(rng.choice([0, 0.02])),
                "area_max": rng.choice([None, 0.3]),
                "measure": str(rng.choice(["mask", "box"])),
                "location": float(rng.choice([0, 0.5])),
            },
            "saliency": {
                "source": "image-nearest",
                "gain": float(rng.choice([0, 1, 3, 20])),
                "measure": str(rng.choice(["mean", "contrast"])),
            },
            "confidence": {
                "top_k": rng.choice([None, 1, 2, 5]),
                "suppression": float(rng.choice([0.3, 0.5, 1])),
                "map": str(rng.choice(["mean", "shrunk", "dense"])),
            },
            "decision": {"score_floor": float(rng.choice([0, 0.2])), "region_floor": float(rng.choice([0, 0.4]))},
        }
    return PromptBundle.from_content(content)


def shown(result: AnomalyResult) -> list[object]:
    return [(region, sorted(region.phrase_scores.items())) for region in result.regions]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 16),
    profile=st.sampled_from(["batch", "paper", "reference"]),
    chunk=st.integers(1, 6),
    floor=st.sampled_from([0.0, 0.2, 0.45]),
)
def test_the_decision_is_that_of_all_masks(seed: int, n: int, profile: str, chunk: int, floor: float) -> None:
    rng = np.random.default_rng(seed)
    found, draw = proposed(rng, n)
    bundle, saliency = bundle_of(rng, profile), saliency_of(rng)
    lazy = refine_lazily(found, draw, saliency, bundle, floor, chunk)
    assert max(draw.asked, default=0) <= chunk
    assert sum(draw.asked) == n - (0 if lazy.pending is None else lazy.pending.sum())
    everything = complete(found, draw)
    for level in (floor, (1 + floor) / 2):
        levels = SetLevels(np.full(2, 0.2, np.float32), level)
        one, other = decide(lazy, saliency, bundle, levels), decide(everything, saliency, bundle, levels)
        assert shown(one) == shown(other)
        np.testing.assert_array_equal(one.map, other.map)
        assert (one.score, one.bounded) == (other.score, other.bounded)
        assert {region.candidate for region in other.regions}.isdisjoint(one.removed)
    best = best_confidence(everything, saliency, bundle)
    mine = best_confidence(lazy, saliency, bundle)
    assert mine == best if best >= floor else mine <= best


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 16))
def test_completed_candidates_are_those_that_were_drawn_at_once(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    found, draw = proposed(rng, n)
    lazy = refine_lazily(found, draw, saliency_of(rng), bundle_of(rng, "paper"), 0.0, 2)
    whole, at_once = complete(lazy, draw), draw(found.boxes)
    assert whole.pending is None
    assert whole.masks == at_once.masks
    np.testing.assert_array_equal(whole.quality, at_once.quality)
    assert complete(whole, draw) is whole


def made_case(n: int = 100) -> tuple[Candidates, Drawer]:
    """Boxes of falling score, best first; each mask is one pixel of its own."""
    boxes = np.tile(np.arange(n, dtype=np.float32)[:, None], (1, 4)) + np.array([0, 0, 5, 5], np.float32)
    found, _ = proposed(np.random.default_rng(0), n)
    pixels = np.eye(HEIGHT * WIDTH, dtype=np.bool_).reshape(-1, HEIGHT, WIDTH)
    made = replace(
        found,
        boxes=boxes,
        scores=np.stack([np.geomspace(0.6, 0.1, n), np.zeros(n)], axis=1).astype(np.float32),
        objects=(),
        object_boxes=np.zeros((0, 4), np.float32),
        peaks=None,
    )
    return made, Drawer({box.tobytes(): masks.encode(pixels[row]) for row, box in enumerate(boxes)})


PAPER = PromptBundle.from_content(
    {"product": "plate", "profile": "paper", "language": {"agnostic": ["anomaly"], "specific": ["crack"]}}
)
FLAT: FloatMap = np.full((HEIGHT, WIDTH), 0.3, np.float32)
SPREAD: FloatMap = np.linspace(0.2, 0.5, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)


def asked(bundle: PromptBundle, saliency: FloatMap, floor: float = 0.0, chunk: int = 1) -> int:
    found, draw = made_case()
    refine_lazily(found, draw, saliency, bundle, floor, chunk)
    return sum(draw.asked)


class TestHowManyAreDrawn:
    def test_k_where_saliency_says_nothing(self) -> None:
        assert asked(PAPER, FLAT) == 5
        assert asked(PAPER, FLAT, chunk=4) == 8

    def test_those_that_saliency_could_lift_over_the_k_th(self) -> None:
        saved = asked(PAPER, SPREAD)
        # exp(0.5) over exp(0.2) is 1.35: the boxes within that factor of the fifth.
        scores = np.geomspace(0.6, 0.1, 100)
        assert 5 < saved <= np.count_nonzero(scores * np.exp(0.5) >= scores[4] * np.exp(0.2)) < 30

    def test_all_without_a_k(self) -> None:
        assert asked(PAPER.changed(confidence={"top_k": None}), FLAT) == 100

    def test_none_that_cannot_reach_the_floor(self) -> None:
        wide = PAPER.changed(confidence={"top_k": None})
        scores = np.geomspace(0.6, 0.1, 100) * np.exp(0.3)
        assert asked(wide, FLAT, 0.25) == np.count_nonzero(scores / (1 + scores) >= 0.25)
        assert asked(wide, FLAT, 0.99) == 0

    def test_none_under_the_score_floor_or_without_a_word(self) -> None:
        wide = PAPER.changed(confidence={"top_k": None})
        assert asked(wide.changed(decision={"score_floor": 0.3}), FLAT) < 50
        assert asked(wide.changed(language={"agnostic": [{"text": "anomaly", "weight": 0}]}), FLAT) == 0

    @pytest.mark.parametrize(("area_max", "drawn"), [(0.05, 0), (0.2, 100)])
    def test_none_that_eq_4_removes_by_its_box(self, area_max: float, drawn: int) -> None:
        boxes = {"measure": "box", "area_max": area_max}  # 25 of 221 pixels
        assert asked(PAPER.changed(property=boxes, confidence={"top_k": None}), FLAT) == drawn

    def test_more_where_masks_are_removed(self) -> None:
        """Single pixels are too small, so nothing is ever chosen and every box might be."""
        assert asked(PAPER.changed(property={"area_min": 0.01}), FLAT) == 100


@pytest.mark.parametrize("measure", ["mean", "contrast"])
@pytest.mark.parametrize(("behind", "chosen"), [(0.99, 99), (1.01, 0)])
def test_a_box_that_saliency_just_lifts_to_the_top(measure: str, behind: float, chosen: int) -> None:
    """The last box lies on all the saliency there is, the first on none; one region is shown."""
    found, draw = made_case()
    spot: FloatMap = np.zeros((HEIGHT, WIDTH), np.float32)
    spot.flat[99] = 1  # the pixel of the last mask
    scores = np.zeros((100, 2), np.float32)
    scores[[0, 99], 0] = 0.9, 0.9 / behind * np.exp(-3)
    bundle = PAPER.changed(saliency={"gain": 3.0, "measure": measure}, confidence={"top_k": 1})
    lazy = refine_lazily(replace(found, scores=scores), draw, spot, bundle, 0.0, 1)
    assert [region.candidate for region in decide(lazy, spot, bundle).regions] == [chosen]
    assert sum(draw.asked) == (2 if chosen else 1)


def test_without_boxes_nothing_is_drawn() -> None:
    found, draw = made_case(0)
    assert len(refine_lazily(found, draw, FLAT, PAPER, 0.0, 1)) == len(complete(found, draw)) == 0
    assert draw.asked == []


def test_a_phrase_that_was_not_asked_for_is_refused() -> None:
    with pytest.raises(ValueError, match="not proposed for"):
        asked(PAPER.changed(language={"specific": ["dent"]}), FLAT)


def test_equal_scores_are_drawn_as_far_as_rows_decide() -> None:
    """Of ten equal boxes K are the first, although the order of drawing need not be theirs."""
    found, draw = made_case(10)
    equal = replace(found, scores=np.full((10, 2), 0.5, np.float32))
    lazy = refine_lazily(equal, draw, FLAT, PAPER, 0.0, 3)
    assert [region.candidate for region in decide(lazy, FLAT, PAPER).regions] == [0, 1, 2, 3, 4]
