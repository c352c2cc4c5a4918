"""Propose and decide, on tensors worked out by hand, and the models behind their protocols as doubles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from saa_core import masks
from saa_core.features import FeatureLayout
from saa_core.generators.base import Proposals, Request
from saa_core.masks import Rle
from saa_core.pipeline import SegmentAnyAnomaly, best_confidence, decide, saliency_map
from saa_core.prompts import PromptBundle, SaliencyPrompt
from saa_core.refiners.base import Refined
from saa_core.rules import phrase_scores
from saa_core.types import RGB, Candidates, FloatMap, Query, SetLevels

SIZE = (10, 10)
DOUBLE = math.log(2)


def rectangle(x0: int, y0: int, x1: int, y1: int) -> Rle:
    mask = np.zeros(SIZE, np.bool_)
    mask[y0:y1, x0:x1] = True
    return masks.encode(mask)


def candidates(
    boxes: Sequence[tuple[int, int, int, int]], scores: Sequence[Sequence[float]], **more: object
) -> Candidates:
    """Candidates whose masks fill their boxes."""
    fields: dict[str, object] = {
        "image": "a",
        "height": SIZE[0],
        "width": SIZE[1],
        "phrases": ("anomaly", "crack"),
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "scores": np.array(scores, np.float32).reshape(len(boxes), 2),
        "masks": tuple(rectangle(*box) for box in boxes),
        "quality": np.ones(len(boxes), np.float32),
    }
    return Candidates(**{**fields, **more})  # type: ignore[arg-type]


def bundle(profile: str, **sections: object) -> PromptBundle:
    language = {"agnostic": ["anomaly"], "specific": ["crack"], "object": "plate"}
    return PromptBundle.from_content({"product": "plate", "profile": profile, "language": language, **sections})


def constant(value: float) -> FloatMap:
    return np.full(SIZE, value, np.float32)


class TestReference:
    """The released program's column of the table, worked out by hand."""

    BOXES = ((0, 0, 5, 5), (0, 0, 4, 5), (0, 0, 2, 2), (6, 6, 8, 8))
    SCORES = ((0.9, 0.0), (0.4, 0.0), (0.0, 0.1), (0.09, 0.05))

    def test_boxes_scores_and_map(self) -> None:
        found = candidates(self.BOXES, self.SCORES, object_boxes=np.array([[0, 0, 10, 5]], np.float32))
        prompt = bundle("reference", property={"area_max": 0.5})
        # exp(3 s) = 2 doubles every score.
        result = decide(found, constant(DOUBLE / 3), prompt)
        # Row 0: its box has exactly theta_area x object box = 0.5 x 50 pixels; the test is strict. Row 3: under 0.1.
        assert [region.candidate for region in result.regions] == [1, 2]
        assert set(result.removed) == {0, 3}
        assert [region.score for region in result.regions] == pytest.approx([0.8, 0.2], rel=1e-6)
        expected = np.zeros(SIZE)
        expected[:5, :4] = 0.8 / (1 + 1)
        expected[:2, :2] = (0.8 + 0.2) / (1 + 2)
        np.testing.assert_allclose(result.map, expected, rtol=1e-6)
        assert not result.bounded

    def test_no_location_test(self) -> None:
        found = candidates([(6, 6, 8, 8)], [(0.5, 0.0)], objects=(rectangle(0, 0, 4, 4),))
        assert len(decide(found, constant(0), bundle("reference")).regions) == 1

    def test_object_box_as_large_as_the_image_is_not_kept(self) -> None:
        found = candidates(self.BOXES[:1], self.SCORES[:1], object_boxes=np.array([[0, 0, 10, 10]], np.float32))
        # The base is then the image, 100 pixels, and 25 < 0.26 x 100.
        assert len(decide(found, constant(0), bundle("reference", property={"area_max": 0.26})).regions) == 1

    def test_several_objects_limit_the_object_box(self) -> None:
        boxes = np.array([[0, 0, 10, 6], [0, 0, 5, 8]], np.float32)
        found = candidates(self.BOXES[1:2], self.SCORES[1:2], object_boxes=boxes)
        # With two objects only the box of 40 pixels is under half of the image: 20 < 0.5 x 40 fails, 0.51 passes.
        half = bundle("reference", property={"area_max": 0.5, "objects": 2})
        assert not decide(found, constant(0), half).regions
        assert decide(found, constant(0), half.changed(property={"area_max": 0.51})).regions

    def test_two_objects_are_each_others_context(self) -> None:
        # On a grid of 2 x 2, object A is the left column, feature (1, 0) twice; object B the right one, (1, 0) above
        # (0, 1). s = (1 - max cos) / 2 among the other object's cells: 0 at A and at B's upper cell, 1/2 at its lower.
        features = np.array([[[1, 0], [1, 0]], [[1, 0], [0, 1]]], np.float32)
        prompt = bundle("reference", property={"objects": 2, "area_max": 0.5})
        assert prompt.saliency.source == "object"
        found = candidates(
            [(6, 6, 9, 9), (1, 1, 4, 4)],
            [(0.2, 0.0), (0.3, 0.0)],
            objects=(rectangle(0, 0, 5, 10), rectangle(5, 0, 10, 10)),
            object_boxes=np.array([[0, 0, 5, 9], [5, 0, 10, 9]], np.float32),
        )
        context = saliency_map(features, prompt.saliency, found.objects)
        np.testing.assert_allclose(context, [[0, 0], [0, 0.5]], atol=1e-7)
        blown_up = np.kron(context, np.ones((5, 5), np.float32))
        result = decide(found, blown_up, prompt)
        # Boxes of 9 pixels pass 9 < 0.5 x 45. The first lies in B's lower cell: exp(3 x 1/2); the second in A: exp(0).
        scores = [0.2 * math.exp(1.5), 0.3]
        assert [region.candidate for region in result.regions] == [0, 1]
        assert [region.score for region in result.regions] == pytest.approx(scores, rel=1e-6)
        assert result.map[7, 7] == pytest.approx(scores[0] / 2)
        assert result.map[2, 2] == pytest.approx(scores[1] / 2)

    def test_one_object_where_several_are_expected_has_no_saliency(self) -> None:
        prompt = bundle("reference", property={"objects": 2})
        context = saliency_map(np.ones((2, 2, 3), np.float32), prompt.saliency, (rectangle(0, 0, 5, 5),))
        result = decide(candidates([(1, 1, 3, 3)], [(0.4, 0.0)]), context, prompt)
        assert result.regions[0].score == pytest.approx(0.4)

    def test_duplicates_vote(self) -> None:
        twice = candidates([(0, 0, 2, 2)] * 2, [(0.4, 0.0)] * 2)
        assert decide(twice, constant(0), bundle("reference")).map[0, 0] == pytest.approx(0.8 / 3)


