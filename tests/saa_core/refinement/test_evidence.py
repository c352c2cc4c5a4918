"""Atoms are the pixels, counted; what is gathered of an image is what `decide` would read of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from saa_core import masks, rules
from saa_core.errors import MaskError
from saa_core.masks import Rle
from saa_core.prompts import PromptBundle
from saa_core.refinement.evidence import LEVELS, Atoms, Truth, cut, gather
from saa_core.refinement.judge import EvidenceSet, Judge
from saa_core.refinement.knobs import Knobs
from tests.saa_core.refinement.scenes import gathered, random_bundle, random_knobs, random_masks, random_scene

SEEDS = st.integers(0, 2**32 - 1)
BUNDLE = PromptBundle(product="plate", profile="batch")
SILENT = np.zeros(2, np.float32)


def atoms_by_pixel(found: list[Rle], truth: Rle) -> dict[tuple[bool, ...], tuple[int, int]]:
    """Pixels, and defective ones, of each set of masks that some pixel lies in: a literal loop."""
    grids, area = [masks.decode(mask) for mask in found], masks.decode(truth)
    counted: dict[tuple[bool, ...], tuple[int, int]] = {}
    for row in range(truth.height):
        for column in range(truth.width):
            signature = tuple(bool(grid[row, column]) for grid in grids)
            pixels, defective = counted.get(signature, (0, 0))
            counted[signature] = pixels + 1, defective + int(area[row, column])
    counted.pop((False,) * len(found), None)
    return counted


def eq9_by_pixel(found: list[Rle], scores: NDArray[np.float64], row: int, column: int, extra: int) -> float:
    """Eq. 9 at one pixel: a literal loop over the regions."""
    total, cover = 0.0, 0
    for mask, score in zip(found, scores, strict=True):
        if masks.decode(mask)[row, column]:
            total, cover = total + float(score), cover + 1
    return total / (cover + extra) if cover else 0.0


class TestAtoms:
    @given(SEEDS, st.sampled_from([0, 1, 5, 8, 9, 70]))
    @settings(max_examples=60)
    def test_they_are_the_pixels_counted(self, seed: int, count: int) -> None:
        rng = np.random.default_rng(seed)
        height, width = (int(side) for side in rng.integers(1, 10, 2))
        found = random_masks(rng, height, width, count)
        truth = masks.union(random_masks(rng, height, width, 3))
        atoms, pixels = cut(found, truth), height * width
        expected = atoms_by_pixel(found, truth)
        assert atoms.members.shape == (len(expected), count)
        assert {tuple(row) for row in atoms.members.tolist()} == set(expected)
        for row, size, defective in zip(atoms.members.tolist(), atoms.sizes, atoms.truth, strict=True):
            assert (size * pixels, defective * pixels) == pytest.approx(expected[tuple(row)], abs=1e-9)

    @given(SEEDS, st.sampled_from(["paper", "reference"]))
    @settings(max_examples=40)
    def test_equation_9_on_them_is_a_loop_over_pixels(self, seed: int, profile: str) -> None:
        rng = np.random.default_rng(seed)
        bundle = random_bundle(rng, profile)
        scene = random_scene(rng, "a", bundle.texts, 1)
        knobs = random_knobs(rng, bundle, (bundle.saliency.neighbours,))
        found = EvidenceSet((gathered(scene, bundle, SILENT),), (), (bundle.saliency.neighbours,))
        judge = Judge(bundle, [found])
        _, (scores, shown) = next(iter(judge.decided(knobs)))
        regions, extra = [scene.candidates.masks[row] for row in shown], int(profile == "reference")
        marked = np.array(
            [
                [
                    np.float32(eq9_by_pixel(regions, scores[shown], row, column, extra)) >= np.float32(knobs.threshold)
                    for column in range(scene.candidates.width)
                ]
                for row in range(scene.candidates.height)
            ]
        )
        counts = judge.counts([knobs])[0, 0, :2]
        assert counts == pytest.approx([(marked & scene.area).mean(), (marked & ~scene.area).mean()], abs=1e-6)

    def test_of_no_masks(self) -> None:
        nothing = cut([], masks.encode(np.ones((3, 3), np.bool_)))
        assert isinstance(nothing, Atoms)
        assert nothing.members.shape == (0, 0)
        assert nothing.sizes.size == nothing.truth.size == 0


class TestGathered:
    @given(SEEDS)
    @settings(max_examples=40)
    def test_what_regions_share(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        bundle = random_bundle(rng)
        scene = random_scene(rng, "a", bundle.texts, 2)
        found = gathered(scene, bundle, np.zeros(len(bundle.texts), np.float32))
        grids = [masks.decode(mask) for mask in scene.candidates.masks]
        for row, mine in enumerate(grids):
            for column, other in enumerate(grids):
                smaller = min(mine.sum(), other.sum())
                assert found.overlap[row, column] == ((mine & other).sum() / smaller if smaller else 0)
            for column, drawn in enumerate(map(masks.decode, scene.truth.masks)):
                union = (mine | drawn).sum()
                assert found.iou[row, column] == ((mine & drawn).sum() / union if union else 0)
        assert found.iou.shape == (len(grids), len(scene.truth.masks))
        assert found.truth == pytest.approx(scene.area.mean())
        assert found.good is not bool(scene.truth.masks)

    def test_what_is_said_of_the_image(self) -> None:
        rng = np.random.default_rng(0)
        scene = random_scene(rng, "key", BUNDLE.texts, 1, (4, 6))
        truth = Truth((masks.encode(np.ones((4, 6), np.bool_)),), ("hole",))
        found = gather(scene.candidates, scene.contexts, BUNDLE, SILENT, truth, name="a.png", lot="7", aided=False)
        assert (found.image, found.name, found.lot, found.aided) == ("key", "a.png", "7", False)
        assert (found.truth, found.labels, found.good) == (1, ("hole",), False)

    def test_rows_are_measured_as_the_bundle_says(self) -> None:
        rng = np.random.default_rng(3)
        scene = random_scene(rng, "a", BUNDLE.texts, 1, (8, 9), most=20)
        by_box = BUNDLE.changed(property={"measure": "box"}, saliency={"measure": "mean"})
        for bundle in (BUNDLE, by_box):
            rows = gathered(scene, bundle, SILENT).rows
            judged = rules.judge(scene.candidates, scene.contexts[0], bundle, 0.0)
            assert rows.areas.tolist() == judged.areas.tolist()
            assert rows.object_pixels == judged.object_pixels
            assert rows.inside.tolist() == judged.inside.tolist()
            assert judged.rows.size
            assert rows.saliency[0, judged.rows].tolist() == judged.saliency.tolist()

    def test_reviewed_masks_of_another_size_are_refused(self) -> None:
        rng = np.random.default_rng(3)
        scene = random_scene(rng, "a", BUNDLE.texts, 1, (8, 9), most=20)
        wrong = replace(scene, truth=Truth((masks.encode(np.ones((9, 8), np.bool_)),), ("hole",)))
        with pytest.raises(MaskError, match="8 x 9 and 9 x 8"):
            gathered(wrong, BUNDLE, SILENT)


class TestDense:
    def test_only_pixels_with_evidence_are_kept_apart(self) -> None:
        """One cell of sixteen has evidence of the second phrase; half of it is defective."""
        scene = random_scene(np.random.default_rng(1), "a", BUNDLE.texts, 1, (8, 8), most=0)
        evidence = np.zeros((2, 4, 4), np.float16)
        evidence[1, 0, 1] = 0.5
        area = np.zeros((8, 8), np.bool_)
        area[0, 2:4] = True
        saliency = np.full((4, 4), 0.25, np.float32)
        saliency[0, 1] = 1.5
        found = gather(
            replace(scene.candidates, evidence=evidence),
            [saliency],
            BUNDLE,
            np.array([0.1, 0.2], np.float32),
            Truth((masks.encode(area),), ("hole",)),
            name="a",
            lot="a",
            aided=True,
        )
        (dense,) = found.dense
        assert found.says.tolist() == [False, True]
        assert dense.excess == pytest.approx(np.array([[0.0], [0.5]]))
        assert dense.saliency.tolist() == [1]
        assert (dense.defective.tolist(), dense.truth.tolist(), dense.pixel) == ([0], [0.5 / 16], 1 / 16)
        quiet = dict(zip(dense.levels.tolist(), dense.quiet.tolist(), strict=True))
        assert quiet[0.25] == [15 / 16, 0]
        assert quiet[0.255] == [0, 0]

    def test_the_champion_may_cut_between_the_levels(self) -> None:
        bundle = BUNDLE.changed(decision={"threshold": 0.4321})
        scene = random_scene(np.random.default_rng(1), "a", bundle.texts, 1, (8, 8))
        evidence = gathered(scene, bundle, SILENT)
        assert set(evidence.dense[0].levels.tolist()) == {*LEVELS.tolist(), 0.4321}
        counts = Judge(bundle, [EvidenceSet((evidence,), (), (400,))]).counts([Knobs.of(bundle)])
        marked = scene.contexts[0] >= np.float32(0.4321)
        assert scene.candidates.evidence is None
        assert counts[0, 0, :2].sum() == pytest.approx(marked.mean(), abs=1e-6)

    def test_there_is_none_where_the_map_is_equation_9(self) -> None:
        bundle = BUNDLE.with_profile("paper")
        scene = random_scene(np.random.default_rng(1), "a", bundle.texts, 1, (8, 8))
        assert gathered(scene, bundle, SILENT).dense == ()
