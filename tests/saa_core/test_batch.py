"""The set as context: calibrated, whatever the order of the images, bounded in memory, and calm on odd sets."""

import math
import tracemalloc
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from saa_core.batch import REFERENCES, BatchContext, Saliency, dense_map, image_score
from saa_core.features import FeatureLayout, FilterBank
from saa_core.views import PLAIN, FittedView, View, reduce_grid, sample_cells
from saa_core.whitening import Whitening

Floats = NDArray[np.float32]
Image = NDArray[np.uint8]
BY_HAND = FeatureLayout(whiten=True, magnitudes=3, lines=1)
CNN = FeatureLayout()


def image_features(number: int, height: int = 12, width: int = 10, channels: int = 6) -> Floats:
    """Features of one of a set of alike images; channels from the third on are at least 0, the last is a line."""
    rng = np.random.default_rng(number)
    grid = rng.standard_normal((height, width, channels)).astype(np.float32)
    grid[..., 2:] = np.exp(0.3 * grid[..., 2:])
    return grid


def a_set(count: int, **size: int) -> dict[str, Floats]:
    return {f"image-{number}": image_features(number, **size) for number in range(count)}


def fit(images: Mapping[str, Floats], layout: FeatureLayout = BY_HAND) -> BatchContext:
    return BatchContext.fit(list(images), images.__getitem__, layout)


def surface(seed: int, size: tuple[int, int] = (96, 96)) -> Image:
    return np.random.default_rng(seed).integers(110, 140, (*size, 3), dtype=np.uint8)


def from_images(images: Mapping[str, Image]) -> tuple[BatchContext, Callable[[str], Floats]]:
    bank = FilterBank()

    def load(key: str) -> Floats:
        return bank(images[key])

    return BatchContext.fit(list(images), load, bank.layout), load


class TestFit:
    def test_order_and_repetition_do_not_matter(self) -> None:
        images = a_set(7)
        forward = fit(images)
        backward = BatchContext.fit([*reversed(images), "image-3"], images.__getitem__, BY_HAND)
        assert forward.to_bytes() == backward.to_bytes()
        for key, features in images.items():
            np.testing.assert_array_equal(forward.saliency(key, features), backward.saliency(key, features))

    def test_an_image_does_not_reach_the_next(self) -> None:
        images = a_set(5)
        context = fit(images)
        before = context.saliency("image-0", images["image-0"])
        context.saliency("image-1", images["image-1"] * 50)
        np.testing.assert_array_equal(before, context.saliency("image-0", images["image-0"]))

    def test_other_images_make_another_context(self) -> None:
        assert fit(a_set(5)).to_bytes() != fit(a_set(6)).to_bytes()

    def test_at_most_so_many_images_are_read_one_at_a_time(self) -> None:
        read: list[str] = []

        def load(key: str) -> Floats:
            read.append(key)
            return image_features(int(key), 4, 4)

        context = BatchContext.fit([str(number) for number in range(3 * REFERENCES)], load, BY_HAND)
        assert len(read) == len(set(read)) == len(context.keys) == REFERENCES
        assert set(read) == set(context.keys)
        # Taken by their keys alone: not the first ones of the list.
        assert any(int(key) >= REFERENCES for key in read)

    def test_memory_does_not_grow_with_the_set(self) -> None:
        def peak(count: int) -> int:
            tracemalloc.start()
            BatchContext.fit([str(n) for n in range(count)], lambda key: image_features(int(key), 24, 24), BY_HAND)
            used = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return used

        peak(REFERENCES)  # what is made once, such as caches
        assert peak(4 * REFERENCES) < 1.1 * peak(REFERENCES)

    def test_no_image_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least one image"):
            fit({})

    def test_grids_may_differ_in_size(self) -> None:
        images = {"a": image_features(1, 3, 3), "b": image_features(2, 20, 9), "c": image_features(3, 1, 30)}
        context = fit(images)
        for key, features in images.items():
            assert context.saliency(key, features).novelty.shape == features.shape[:2]