class TestPaper:
    """The equations as printed."""

    def test_masks_scores_and_map(self) -> None:
        context = constant(0)
        context[:, :5] = DOUBLE
        found = candidates([(0, 0, 4, 4), (2, 2, 6, 4)], [(0.1, 0.3), (0.2, 0.0)])
        result = decide(found, context, bundle("paper"))
        # Region 0 lies in the salient half: x 2. Region 1 has 6 of its 8 pixels there: x 2 ** 0.75.
        scores = [0.6, 0.2 * 2**0.75]
        assert [region.score for region in result.regions] == pytest.approx(scores, rel=1e-6)
        assert [region.label for region in result.regions] == ["crack", "anomaly"]
        expected = np.zeros(SIZE)
        expected[:4, :4] = scores[0]
        expected[2:4, 2:6] = scores[1]
        expected[2:4, 2:4] = (scores[0] + scores[1]) / 2
        np.testing.assert_allclose(result.map, expected, rtol=1e-6)
        np.testing.assert_allclose(result.heat(), expected / (1 + expected), rtol=1e-6)

    def test_area_and_location_are_tested_on_masks(self) -> None:
        found = candidates(
            [(0, 0, 4, 4), (3, 3, 7, 5), (0, 0, 2, 2)], [(0.5, 0.0)] * 3, objects=(rectangle(0, 0, 5, 5),)
        )
        result = decide(found, constant(0), bundle("paper", property={"area_max": 0.6, "location": 0.6}))
        # 16 of 25 pixels are too large; 4 of 8 pixels on the object are too few.
        assert [region.candidate for region in result.regions] == [2]
        assert "0.6400 of the object's area" in result.removed[0]
        assert "0.50 of it on the object" in result.removed[1]

    def test_top_k(self) -> None:
        found = candidates([(0, 0, 2, 2), (4, 4, 6, 6), (7, 7, 9, 9)], [(0.2, 0.0), (0.9, 0.0), (0.5, 0.0)])
        result = decide(found, constant(0), bundle("paper", confidence={"top_k": 2}))
        assert [region.candidate for region in result.regions] == [1, 2]
        assert result.removed == {0: "Eq. 8: not among the 2 best"}
        assert result.map[0, 0] == 0


