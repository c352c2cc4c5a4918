"""Fusing phrases with saliency against the formula, one pixel at a time."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saa_core import language
from saa_core.language import calm_levels, fuse, peaks

Floats = NDArray[np.floating]


def by_loop(saliency: Floats, evidence: Floats, weights: Floats, calm: Floats) -> Floats:
    """The equations of `saa_core.language`, for maps of one size."""
    fused = np.empty(saliency.shape)
    says = [p for p in range(len(weights)) if weights[p] > 0 and evidence[p].any()]
    for i, j in np.ndindex(saliency.shape):
        total = 0.0
        for p in says:
            total += weights[p] * min(max((float(evidence[p, i, j]) / calm[p] - 1) / 3, 0), 1)
        x = min(total / len(says), 1) if says else 0
        s = float(saliency[i, j])
        fused[i, j] = 1 - (1 - s) * (1 - x * min(0.25 + 3 * s, 1)) ** 2
    return fused


@given(st.integers(0, 2**32 - 1), st.integers(0, 4))
def test_fuse_is_the_formula(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    saliency = rng.random((5, 6), np.float32)
    evidence = rng.random((count, 5, 6)).astype(np.float16)
    evidence[rng.random(count) < 0.3] = 0
    weights = rng.choice([0.0, 0.5, 1.0, 3.0], count).astype(np.float32)
    calm = rng.uniform(0.05, 0.5, count).astype(np.float32)
    fused = fuse(saliency, evidence, weights, calm)
    assert fused.dtype == np.float32
    assert fused.min() >= 0
    assert fused.max() <= 1
    np.testing.assert_allclose(fused, by_loop(saliency, evidence, weights, calm), atol=1e-5)


def test_phrases_that_say_nothing_change_nothing() -> None:
    rng = np.random.default_rng(0)
    saliency = rng.random((8, 8), np.float32)
    crack = rng.random((1, 8, 8)).astype(np.float16)
    silent = np.zeros((2, 8, 8), np.float16)
    assert fuse(saliency, silent, np.ones(2)) is saliency
    assert fuse(saliency, crack, np.zeros(1)) is saliency
    both = fuse(saliency, np.concatenate([silent, crack]), np.ones(3))
    np.testing.assert_array_equal(both, fuse(saliency, crack, np.ones(1)))


def test_a_phrase_only_adds_and_more_weight_adds_more() -> None:
    rng = np.random.default_rng(1)
    saliency = rng.random((20, 20), np.float32)
    evidence = rng.random((2, 20, 20)).astype(np.float16)
    calm = np.array([0.2, 0.2], np.float32)
    light, heavy = (fuse(saliency, evidence, np.array([1.0, weight]), calm) for weight in (0.5, 2.0))
    assert (light >= saliency - 1e-6).all()
    assert (heavy >= light - 1e-6).all()
    assert (heavy > light + 0.01).any()


def test_evidence_of_another_size_covers_the_same_field_of_view() -> None:
    evidence = np.zeros((1, 10, 20), np.float16)
    evidence[0, :5, :10] = 1  # the upper left quarter
    evidence[0, 5:, 10:] = 0.01
    fused = fuse(np.full((40, 80), 0.1, np.float32), evidence, np.ones(1), np.array([0.1], np.float32))
    assert fused.shape == (40, 80)
    assert fused[:18, :36].min() > 0.3
    assert fused[24:, 44:].max() == pytest.approx(0.1, abs=1e-6)


def test_the_set_is_a_better_reference_than_the_image_alone() -> None:
    """A wide defect is its image's own 99 % level; calm images of the set know better."""
    calm_image = np.full((1, 20, 20), 0.06, np.float16)
    wide = calm_image.copy()
    wide[0, 5:15, 5:15] = 0.3
    saliency = np.full((20, 20), 0.1, np.float32)
    levels = calm_levels(np.array([peaks(image) for image in (calm_image, calm_image, wide, wide)]))
    assert levels == pytest.approx([0.06], abs=1e-3)
    assert fuse(saliency, wide, np.ones(1))[10, 10] == pytest.approx(0.1, abs=1e-6)
    assert fuse(saliency, wide, np.ones(1), levels)[10, 10] > 0.5


def test_peaks_are_quantiles_of_each_phrase() -> None:
    evidence = np.stack([np.linspace(0, 1, 100).reshape(10, 10), np.zeros((10, 10))])
    np.testing.assert_allclose(peaks(evidence), [0.99, 0], atol=1e-6)
    assert peaks(np.zeros((0, 4, 4))).shape == (0,)


def test_calm_levels_of_one_image_are_its_peaks() -> None:
    of_image = np.array([[0.1, 0.4]], np.float32)
    np.testing.assert_array_equal(calm_levels(of_image), of_image[0])


def test_examples() -> None:
    assert doctest.testmod(language).failed == 0
