"""The answer in plain words, for every fate that a candidate can have and everything that an expert can do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from saa_core import masks
from saa_core.answers import expert, expert_words, map_words, verdict, why
from saa_core.explanation import Explanation, explain
from saa_core.prompts import PromptBundle
from saa_core.reviews import PredictedRegion, Review, ReviewedRegion, compare
from saa_core.types import Candidates, SetLevels

SIDE = 20
MARCH = datetime(2025, 3, 2, 9, tzinfo=UTC)
Box = tuple[int, int, int, int]
LEFT, RIGHT, LOW = (1, 1, 5, 5), (10, 1, 14, 5), (1, 12, 5, 16)


def rectangle(x0: int, y0: int, x1: int, y1: int, side: int = SIDE) -> masks.Rle:
    mask = np.zeros((side, side), np.bool_)
    mask[y0:y1, x0:x1] = True
    return masks.encode(mask)


def explained(
    rows: Sequence[tuple[Box, tuple[float, float]]],
    *,
    levels: SetLevels | None = None,
    objects: tuple[masks.Rle, ...] = (),
    evidence: float | None = None,
    context: float = 0.0,
    **sections: Any,
) -> Explanation:
    """Candidates in boxes with scores of 'anomaly' and 'crack', by default without saliency and without a floor."""
    found = Candidates(
        image="a",
        height=SIDE,
        width=SIDE,
        phrases=("anomaly", "crack"),
        boxes=np.array([box for box, _ in rows], np.float32).reshape(-1, 4),
        scores=np.array([scores for _, scores in rows], np.float32).reshape(-1, 2),
        masks=tuple(rectangle(*box) for box, _ in rows),
        quality=np.ones(len(rows), np.float32),
        objects=objects,
        evidence=None if evidence is None else np.full((2, 4, 4), evidence, np.float16),
    )
    content = {"language": {"agnostic": ["anomaly"], "specific": ["crack"]}, "saliency": {"gain": 0}}
    content |= {"decision": {"region_floor": 0.0}} | sections
    bundle = PromptBundle.from_content({"product": "plate", **content})
    return explain(found, np.full((4, 4), context, np.float32), bundle, levels)


class TestVerdict:
    def test_nothing_was_proposed(self) -> None:
        assert verdict(explained([])) == "Not marked: the models proposed no region on this image."

    def test_marked(self) -> None:
        found = explained([(LEFT, (0.25, 0.5)), (RIGHT, (0.1, 0.1))], decision={"region_floor": 0.2})
        assert verdict(found) == (
            "Marked: 1 region of 2 candidates. #1 'crack' at x 1-5, y 1-5: "
            "its confidence is 0.33, and 0.20 is needed; the phrase scores 0.50."
        )

    @pytest.mark.parametrize(
        ("measure", "words"),
        [("contrast", "and it stands out from its surroundings by 0.00"), ("mean", "and its saliency is 0.50")],
    )
    def test_marked_by_saliency(self, measure: str, words: str) -> None:
        found = explained([(LEFT, (0.25, 0.5))], context=0.5, saliency={"gain": 1, "measure": measure})
        assert words in verdict(found)
        assert "needed" not in verdict(found)

    def test_marked_with_experience(self) -> None:
        steps = [[0.1, 0.4], [0.3, 0.96]]
        for accept, words in ((0.3, "were right; it needs no review; "), (0.4, "were right; ")):
            decision = {"region_floor": 0.0, "accept": accept, "calibration": steps}
            found = explained([(LEFT, (0.25, 0.5))], decision=decision)
            assert f"its confidence is 0.33; 96 % of such regions {words}the phrase scores" in verdict(found)
            first = found.candidates[0]
            assert (first.precision, first.needs_review) == (0.96, accept == 0.4)

    def test_not_marked(self) -> None:
        found = explained([(LEFT, (0.25, 0.0))], decision={"region_floor": 0.3})
        assert verdict(found) == (
            "Not marked: none of 1 candidate passes. Closest is #1 'anomaly' at x 1-5, y 1-5: "
            "its confidence is 0.20, and 0.30 is needed."
        )


class TestWhy:
    def last(self, found: Explanation) -> str:
        return why(found.candidates[-1], found)

    def test_no_phrase(self) -> None:
        assert self.last(explained([(LEFT, (0.0, 0.0))])) == "no phrase describes it"
        none = explained([(LEFT, (0.3, 0.0))], language={"agnostic": [], "specific": []})
        assert self.last(none) == "no phrase describes it"

    def test_a_phrase_under_its_threshold(self) -> None:
        words = {"agnostic": [{"text": "anomaly", "threshold": 0.3}], "specific": []}
        found = explained([(LEFT, (0.29, 0.9))], language=words)
        assert self.last(found) == "its best phrase 'anomaly' scores 0.29, and its threshold is 0.30"

    def test_a_silenced_phrase(self) -> None:
        words = {"agnostic": [{"text": "anomaly", "weight": 0}], "specific": []}
        found = explained([(LEFT, (0.29, 0.9))], language=words)
        assert self.last(found) == "its best phrase 'anomaly' (0.29) is silenced by a weight of 0"

    def test_the_score_floor_with_enough_digits(self) -> None:
        found = explained([(LEFT, (0.2996, 0.0))], decision={"score_floor": 0.3, "region_floor": 0})
        assert self.last(found) == "its best phrase scores 0.2996, and 0.3000 is needed"

    def test_too_small_too_large_beside_the_object(self) -> None:
        small = explained([(LEFT, (0.5, 0.0))], property={"area_min": 0.1})
        assert self.last(small) == "it covers 4.0 % of the inspected area, and 10.0 % is the least"
        large = explained([(LEFT, (0.5, 0.0))], property={"area_max": 0.04})
        assert self.last(large) == "it covers 4.0 % of the inspected area, and less than 4.0 % is allowed"
        beside = explained([(LEFT, (0.5, 0.0))], objects=(rectangle(4, 0, 20, 20),))
        assert self.last(beside) == "25.0 % of it lies on the object, and at least 50.0 % must"
        empty = explained([((5, 5, 5, 5), (0.5, 0.0))])
        assert self.last(empty) == "it has no area"

    def test_a_double(self) -> None:
        found = explained([(LEFT, (0.5, 0.0)), ((1, 1, 5, 4), (0.4, 0.0))])
        assert self.last(found) == "it doubles #1, a better one: they share 1.00 of the smaller, 0.50 is allowed"

    def test_the_floor_of_the_set(self) -> None:
        levels = SetLevels(np.zeros(2, np.float32), 0.25)
        found = explained([(LEFT, (0.25, 0.0))], levels=levels, decision={"region_floor": 0.4})
        expected = "its confidence is 0.20, and 0.25 is needed (this set's floor; the bundle's is 0.40)"
        assert self.last(found) == expected

    def test_too_many(self) -> None:
        found = explained([(LEFT, (0.5, 0.0)), (RIGHT, (0.4, 0.0))], confidence={"top_k": 1})
        assert self.last(found) == "by confidence it is number 2, and only the best 1 are shown"


class TestMap:
    def test_of_regions(self) -> None:
        found = explained([(LEFT, (0.5, 0.0))], confidence={"map": "mean"})
        assert map_words(found).startswith("Map: where regions lie, the sum of their scores over their number (Eq. 9)")
        shrunk = explained([(LEFT, (0.5, 0.0))], confidence={"map": "shrunk"})
        assert "over their number plus one (Eq. 9), of 1 region; image score 0.20." in map_words(shrunk)

    def test_of_saliency_alone(self) -> None:
        found = explained([], context=0.25)
        assert map_words(found) == "Map: saliency (batch) gives image score 0.25; no phrase adds to it."

    def test_of_phrases(self) -> None:
        calm = SetLevels(np.array([0.495, 0.125], np.float32), 0.0)
        found = explained([], context=0.25, evidence=0.5, levels=calm)
        assert map_words(found).endswith("; evidence above that of calm images: 'crack' 0.50 over 0.12.")
        quiet = explained([], context=0.25, evidence=0.5)
        assert map_words(quiet).endswith("0.25 with the phrases; no phrase is above its calm level.")


class TestExpert:
    FOUND = (
        (LEFT, (0.5, 0.0)),
        (RIGHT, (0.0, 0.4)),
        (LOW, (0.1, 0.0)),
    )

    def found(self) -> Explanation:
        return explained(self.FOUND, decision={"region_floor": 0.2})

    def review(self, reviewed: Sequence[ReviewedRegion] = (), shown: Sequence[Box] = (), **more: Any) -> Review:
        predicted = [PredictedRegion(str(i), "anomaly", "anomaly", 0.5, rectangle(*box)) for i, box in enumerate(shown)]
        fields: dict[str, Any] = {
            "product": "plate",
            "image": "a",
            "source": "masks",
            "id": "1",
            "state": "submitted",
            "annotator": "anna",
            "updated": MARCH,
            "verdict": None,
            "words": "",
            "lead_seconds": None,
            "run": None,
            "bundle": self.found().bundle.id,
            "aided": True,
            "regions": compare(predicted, reviewed),
        }
        return Review(**{**fields, **more})

    def said(self, *reviews: Review) -> list[str]:
        explanation = self.found()
        found = expert(reviews, explanation)
        assert found is not None
        return list(expert_words(found, explanation))

    def test_nobody(self) -> None:
        assert expert([], self.found()) is None

    def test_what_was_done_to_each_region(self) -> None:
        left = [
            ReviewedRegion("0", "anomaly", rectangle(*LEFT)),
            ReviewedRegion("1", "anomaly", rectangle(10, 1, 14, 4)),
            ReviewedRegion("2", "hole", rectangle(*LOW)),
            ReviewedRegion("new", "crack", rectangle(1, 12, 5, 14), "hair crack"),
        ]
        assert self.said(self.review(left, (LEFT, RIGHT, LOW, (16, 16, 18, 18)))) == [
            "Expert anna found it defective on 2025-03-02.",
            "  accepted 'anomaly': candidate #1 (IoU 1.00) is shown",
            "  redrew 'anomaly', IoU 0.75 with what was shown: candidate #2 (IoU 0.75) is shown",
            "  renamed to 'hole': candidate #3 (IoU 1.00) is not shown, its confidence is 0.09, and 0.20 is needed",
            "  rejected 'anomaly': no candidate lies there",
            "  added 'crack' (hair crack): candidate #3 (IoU 0.50) is not shown, "
            "its confidence is 0.09, and 0.20 is needed",
        ]

    def test_a_region_that_no_candidate_fits(self) -> None:
        added = ReviewedRegion(None, "crack", rectangle(4, 4, 20, 20))
        assert self.said(self.review([added]))[1].endswith("; nothing closer was proposed")

    def test_a_mask_of_another_size_meets_no_candidate(self) -> None:
        added = ReviewedRegion(None, "crack", rectangle(1, 1, 5, 5, side=40))
        assert self.said(self.review([added]))[1] == "  added 'crack': no candidate lies there"

    def test_good_in_words_under_another_bundle(self) -> None:
        said = self.said(self.review(shown=(LEFT,), words="only dust", bundle="0123"))
        assert said[0] == (
            "Expert anna found it good on 2025-03-02, in words: 'only dust' (shown: regions of bundle 0123)."
        )
        assert said[1] == "  rejected 'anomaly': candidate #1 (IoU 1.00) is shown"

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ({"state": "skipped"}, "skipped it"),
            ({"state": "withdrawn"}, "withdrew the review"),
            ({"state": "unreadable"}, "left nothing readable"),
            ({"verdict": "unsure"}, "is unsure of it"),
            ({"verdict": "good"}, "called it good and left regions on it, which is no finding"),
        ],
    )
    def test_no_finding(self, more: dict[str, str], words: str) -> None:
        left = [ReviewedRegion("0", "anomaly", rectangle(*LEFT))]
        said = self.said(self.review(left, (LEFT,), **more))
        assert said[0] == f"Expert anna {words} on 2025-03-02."

    def test_the_newest_finding_counts_and_not_a_later_skip(self) -> None:
        later = self.review(annotator="bert", id="2", state="skipped", updated=MARCH.replace(day=3))
        assert self.said(later, self.review())[0] == "Expert anna found it good on 2025-03-02."
        assert self.said(later)[0] == "Expert bert skipped it on 2025-03-03."
