"""Filter-bank features: the spectral filters against filters in space, and images of every awkward shape."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import convolve, gaussian_filter

from saa_core.features import FilterBank
from saa_core.features.spectrum import Spectrum
from tests.contracts.extractor import FeatureExtractorContract

Floats = NDArray[np.float32]
Image = NDArray[np.uint8]


class TestFilterBankIsAnExtractor(FeatureExtractorContract):
    @pytest.fixture
    def extractor(self) -> FilterBank:
        return FilterBank()


def noise(*shape: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(height: int, width: int) -> Floats:
    rough = np.random.default_rng(1).standard_normal((height, width))
    return gaussian_filter(rough, 1.0).astype(np.float32)


def gabor_by_convolution(image: Floats, wavelength: float, angle: float) -> NDArray[np.float64]:
    """A complex Gabor filter without mean, sampled in space and applied with mirrored borders."""
    across, reach = 0.49 * wavelength, int(4 * wavelength)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    envelope = np.exp(-(u**2 + (0.6 * v) ** 2) / (2 * across**2))
    envelope /= envelope.sum()
    wave = np.exp(2j * np.pi * u / wavelength)
    kernel = envelope * (wave - (envelope * wave).sum())
    real, imaginary = (convolve(image.astype(np.float64), part, mode="reflect") for part in (kernel.real, kernel.imag))
    return np.hypot(real, imaginary)


class TestSpectrum:
    @pytest.mark.parametrize("angle", [0.0, np.pi / 6, np.pi / 2, 2.5])
    def test_gabor_is_the_convolution(self, angle: float) -> None:
        image = picture(40, 56)
        found = Spectrum(image).gabor(6.0, angle, 1)
        expected = gabor_by_convolution(image, 6.0, angle)
        np.testing.assert_allclose(found, expected, atol=0.02 * expected.max())

    def test_a_cropped_band_gives_the_middle_of_each_block(self) -> None:
        image = picture(64, 48)
        spectrum = Spectrum(image)
        fine, coarse = spectrum.gabor(9.0, 0.4, 1), spectrum.gabor(9.0, 0.4, 2)
        assert coarse.shape == (32, 24)
        means = fine.reshape(32, 2, 24, 2).mean(axis=(1, 3))
        np.testing.assert_allclose(coarse, means, atol=0.05 * fine.max())

    def test_a_constant_picture_answers_with_nothing(self) -> None:
        spectrum = Spectrum(np.full((32, 48), 0.7, np.float32))
        assert spectrum.gabor(9.0, 1.0, 4).max() < 1e-5
        assert max(response.max() for response in spectrum.ridges(1.4, 3.5, 2)) < 1e-5

    @pytest.mark.parametrize("brightness", [-1.0, 1.0])
    @pytest.mark.parametrize("direction", ["down", "across", "diagonal"])
    def test_a_thin_line_answers_in_its_sign_where_it_is(self, brightness: float, direction: str) -> None:
        image = np.zeros((64, 64), np.float32)
        if direction == "down":
            image[:, 20] = brightness
        elif direction == "across":
            image[20] = brightness
        else:
            image[np.arange(64), np.arange(64)] = brightness
        dark, bright = Spectrum(image).ridges(1.4, 3.5, 1)
        right, wrong = (dark, bright) if brightness < 0 else (bright, dark)
        inner = right[10:-10, 10:-10]
        on = image[10:-10, 10:-10] != 0
        assert inner[on].min() > 2 * wrong.max()
        assert inner[on].min() > inner[~on].max()

    def test_the_far_side_of_the_image_does_not_leak(self) -> None:
        image = np.zeros((64, 64), np.float32)
        image[:, 62] = 1
        assert Spectrum(image).gabor(4.5, 0.0, 1)[:, :20].max() < 1e-4


class TestFilterBank:
    def test_the_grid_covers_the_image_in_its_proportions(self) -> None:
        features = FilterBank()(noise(300, 600, 3))
        assert features.shape == (68, 136, 68)
        assert features.dtype == np.float32

    @pytest.mark.parametrize(
        "shape", [(1, 1), (8, 8), (2, 20), (20, 200), (700, 70), (37, 41), (1, 300), (500, 640), (383, 385)]
    )
    def test_any_size_gives_finite_features(self, shape: tuple[int, int]) -> None:
        features = FilterBank()(noise(*shape, 3))
        assert np.isfinite(features).all()
        assert (features[..., 6:] >= 0).all()
        assert min(features.shape[:2]) >= 4
        assert features.shape[0] * features.shape[1] < 4 * 9216

    @pytest.mark.parametrize("value", [0, 128, 255])
    def test_a_constant_image_has_only_its_colour(self, value: int) -> None:
        features = FilterBank()(np.full((90, 60, 3), value, np.uint8))
        assert features[..., 6:].max() < 1e-3
        assert np.ptp(features[..., :6], axis=(0, 1)).max() < 1e-4

    def test_the_same_image_has_the_same_bits(self) -> None:
        image = noise(60, 90, 3)
        before = image.copy()
        np.testing.assert_array_equal(FilterBank()(image), FilterBank()(image.copy()))
        np.testing.assert_array_equal(image, before)

    def test_a_defect_changes_the_features_around_it_only(self) -> None:
        image = noise(384, 384, 3) // 8 + 100
        other = image.copy()
        other[100:110, 100:110] = 255
        changed = np.abs(FilterBank()(image) - FilterBank()(other)).max(axis=-1)
        assert changed[25:27, 25:27].min() > 0.05
        assert changed[60:, 60:].max() < 1e-4

    def test_a_line_of_one_pixel_is_seen_in_its_cells(self) -> None:
        image = np.full((384, 384, 3), 180, np.uint8)
        image[:, 201] = 120
        dark, bright = FilterBank()(image)[10:-10, :, 64:66].transpose(2, 0, 1)
        assert (dark.argmax(axis=1) == 50).all()
        assert dark[:, 50].min() > 1.5 * bright.max()  # beside a line, its filter has lobes of the other sign

    def test_layout_counts_the_channels(self) -> None:
        layout = FilterBank().layout
        assert (layout.whiten, layout.magnitudes, layout.lines) == (True, 58, 4)
        assert FilterBank()(noise(20, 20, 3)).shape[-1] == 6 + layout.magnitudes + layout.lines

    def test_id_names_version_and_settings(self) -> None:
        name, version, digest = FilterBank().id.rsplit("-", 2)
        assert (name, version) == (FilterBank().name, "1")
        assert len(digest) == 8