class TestBatch:
    def test_the_map_is_dense(self) -> None:
        context = constant(0.25)
        result = decide(candidates([(0, 0, 2, 2)], [(0.5, 0.0)]), context, bundle("batch"))
        assert result.bounded
        np.testing.assert_array_equal(result.map, context)

    def test_it_stays_bounded_where_the_saliency_does_not(self) -> None:
        # Eq. 5 as printed with N = 3: the first cell is at 0 from itself and at 2 from both others, (0 + 2 + 2) / 3.
        features = np.array([[[1, 0], [-1, 0], [-1, 0]]], np.float32)
        prompt = bundle("batch", saliency={"source": "image-nearest", "neighbours": 3})
        context = saliency_map(features, prompt.saliency)
        np.testing.assert_allclose(context, [[4 / 3, 2 / 3, 2 / 3]], rtol=1e-6)
        result = decide(candidates([], []), context, prompt)
        assert result.heat().max() == result.score == 1

    def test_duplicates_are_suppressed(self) -> None:
        found = candidates([(0, 0, 4, 4), (0, 0, 4, 3), (5, 5, 7, 7)], [(0.5, 0.0), (0.9, 0.0), (0.6, 0.0)])
        result = decide(found, constant(0.1), bundle("batch", confidence={"suppression": 0.5}))
        assert [region.candidate for region in result.regions] == [1, 2]
        assert "more than 0.5 of the smaller" in result.removed[0]

    def test_region_floor(self) -> None:
        found = candidates([(0, 0, 4, 4), (5, 5, 7, 7)], [(0.5, 0.0), (0.1, 0.0)])
        result = decide(found, constant(0), bundle("batch", decision={"region_floor": 0.2}))
        assert [region.candidate for region in result.regions] == [0]
        assert result.removed[1] == "confidence 0.091 under 0.2"

    @pytest.mark.parametrize("scores", [[], [(0.5, 0.0)], [(0.1, 0.0), (0.02, 0.3)]])
    def test_the_best_confidence_is_that_of_decide_without_a_floor(self, scores: list[tuple[float, float]]) -> None:
        found = candidates([(0, 0, 4, 4), (5, 5, 7, 7)][: len(scores)], scores)
        open_floor = decide(found, constant(0.2), bundle("batch", decision={"region_floor": 0}))
        expected = max((region.confidence for region in open_floor.regions), default=0.0)
        assert best_confidence(found, constant(0.2), bundle("batch")) == expected

    def test_the_sets_floor_counts(self) -> None:
        found = candidates([(0, 0, 4, 4), (5, 5, 7, 7)], [(0.5, 0.0), (0.1, 0.0)])
        levels = SetLevels(np.zeros(2, np.float32), 0.05)
        assert len(decide(found, constant(0), bundle("batch"), levels).regions) == 2

    def test_without_saliency_the_map_comes_from_regions(self) -> None:
        result = decide(candidates([(0, 0, 2, 2)], [(0.5, 0.0)]), constant(0.9), bundle("batch").without("saliency"))
        assert result.map[0, 0] == pytest.approx(0.5)
        assert result.map[9, 9] == 0


class TestPhraseScores:
    def test_threshold_then_weight_then_limit(self) -> None:
        prompt = bundle("batch").changed(
            language={
                "agnostic": [{"text": "anomaly", "threshold": 0.5}],
                "specific": [{"text": "crack", "weight": 3}],
            }
        )
        scores = phrase_scores(candidates([(0, 0, 1, 1), (1, 1, 2, 2)], [(0.4, 0.2), (0.5, 0.4)]), prompt)
        np.testing.assert_allclose(scores, [[0, 0.6], [0.5, 1.0]], rtol=1e-6)

    def test_a_silenced_phrase_removes_what_only_it_saw(self) -> None:
        prompt = bundle("batch").changed(language={"specific": [{"text": "crack", "weight": 0}]})
        result = decide(candidates([(0, 0, 2, 2)], [(0.0, 0.9)]), constant(0.1), prompt)
        assert not result.regions

    def test_unknown_phrase(self) -> None:
        prompt = bundle("batch").changed(language={"specific": ["dent"]})
        with pytest.raises(ValueError, match="not proposed for \\['dent'\\]"):
            decide(candidates([], []), constant(0), prompt)


