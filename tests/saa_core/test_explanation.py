"""An explanation says what `decide` says, number for number, and names the first rule that a candidate failed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saa_core import masks
from saa_core.explanation import RULES, Check, ExplainedCandidate, explain
from saa_core.pipeline import decide
from saa_core.prompts import PromptBundle
from saa_core.rules import judge, reason
from saa_core.types import Candidates, FloatMap, SetLevels

SIDE = 12
SHARES = st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0])


@st.composite
def candidates(draw: st.DrawFn) -> Candidates:
    """Up to seven rectangles, some of them equal, some empty, with scores that tie, with or without objects."""
    corner = st.integers(0, SIDE)
    boxes = draw(st.lists(st.tuples(corner, corner, corner, corner), max_size=7))
    objects = draw(st.lists(st.tuples(corner, corner, corner, corner), max_size=2))
    scores = [[draw(SHARES), draw(SHARES)] for _ in boxes]
    evidence = np.random.default_rng(len(boxes)).random((2, 6, 6)).astype(np.float16)
    return Candidates(
        image="a",
        height=SIDE,
        width=SIDE,
        phrases=("anomaly", "crack"),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32).reshape(-1, 2),
        masks=tuple(rectangle(*box) for box in boxes),
        quality=np.ones(len(boxes), np.float32),
        objects=tuple(rectangle(*box) for box in objects),
        object_boxes=np.array(objects, np.float32).reshape(-1, 4),
        evidence=draw(st.sampled_from([None, evidence])),
    )


@st.composite
def bundles(draw: st.DrawFn) -> PromptBundle:
    """Any profile with limits that random rectangles meet and miss."""
    words = [{"text": text, "weight": draw(SHARES) * 2, "threshold": draw(SHARES) / 2} for text in ("crack", "anomaly")]
    return PromptBundle.from_content(
        {
            "product": "plate",
            "profile": draw(st.sampled_from(["batch", "paper", "reference"])),
            "language": {"agnostic": words[1:], "specific": words[:1]},
            "property": {"area_min": draw(SHARES) / 9, "area_max": draw(SHARES) or None, "location": draw(SHARES) / 2},
            "saliency": {"gain": draw(SHARES) * 3},
            "confidence": {"top_k": draw(st.none() | st.integers(1, 3)), "suppression": draw(SHARES) or 0.5},
            "decision": {"score_floor": draw(SHARES) / 5, "region_floor": draw(SHARES) / 2},
        }
    )


def rectangle(x0: int, y0: int, x1: int, y1: int, side: int = SIDE) -> masks.Rle:
    mask = np.zeros((side, side), np.bool_)
    mask[y0:y1, x0:x1] = True
    return masks.encode(mask)


def maps() -> st.SearchStrategy[FloatMap]:
    return st.integers(0, 99).map(lambda seed: np.random.default_rng(seed).random((5, 5)).astype(np.float32))


LEVELS = st.none() | SHARES.map(lambda floor: SetLevels(np.array([0.2, 0.9], np.float32), floor / 2))


@given(candidates(), maps(), bundles(), LEVELS)
def test_it_says_what_decide_says(
    found: Candidates, context: FloatMap, bundle: PromptBundle, levels: SetLevels | None
) -> None:
    result, explanation = decide(found, context, bundle, levels), explain(found, context, bundle, levels)
    shown = [each for each in explanation.candidates if each.rank is not None]
    assert [each.row for each in shown] == [region.candidate for region in result.regions]
    for each, region in zip(shown, result.regions, strict=True):
        assert (each.label, each.saliency, each.score, each.confidence) == (
            region.label,
            region.saliency,
            region.score,
            region.confidence,
        )
        assert {phrase.text: phrase.score for phrase in each.phrases} == region.phrase_scores
        assert all(check.passed for check in each.checks)
    floor = explanation.floor
    assert floor == (bundle.decision.region_floor if levels is None else levels.floor)
    judged = judge(found, context, bundle, floor)
    assert {each.row: each.removed_by for each in explanation.candidates if each.rank is None} == judged.removed
    assert result.removed == {row: reason(judged, row, bundle, floor) for row in judged.removed}
    assert explanation.result.map.tobytes() == result.map.tobytes()
    assert explanation.map.score == result.score


@given(candidates(), maps(), bundles(), LEVELS)
def test_the_first_check_that_fails_is_the_rule_that_removed_it(
    found: Candidates, context: FloatMap, bundle: PromptBundle, levels: SetLevels | None
) -> None:
    explained = explain(found, context, bundle, levels).candidates
    assert sorted(each.row for each in explained) == list(range(len(found)))
    assert [each.number for each in explained] == list(range(1, len(found) + 1))
    for each in explained:
        assert (each.failed.rule if each.failed else None) == each.removed_by
        assert all(holds(check) for check in each.checks), each.checks
        assert [check.rule for check in each.checks] == sorted((c.rule for c in each.checks), key=RULES.index)
        if each.removed_by == "suppression":
            assert each.rival is not None
            better = explained[each.rival - 1]
            assert better.removed_by != "suppression"
            assert better.score >= each.score
            shared = masks.intersections([each.mask], [better.mask])[0, 0] / min(each.mask.area, better.mask.area)
            assert check_of(each, "overlap").value == pytest.approx(shared)


def holds(check: Check) -> bool:
    """Whether the number stands to its limit as was said, up to rounding at the very limit."""
    if check.value is None or check.limit is None or math.isclose(check.value, check.limit, abs_tol=1e-12):
        return (check.passed is None) == (check.value is None)
    stands = check.value > check.limit if check.sign in (">", ">=") else check.value < check.limit
    return stands is check.passed


def check_of(candidate: ExplainedCandidate, name: str) -> Check:
    return next(check for check in candidate.checks if check.name == name)


# ------------------------------------------------------------------------------------------------- worked out by hand


def by_hand() -> tuple[Candidates, FloatMap, PromptBundle]:
    """One candidate for each fate; without saliency the scores are those of the phrases."""
    rows = [
        ((0, 0, 3, 3), (0.9, 0.0)),  # shown
        ((0, 0, 3, 2), (0.5, 0.0)),  # lies in the first
        ((4, 0, 7, 3), (0.0, 0.5)),  # shown too: 0.5 x 1.5
        ((8, 0, 11, 3), (0.4, 0.0)),  # third of two
        ((0, 4, 3, 7), (0.1, 0.0)),  # confidence 0.1 / 1.1
        ((0, 0, 12, 11), (0.8, 0.0)),  # too large
        ((4, 4, 7, 7), (0.0, 0.1)),  # under the phrase's threshold
    ]
    found = Candidates(
        image="a",
        height=SIDE,
        width=SIDE,
        phrases=("anomaly", "crack"),
        boxes=np.array([box for box, _ in rows], np.float32),
        scores=np.array([scores for _, scores in rows], np.float32),
        masks=tuple(rectangle(*box) for box, _ in rows),
        quality=np.ones(len(rows), np.float32),
        evidence=np.stack([np.zeros((4, 4)), np.full((4, 4), 0.5)]).astype(np.float16),
    )
    bundle = PromptBundle.from_content(
        {
            "product": "plate",
            "language": {
                "agnostic": ["anomaly"],
                "specific": [{"text": "crack", "weight": 1.5, "threshold": 0.2}],
            },
            "property": {"area_min": 0.01, "area_max": 0.5},
            "saliency": {"gain": 0},
            "confidence": {"top_k": 2},
            "decision": {"region_floor": 0.2},
        }
    )
    return found, np.full((4, 4), 0.25, np.float32), bundle


def test_every_fate() -> None:
    explanation = explain(*by_hand(), SetLevels(np.array([0.0, 0.1], np.float32), 0.15))
    fates = [(each.row, each.removed_by, each.rank) for each in explanation.candidates]
    assert fates == [
        (0, None, 1),
        (2, None, 2),
        (3, "top K", None),
        (4, "region floor", None),
        (1, "suppression", None),
        (5, "property", None),
        (6, "score floor", None),
    ]
    first, second, third, low, double, large, silent = explanation.candidates
    assert first.score == pytest.approx(0.9)
    assert first.image_share == 9 / 144
    assert first.box == first.proposed == (0, 0, 3, 3)
    assert second.label == "crack"
    assert second.phrases[1].raw == 0.5
    assert (second.phrases[1].weight, second.phrases[1].threshold) == (1.5, 0.2)
    assert second.phrases[1].score == 0.75
    assert (check_of(third, "rank").value, check_of(third, "rank").limit) == (3, 2)
    assert check_of(low, "confidence").value == pytest.approx(0.1 / 1.1)
    assert check_of(low, "confidence").limit == explanation.floor == 0.15
    assert check_of(low, "rank").passed is None
    assert (double.rival, check_of(double, "overlap").value) == (1, 1.0)
    assert check_of(large, "largest area").value == pytest.approx(132 / 144)
    assert check_of(large, "overlap").value is check_of(large, "overlap").passed is None
    assert check_of(silent, "best phrase") == Check("score floor", "best phrase", 0.0, ">", 0.0, False)
    assert silent.score == silent.confidence == 0
    assert silent.factor == 1


def test_saliency_and_its_factor() -> None:
    found, _, bundle = by_hand()
    context = np.full((SIDE, SIDE), 0.2, np.float32)
    context[:3, :3] = 0.7
    first = explain(found, context, bundle.changed(saliency={"gain": 2.0, "measure": "mean"})).candidates[0]
    assert first.saliency == pytest.approx(0.7)
    assert first.factor == pytest.approx(math.exp(1.4))
    assert first.score == pytest.approx(0.9 * math.exp(1.4))


def test_what_the_dense_map_is_made_of() -> None:
    found, context, bundle = by_hand()
    made = explain(found, context, bundle, SetLevels(np.array([0.0, 0.125], np.float32), 0.15)).map
    assert made.form == "dense"
    assert made.source == "batch"
    assert made.saliency_score == 0.25
    assert made.score > 0.25  # evidence of 0.5 where calm images show 0.125
    assert [(part.text, part.weight, part.peak, part.calm) for part in made.phrases] == [("crack", 1.5, 0.5, 0.125)]


def test_of_a_single_image_the_own_evidence_is_calm() -> None:
    found, context, bundle = by_hand()
    made = explain(found, context, bundle).map
    assert [part.calm for part in made.phrases] == [0.5]
    assert made.score == made.saliency_score


def test_a_map_of_regions_has_no_phrases() -> None:
    found, context, bundle = by_hand()
    made = explain(found, context, bundle.with_profile("paper").changed(language={"agnostic": ["anomaly"]})).map
    assert made.form == "mean"
    assert made.phrases == ()


def test_no_phrase_at_all() -> None:
    found, context, bundle = by_hand()
    explanation = explain(found, context, bundle.changed(language={"agnostic": [], "specific": []}))
    assert {each.removed_by for each in explanation.candidates} == {"score floor"}
    assert {each.label for each in explanation.candidates} == {""}


def test_an_unknown_phrase_is_refused_as_by_decide() -> None:
    found, context, bundle = by_hand()
    with pytest.raises(ValueError, match="not proposed for \\['dent'\\]"):
        explain(found, context, bundle.changed(language={"specific": ["dent"]}))
