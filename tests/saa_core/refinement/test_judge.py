"""What a judge counts on evidence is what `decide` does to the pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from saa_core import masks
from saa_core.confidence import set_floor
from saa_core.masks import Rle
from saa_core.metrics import RegionCounts
from saa_core.pipeline import best_confidence, decide
from saa_core.prompts import PromptBundle
from saa_core.refinement.evidence import CLOSE, FOUND, LEVELS, MATCH, Truth
from saa_core.refinement.judge import ALARM, HIT, LABELS, NEAR, REGION_HIT, SHOWN, Judge
from saa_core.refinement.knobs import Knobs
from saa_core.types import AnomalyResult, Candidates, SetLevels
from tests.saa_core.refinement.scenes import Scene, SceneSet, random_bundle, random_knobs, random_scene, random_set

SEEDS = st.integers(0, 2**32 - 1)
ROUNDING = 2e-6
"""Of the dense map: its sums are in another order, so a pixel at the very cut may fall on either side."""


# ---------------------------------------------------------------------------------------------------- the pixels' word


def results(images: SceneSet, bundle: PromptBundle) -> list[AnomalyResult]:
    """What `decide` says of the reviewed images, at the floor of their whole set."""
    view = images.neighbours.index(bundle.saliency.neighbours)
    everything = (*images.reviewed, *images.others)
    best = [best_confidence(scene.candidates, scene.contexts[view], bundle) for scene in everything]
    floor = float(set_floor(np.array(best), np.array(bundle.decision.region_floor)))
    levels = SetLevels(images.calm, floor)
    return [decide(scene.candidates, scene.contexts[view], bundle, levels) for scene in images.reviewed]


@dataclass(frozen=True)
class Limits:
    """The least and the most that the counts of an image may be, (5 + L,) each."""

    least: NDArray[np.float64]
    most: NDArray[np.float64]


def counted(scene: Scene, result: AnomalyResult, bundle: PromptBundle, labels: Sequence[str]) -> Limits:
    """Counts of one image by its pixels."""
    shown = [region.mask for region in result.regions]
    regions = np.zeros(LABELS + len(labels))
    regions[SHOWN] = len(shown)
    for column, least in ((REGION_HIT, MATCH), (NEAR, CLOSE)):
        counts = RegionCounts(least)
        counts.update(shown, scene.truth.masks)
        regions[column] = counts.hits
    for mask, label in zip(scene.truth.masks, scene.truth.labels, strict=True):
        drawn = masks.decode(mask)
        overlaps = [share(drawn & masks.decode(one), drawn | masks.decode(one)) for one in shown]
        regions[LABELS + labels.index(label)] += max(overlaps, default=0) >= FOUND
    unsure = ROUNDING if bundle.confidence.map == "dense" else 0.0
    cut = np.float32(bundle.decision.threshold)
    areas = [marked(scene, result.map, cut + np.float32(move)) for move in (unsure, -unsure)]
    least, most = regions.copy(), regions.copy()
    (least[HIT], least[ALARM]), (most[HIT], most[ALARM]) = areas
    return Limits(least, most)


def marked(scene: Scene, heat: NDArray[np.float32], cut: np.float32) -> tuple[float, float]:
    """Shares of the image that are rightly and wrongly marked; a pixel of a coarser map may be both."""
    truth = shrunk(scene.area, heat.shape)
    above = heat >= cut
    return float((truth * above).mean()), float(((1 - truth) * above).mean())


def shrunk(area: NDArray[np.bool_], size: tuple[int, ...]) -> NDArray[np.float64]:
    """Share of each pixel of a grid that is defective, on a grid so fine that both sizes divide it."""
    rows, columns = (math.lcm(old, new) for old, new in zip(area.shape, size, strict=True))
    fine = area.repeat(rows // area.shape[0], axis=0).repeat(columns // area.shape[1], axis=1)
    means: NDArray[np.float64] = fine.reshape(size[0], rows // size[0], size[1], columns // size[1]).mean(axis=(1, 3))
    return means


def strip(width: int) -> Rle:
    """The first pixels of a row of twelve."""
    return masks.encode(np.arange(12)[None, :] < width)


def share(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float:
    return float(part.sum() / whole.sum()) if whole.any() else 0.0


def check(bundle: PromptBundle, sets: Sequence[SceneSet], knobs: Sequence[Knobs]) -> None:
    """All counts of all bundles, judged at once, against the pixels one by one."""
    judge = Judge(bundle, [images.evidence(bundle) for images in sets])
    counts = judge.counts(knobs)
    assert counts.shape == (len(knobs), sum(len(images.reviewed) for images in sets), LABELS + len(judge.labels))
    for row, each in zip(counts, knobs, strict=True):
        child = each.applied(bundle, bundle.id)
        scenes = [scene for images in sets for scene in images.reviewed]
        said = [result for images in sets for result in results(images, child)]
        for number, (scene, result) in enumerate(zip(scenes, said, strict=True)):
            limits = counted(scene, result, child, judge.labels)
            assert (row[number] >= limits.least - 1e-6).all()
            assert (row[number] <= limits.most + 1e-6).all()
        rows = [sorted(region.candidate for region in result.regions) for result in said]
        scores = [{region.candidate: region.score for region in result.regions} for result in said]
        decided = list(judge.decided(each))
        assert [sorted(shown.tolist()) for _, (_, shown) in decided] == rows
        for (_, (raised, shown)), exact in zip(decided, scores, strict=True):
            assert {row: raised[row] for row in shown.tolist()} == pytest.approx(exact, rel=1e-12)


# ------------------------------------------------------------------------------------------------------------ the tests


class TestOnPixels:
    @given(SEEDS, st.sampled_from(["batch", "paper", "reference"]))
    @settings(max_examples=60)
    def test_every_count_is_that_of_the_pixels(self, seed: int, profile: str) -> None:
        rng = np.random.default_rng(seed)
        bundle = random_bundle(rng, profile, objects=int(rng.integers(1, 3)))
        views = 1 if profile == "batch" else 2
        sets = [random_set(rng, bundle, views=views) for _ in range(int(rng.integers(1, 4)))]
        check(bundle, sets, [random_knobs(rng, bundle, sets[0].neighbours) for _ in range(4)])

    @given(SEEDS)
    @settings(max_examples=10)
    def test_more_candidates_than_a_word_has_bits(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        bundle = random_bundle(rng, "paper")
        scene = random_scene(rng, "many", bundle.texts, 1, (9, 11), most=0)
        while len(scene.candidates) <= 64:
            scene = random_scene(rng, "many", bundle.texts, 1, (9, 11), most=120)
        images = SceneSet((scene,), (), np.zeros(len(bundle.texts), np.float32), (bundle.saliency.neighbours,))
        check(bundle, [images], [random_knobs(rng, bundle, images.neighbours) for _ in range(4)])

    @given(SEEDS)
    @settings(max_examples=40)
    def test_profiles_may_be_mixed(self, seed: int) -> None:
        """Any measure with any map, the dense one under several numbers of neighbours."""
        rng = np.random.default_rng(seed)
        bundle = random_bundle(rng).changed(
            property={"measure": str(rng.choice(["mask", "box"]))},
            saliency={"measure": str(rng.choice(["mean", "contrast"]))},
            confidence={"map": str(rng.choice(["mean", "shrunk", "dense"]))},
        )
        images = random_set(rng, bundle)
        check(bundle, [images], [random_knobs(rng, bundle, images.neighbours) for _ in range(4)])

    def test_something_is_shown_found_and_marked(self) -> None:
        """The random images are no desert: each column says something of some of them."""
        totals = np.zeros(LABELS + 2)
        for seed in range(30):
            rng = np.random.default_rng(seed)
            bundle = random_bundle(rng)
            images = random_set(rng, bundle, views=1)
            judge = Judge(bundle, [images.evidence(bundle)])
            if len(judge.labels) == 2:
                counts = judge.counts([random_knobs(rng, bundle, images.neighbours) for _ in range(8)])
                totals += (counts > 0).sum(axis=(0, 1))
        assert (totals > 20).all()


class TestOverlappingTruth:
    """Where reviewed regions overlap, a shown region may match several, and the most pairs count."""

    def test_pairs_are_one_to_one_and_as_many_as_possible(self) -> None:
        bundle = PromptBundle(product="plate", profile="paper").changed(language={"agnostic": ["anomaly"]})
        # The better one matches both reviewed regions, the other only the first: taken greedily, a pair is lost.
        candidates = Candidates(
            image="a",
            height=1,
            width=12,
            phrases=bundle.texts,
            boxes=np.zeros((2, 4), np.float32),
            scores=np.array([[0.9], [0.5]], np.float32),
            masks=(strip(6), strip(4)),
            quality=np.ones(2, np.float32),
        )
        truth = Truth((strip(5), strip(9)), ("crack", "crack"))
        scene = Scene(candidates, (np.zeros((1, 3), np.float32),), truth)
        images = SceneSet((scene,), (), np.zeros(1, np.float32), (400,))
        own = Knobs.of(bundle)
        several = [own, own._replace(top_k=1.0), own._replace(thresholds=(0.95,))]
        check(bundle, [images], several)
        counts = Judge(bundle, [images.evidence(bundle)]).counts(several)
        assert counts[:, 0, REGION_HIT].tolist() == [2, 1, 0]


class TestJudging:
    def test_what_is_asked_twice_is_judged_once(self) -> None:
        rng = np.random.default_rng(1)
        bundle = random_bundle(rng, "paper")
        judge = Judge(bundle, [random_set(rng, bundle).evidence(bundle)])
        first, second = (random_knobs(rng, bundle, (400,)) for _ in range(2))
        once = judge.counts([first, second, first])
        assert judge.judged == 2
        again = judge.counts([second])
        assert judge.judged == 2
        assert np.array_equal(once[0], once[2])
        assert np.array_equal(once[1], again[0])

    def test_a_bundle_is_judged_the_same_in_any_company(self) -> None:
        rng = np.random.default_rng(2)
        bundle = random_bundle(rng, "batch")
        evidence = [random_set(rng, bundle, views=1).evidence(bundle) for _ in range(3)]
        knobs = [random_knobs(rng, bundle, (400,)) for _ in range(600)]
        together = Judge(bundle, evidence).counts(knobs)
        alone = [Judge(bundle, evidence).counts([each])[0] for each in knobs[::97]]
        assert together[::97] == pytest.approx(np.array(alone), abs=1e-6)

    def test_room_is_made_when_it_is_used_up(self) -> None:
        rng = np.random.default_rng(3)
        bundle = random_bundle(rng, "paper")
        judge = Judge(bundle, [random_set(rng, bundle).evidence(bundle)], room=1)
        knobs = [random_knobs(rng, bundle, (400,)) for _ in range(3)]
        first = judge.counts(knobs)
        assert np.array_equal(judge.counts(knobs), first)
        assert judge.judged == 6

    def test_a_dense_map_is_cut_at_its_levels_alone(self) -> None:
        rng = np.random.default_rng(4)
        bundle = random_bundle(rng, "batch")
        judge = Judge(bundle, [random_set(rng, bundle, views=1).evidence(bundle)])
        wrong = Knobs.of(bundle)._replace(threshold=float(LEVELS[0]) + 1e-4)
        with pytest.raises(ValueError, match=r"not cut at \[0.0051\]"):
            judge.counts([wrong])

    def test_neighbours_that_have_no_map_are_refused(self) -> None:
        rng = np.random.default_rng(5)
        bundle = random_bundle(rng, "paper")
        judge = Judge(bundle, [random_set(rng, bundle).evidence(bundle)])
        with pytest.raises(ValueError, match="not in tuple"):
            judge.counts([Knobs.of(bundle)._replace(neighbours=7)])

    def test_a_bundle_without_phrases_shows_nothing(self) -> None:
        bundle = PromptBundle(product="plate", profile="paper").changed(language={"agnostic": [], "specific": []})
        rng = np.random.default_rng(6)
        check(bundle, [random_set(rng, bundle, views=1)], [Knobs.of(bundle)])