class TestSaliency:
    @pytest.mark.parametrize("layout", [BY_HAND, CNN])
    @pytest.mark.parametrize("count", [1, 2, 3, 12])
    def test_what_is_unlike_the_set_stands_out(self, layout: FeatureLayout, count: int) -> None:
        images = a_set(count, height=20, width=20)
        images["image-0"][8:11, 8:11, :2] = -6
        novelty = fit(images, layout).saliency("image-0", images["image-0"]).novelty
        assert np.unravel_index(novelty.argmax(), novelty.shape) in [(y, x) for y in (8, 9, 10) for x in (8, 9, 10)]

    def test_an_image_from_outside_is_compared_with_all(self) -> None:
        images = a_set(6)
        novelty = fit(images).saliency("elsewhere", images["image-2"]).novelty
        inside = fit(images).saliency("image-2", images["image-2"]).novelty
        assert novelty.mean() < inside.mean()

    @pytest.mark.parametrize("count", [1, 2])
    def test_without_a_set_an_image_outside_still_has_a_score(self, count: int) -> None:
        novelty = fit(a_set(count)).saliency("elsewhere", image_features(99)).novelty
        assert np.isfinite(novelty).all()

    def test_a_set_of_one_image_is_compared_with_itself_alone(self) -> None:
        two = a_set(2)
        changed = two | {"image-1": two["image-1"] * 1.01}
        metric = Whitening.fit(two["image-0"].reshape(-1, 6), 3)
        views = [FittedView.fit(PLAIN[0], _references(images, PLAIN[0]), CNN) for images in (two, changed)]
        near = [view.cells[0] for view in views]
        np.testing.assert_array_equal(near[0], near[1])
        scores = [view.novelty(two["image-0"], 0) * (view.span[1] - view.span[0]) for view in views]
        assert np.corrcoef(scores[0].ravel(), scores[1].ravel())[0, 1] > 0.99
        assert metric.mean.shape == (6,)

    def test_calibration_puts_the_median_at_0_and_the_tail_at_1(self) -> None:
        images = a_set(10, height=40, width=40)
        view = View(2304, 200, False, 0.7, 1.0)
        fitted = FittedView.fit(view, _references(images, view), FeatureLayout(whiten=True, magnitudes=4))
        low, high = fitted.span
        assert 0 < low < high
        novelty = np.concatenate([fitted.novelty(f, n).ravel() for n, f in enumerate(images.values())])
        assert 0.4 < (novelty > 0).mean() < 0.8
        assert (novelty > 1).mean() < 0.005
        assert (novelty >= 0).all()

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_equal_constant_images_have_nothing(self, count: int) -> None:
        images = {str(n): np.full((90, 60, 3), 77, np.uint8) for n in range(count)}
        context, load = from_images(images)
        for key, image in images.items():
            saliency = context.saliency(key, load(key))
            assert saliency.novelty.max() < 0.03
            assert saliency.lines.max() < 1e-3
            assert image_score(dense_map(saliency, image)) < 0.03

    def test_awkward_images_have_finite_maps(self) -> None:
        shapes = [(8, 8), (1, 1), (20, 200), (200, 20), (64, 48)]
        images = {str(n): surface(n, shape) for n, shape in enumerate(shapes)}
        images["black"] = np.zeros((30, 30, 3), np.uint8)
        context, load = from_images(images)
        for key, image in images.items():
            heat = dense_map(context.saliency(key, load(key)), image)
            assert np.isfinite(heat).all()
            assert heat.min() >= 0
            assert heat.max() < 1

    def test_wide_features_without_units_work(self) -> None:
        images = a_set(4, height=6, width=6, channels=600)
        novelty = fit(images, CNN).saliency("image-1", images["image-1"]).novelty
        assert novelty.shape == (6, 6)
        # Only directions count: a brighter image has the same features.
        brighter = {key: 3 * features for key, features in images.items()}
        np.testing.assert_allclose(
            novelty, fit(brighter, CNN).saliency("image-1", brighter["image-1"]).novelty, atol=1e-3
        )

    def test_lines_are_judged_by_calm_images(self) -> None:
        images = a_set(6, height=30, width=30)
        images["image-4"][15, :, -1] = 40
        context = fit(images)
        lines = {key: context.saliency(key, features).lines for key, features in images.items()}
        assert lines["image-4"][15].min() > 1
        assert np.delete(lines["image-4"], 15, axis=0).max() < 0.5
        assert max(lines[key].max() for key in images if key != "image-4") < 0.8

    def test_lines_by_hand(self) -> None:
        responses = np.ones((5, 5, 1), np.float32)
        peaked = responses.copy()
        peaked[2, 2] = 12
        images = {key: np.concatenate([np.ones((5, 5, 1), np.float32), responses], axis=-1) for key in "abc"}
        images["d"] = np.concatenate([np.ones((5, 5, 1), np.float32), peaked], axis=-1)
        context = fit(images, FeatureLayout(whiten=True, lines=1))
        # The usual response is 1, in units of 1 + 2 * 1 + 0.001 a third: calm images stay under the floor of 1.
        assert context.line_level == pytest.approx([1])
        assert context.line_peak == pytest.approx([1])
        lines = context.saliency("d", images["d"]).lines
        assert lines[2, 2] == pytest.approx(math.log(12 / 3.001), abs=1e-5)
        assert lines.sum() == lines[2, 2]


def _references(images: Mapping[str, Floats], view: View) -> Floats:
    return np.stack([sample_cells(features, view, key) for key, features in images.items()])