@pytest.mark.parametrize("profile", ["batch", "paper", "reference"])
def test_no_candidate(profile: str) -> None:
    result = decide(candidates([], []), constant(0), bundle(profile))
    assert not result.regions
    assert result.map.max() == 0
    assert result.score == 0


def test_candidates_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="1 masks and 2 phrases"):
        candidates([(0, 0, 1, 1)], [(0.1, 0.2)], quality=np.ones(2, np.float32))


class Boxes:
    """A generator that always sees the left half."""

    name = "boxes"
    id = "boxes-1"
    reads_set = False

    def parts(self, query: Query) -> tuple[Query, ...]:
        return (query,)

    def __call__(self, requests: Sequence[Request]) -> list[Proposals]:
        return [self._propose(*request.image.shape[:2], len(request.query.phrases)) for request in requests]

    def _propose(self, height: int, width: int, phrases: int) -> Proposals:
        box = np.array([[0, 0, width / 2, height]], np.float32)
        return Proposals(box, np.full((1, phrases), 0.5, np.float32), None, ("wick",), None, box)


class Fill:
    """A refiner whose masks fill their boxes."""

    name = "fill"
    id = "fill-1"
    reads_set = False

    def embed(self, image: RGB) -> None: ...

    def __call__(
        self, image: RGB, boxes: NDArray[np.float32], saliency: FloatMap, embedding: FloatMap | None = None
    ) -> Refined:
        height, width = image.shape[:2]
        filled = []
        for x0, y0, x1, y1 in boxes.astype(int):
            filled.append(masks.encode_crop(np.ones((y1 - y0, x1 - x0), np.bool_), y0, x0, height, width))
        return Refined(tuple(filled), np.ones(len(boxes), np.float32))


class Colour:
    """Features that are the pixels."""

    name = "colour"
    id = "colour-1"
    layout = FeatureLayout()

    def at(self, prompt: SaliencyPrompt, objects: int) -> Colour:
        return self

    def __call__(self, image: RGB) -> FloatMap:
        return image.astype(np.float32)


def test_propose_asks_every_model_and_counts() -> None:
    method = SegmentAnyAnomaly(Boxes(), Fill(), Colour())
    image = np.zeros((4, 6, 3), np.uint8)
    found = method.propose("k", image, Query(("anomaly", "wick"), object="candle"), np.zeros((4, 6), np.float32))
    assert method.calls == 3  # the generator, the object's mask, the candidate's
    assert method.features(image).shape == (4, 6, 3)
    assert method.calls == 4
    assert found.phrases == ("anomaly", "wick")
    assert found.unknown_words == ("wick",)
    assert found.masks[0].area == 12
    assert found.objects == found.masks
    assert found.pending is None
    assert method.models == {"generator": "boxes", "refiner": "fill", "features": "colour"}
    assert method.ids == {"generator": "boxes-1", "refiner": "fill-1", "features": "colour-1"}
    assert method.id == "boxes-1+fill-1+colour-1"


class TestSaliencyMap:
    def test_sources_of_one_image(self) -> None:
        features = np.zeros((2, 2, 2), np.float32)
        features[0, 0, 0], features[0, 1, 1], features[1, 0, 0], features[1, 1, 0] = 1, 1, 1, 1
        nearest = bundle("paper", saliency={"neighbours": 2}).saliency
        farthest = bundle("reference", saliency={"neighbours": 2}).saliency
        # Cell (0, 1) is orthogonal to the other three: its two nearest are itself and one of them.
        np.testing.assert_allclose(saliency_map(features, nearest), [[0, 0.5], [0, 0]])
        np.testing.assert_allclose(saliency_map(features, farthest), [[0.25, 0.5], [0.25, 0.25]])

    def test_objects(self) -> None:
        features = np.zeros((1, 4, 2), np.float32)
        features[0, :, 0] = 1
        features[0, 3] = 0, 1
        prompt = bundle("reference", property={"objects": 2}).saliency
        objects = [
            masks.encode(np.array([[True, False, False, False]])),
            masks.encode(np.array([[False, False, True, True]])),
        ]
        np.testing.assert_allclose(saliency_map(features, prompt, objects), [[0, 0, 0, 0.5]])
        np.testing.assert_allclose(saliency_map(features, prompt), np.zeros((1, 4)))

    def test_the_set_is_not_an_image(self) -> None:
        with pytest.raises(ValueError, match="prior_map"):
            saliency_map(np.zeros((1, 1, 1), np.float32), bundle("batch").saliency)
