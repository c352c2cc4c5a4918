"""Figures against the metrics that anybody may compute, and by hand where nothing is defined."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from saa_core.metrics import PixelCounts, RegionCounts
from saa_core.refinement.effort import DEFAULT, seconds
from saa_core.refinement.evidence import CLOSE
from saa_core.refinement.judge import Judge
from saa_core.refinement.objective import Tally, f1
from tests.saa_core.refinement.scenes import random_bundle, random_knobs, random_set
from tests.saa_core.refinement.test_judge import results

SEEDS = st.integers(0, 2**32 - 1)


def known(value: float | None) -> float:
    return math.nan if value is None else value


class TestAgainstMetrics:
    @given(SEEDS, st.sampled_from(["paper", "reference"]))
    @settings(max_examples=60)
    def test_pixels_and_regions_of_images_of_one_size(self, seed: int, profile: str) -> None:
        rng = np.random.default_rng(seed)
        bundle = random_bundle(rng, profile)
        images = random_set(rng, bundle, (6, 7), views=1)
        knobs = random_knobs(rng, bundle, images.neighbours)
        judge = Judge(bundle, [images.evidence(bundle)])
        tally = Tally(judge.images, judge.labels)
        figures = tally.figures(judge.counts([knobs]), np.ones(len(judge.images)), DEFAULT)
        pixels, regions, close = PixelCounts(), RegionCounts(), RegionCounts(CLOSE)
        child = knobs.applied(bundle, bundle.id)
        said = results(images, child)
        for scene, result in zip(images.reviewed, said, strict=True):
            pixels.update(result.map, scene.area)
            for counts in (regions, close):
                counts.update([region.mask for region in result.regions], scene.truth.masks)
        assert known(figures.pixel_f1) == pytest.approx(
            known(pixels.f1_at(child.decision.threshold)), abs=1e-6, nan_ok=True
        )
        drawn = any(scene.truth.masks for scene in images.reviewed)
        assert known(figures.region_f1) == pytest.approx(regions.f1() if drawn else math.nan, abs=1e-6, nan_ok=True)
        alarmed = [bool(r.regions) for s, r in zip(images.reviewed, said, strict=True) if not s.truth.masks]
        assert known(figures.false_alarms) == pytest.approx(np.mean(alarmed) if alarmed else math.nan, nan_ok=True)
        spent = seconds(
            DEFAULT,
            *(
                np.array([float(count)])
                for count in (close.hits, regions.hits - close.hits, regions.alarms, regions.misses)
            ),
        )
        whole = len(images.reviewed)
        assert figures.seconds == pytest.approx((spent[0] - DEFAULT.look) / whole + DEFAULT.look)


# ------------------------------------------------------------------------------------------------- by hand, on counts


class Evidence:
    """Just what a tally reads of an image."""

    def __init__(self, truth: float, *labels: str) -> None:
        self.truth, self.labels, self.good = truth, labels, not labels


IMAGES = (Evidence(0.2, "hole", "hole"), Evidence(0.1, "crack"), Evidence(0.0), Evidence(0.0))
TALLY = Tally(IMAGES, ("crack", "hole"))  # type: ignore[arg-type]
ONE = np.array(
    [
        [0.1, 0.1, 1, 1, 2, 0, 1],
        [0.1, 0.0, 1, 0, 1, 1, 0],
        [0.0, 0.1, 0, 0, 3, 0, 0],
        [0.0, 0.0, 0, 0, 0, 0, 0],
    ]
)
PERFECT = np.array(
    [
        [0.2, 0.0, 2, 2, 2, 0, 2],
        [0.1, 0.0, 1, 1, 1, 1, 0],
        [0.0, 0.0, 0, 0, 0, 0, 0],
        [0.0, 0.0, 0, 0, 0, 0, 0],
    ]
)
COUNTS: NDArray[np.float64] = np.stack([ONE, PERFECT])
ALL = np.ones(4)


class TestByHand:
    def test_objective(self) -> None:
        pixel, region = 0.4 / (0.2 + 0.2 + 0.3), 4 / (6 + 3)
        assert TALLY.objective(COUNTS, ALL) == pytest.approx([(pixel + region) / 2, 1])

    def test_images_count_as_often_as_they_are_drawn(self) -> None:
        drawn = np.array([[1.0, 0, 0, 2], [0, 1, 1, 0], [0, 0, 1, 1]])
        objective = TALLY.objective(COUNTS, drawn)
        assert objective.shape == (3, 2)
        assert objective[0] == pytest.approx([(0.2 / 0.4 + 2 / 4) / 2, 1])
        assert objective[1] == pytest.approx([(0.2 / 0.3 + 2 / 5) / 2, 1])
        assert np.isnan(objective[2]).all()
        assert TALLY.false_alarms(COUNTS, drawn) == pytest.approx(np.array([[0, 0], [1, 0], [0.5, 0]]))
        found = TALLY.found(COUNTS, drawn)
        assert found == pytest.approx(
            np.array([[[math.nan, 0.5], [math.nan, 1]], [[1, math.nan]] * 2, [[math.nan] * 2] * 2]), nan_ok=True
        )

    def test_false_alarms_without_good_images(self) -> None:
        assert np.isnan(TALLY.false_alarms(COUNTS, np.array([1.0, 1, 0, 0]))).all()

    def test_seconds(self) -> None:
        shown_right = DEFAULT.accept + DEFAULT.adjust
        rest = DEFAULT.delete * 4 + DEFAULT.add * 1
        assert TALLY.seconds(COUNTS, ALL, DEFAULT) == pytest.approx(
            [DEFAULT.look + (shown_right + rest) / 4, DEFAULT.look + 3 * DEFAULT.accept / 4]
        )

    def test_figures(self) -> None:
        figures = TALLY.figures(COUNTS[:1], ALL, DEFAULT)
        assert figures.pixel_precision == pytest.approx(0.5)
        assert figures.pixel_recall == pytest.approx(2 / 3)
        assert figures.region_precision == pytest.approx(2 / 6)
        assert figures.region_recall == pytest.approx(2 / 3)
        assert figures.false_alarms == pytest.approx(0.5)
        assert figures.recall == pytest.approx({"crack": 1, "hole": 0.5})
        assert figures.objective == pytest.approx(TALLY.objective(COUNTS, ALL)[0])

    def test_figures_that_are_not_defined(self) -> None:
        figures = TALLY.figures(COUNTS[1:], np.array([0.0, 0, 1, 1]), DEFAULT)
        assert figures.objective is figures.pixel_f1 is figures.region_f1 is None
        assert figures.pixel_precision is figures.pixel_recall is figures.region_precision is None
        assert (figures.false_alarms, figures.recall, figures.seconds) == (0, {}, DEFAULT.look)
        nobody = TALLY.figures(COUNTS[1:], np.zeros(4), DEFAULT)
        assert nobody.seconds is nobody.false_alarms is None

    def test_no_labels_at_all(self) -> None:
        good = Tally(IMAGES[2:], ())  # type: ignore[arg-type]
        assert good.found(COUNTS[:, 2:, :5], np.ones(2)).shape == (2, 0)

    def test_f1_is_zero_where_nothing_is_found(self) -> None:
        assert f1(0.0, 0.0, 1.0) == 0
        assert np.isnan(f1(0.0, 1.0, 0.0))