class TestStorage:
    @pytest.mark.parametrize("layout", [BY_HAND, CNN])
    @pytest.mark.parametrize("count", [1, 4])
    def test_what_is_read_back_is_equal(self, layout: FeatureLayout, count: int) -> None:
        images = a_set(count)
        context = fit(images, layout)
        again = BatchContext.from_bytes(context.to_bytes())
        assert again.to_bytes() == context.to_bytes()
        assert again.keys == context.keys
        for key, features in images.items():
            np.testing.assert_array_equal(again.saliency(key, features), context.saliency(key, features))


class TestViews:
    def test_reduction_is_a_mean(self) -> None:
        features = np.full((40, 30, 3), 2.5, np.float32)
        reduced = reduce_grid(features, 100)
        assert reduced.shape == (12, 9, 3)
        np.testing.assert_allclose(reduced, 2.5, rtol=1e-5)

    def test_reduction_keeps_places(self) -> None:
        features = np.zeros((40, 40, 1), np.float32)
        features[30, 10] = 1
        reduced = reduce_grid(features, 400)[..., 0]
        assert reduced.shape == (20, 20)
        assert np.unravel_index(reduced.argmax(), reduced.shape) == (15, 5)
        assert reduced.sum() == pytest.approx(1 / 4, rel=1e-4)

    def test_a_small_grid_is_left_alone(self) -> None:
        features = image_features(1)
        assert reduce_grid(features, 120) is features

    def test_a_sample_is_drawn_by_the_key(self) -> None:
        features, view = image_features(1), View(2304, 20, False, 0.0, 1.0)
        first, same, other = (sample_cells(features, view, key) for key in ("a", "a", "b"))
        np.testing.assert_array_equal(first, same)
        assert first.shape == (20, 6)
        assert (first != other).any()


class TestWhitening:
    def test_the_sample_becomes_white(self) -> None:
        rng = np.random.default_rng(0)
        cells = (rng.standard_normal((4000, 3)) @ rng.standard_normal((3, 3)) + 5).astype(np.float32)
        white = Whitening.fit(cells, 0)(cells)
        np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-3)
        covariance = np.cov(white.T) * 3
        np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-3)
        assert np.diag(covariance).max() < 1.001

    def test_units_do_not_matter(self) -> None:
        cells = image_features(3)[..., :5].reshape(-1, 5)
        units = np.array([1, 10, 0.5, 100, 3], np.float32)
        first, second = Whitening.fit(cells, 3)(cells), Whitening.fit(cells * units, 3)(cells * units)
        apart = [np.linalg.norm(white[:, None] - white, axis=-1) for white in (first, second)]
        np.testing.assert_allclose(apart[0], apart[1], rtol=1e-2, atol=1e-3)

    def test_a_constant_sample_maps_to_0(self) -> None:
        cells = np.full((10, 4), 3, np.float32)
        np.testing.assert_array_equal(Whitening.fit(cells, 2)(cells), 0)


class TestDenseMap:
    def test_it_follows_the_edges_of_the_image(self) -> None:
        flat = np.full((200, 200, 3), 40, np.uint8)
        edged = flat.copy()
        edged[56:144, 56:144] = 220
        coarse = np.zeros((20, 20), np.float32)
        coarse[5:15, 5:15] = 2
        plain, fitted = (dense_map(Saliency(coarse, np.zeros_like(coarse)), image) for image in (flat, edged))
        # Without an edge the coarse square's border is a ramp; with one, it steps there.
        assert plain[100, 100] == pytest.approx(fitted[100, 100], abs=1e-3)
        assert fitted[100, 56] - fitted[100, 55] > 3 * (plain[100, 56] - plain[100, 55])

    @pytest.mark.parametrize(("shape", "expected"), [((300, 1200), (100, 400)), ((8, 8), (200, 200))])
    def test_it_has_the_proportions_of_the_image(self, shape: tuple[int, int], expected: tuple[int, int]) -> None:
        zero = np.zeros((9, 9), np.float32)
        heat = dense_map(Saliency(zero, zero), np.zeros((*shape, 3), np.uint8))
        assert heat.shape == expected
        assert not heat.any()

    def test_lines_add_to_novelty(self) -> None:
        image, one = np.full((200, 200, 3), 90, np.uint8), np.ones((20, 20), np.float32)
        np.testing.assert_allclose(dense_map(Saliency(one, 2 * one), image), 1 - math.exp(-3), rtol=1e-4)


class TestImageScore:
    def test_it_is_the_mean_of_the_highest(self) -> None:
        heat = np.zeros((20, 50), np.float32)
        heat[0, :5] = 0.2, 0.4, 0.6, 0.8, 1.0
        heat[1, :] = 0.1
        assert image_score(heat) == pytest.approx(0.6)

    def test_of_a_small_map_it_is_the_maximum(self) -> None:
        assert image_score(np.array([[0.25, 0.75]], np.float32)) == 0.75

    def test_of_an_empty_map_it_is_0(self) -> None:
        assert image_score(np.zeros((0, 0), np.float32)) == 0
