"""What every feature extractor must do. A test class inherits the suite and gives the fixture `extractor`."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from saa_core.features import FeatureExtractor
from saa_core.prompts import SaliencyPrompt
from saa_core.types import RGB
from tests.contracts.images import IMAGES, noise


class FeatureExtractorContract:
    @pytest.fixture
    def extractor(self) -> FeatureExtractor:
        raise NotImplementedError

    @pytest.mark.parametrize("image", IMAGES)
    def test_features_are_a_finite_grid_of_the_promised_channels(self, extractor: FeatureExtractor, image: RGB) -> None:
        features, layout = extractor(image), extractor.layout
        assert features.dtype == np.float32
        assert features.ndim == 3
        assert np.isfinite(features).all()
        assert features.shape[-1] == extractor(noise((20, 30))).shape[-1]
        special = layout.magnitudes + layout.lines
        assert special <= features.shape[-1]
        assert features[..., features.shape[-1] - special :].min(initial=0) >= 0

    def test_what_a_bundle_leaves_open_is_one_extractor(self, extractor: FeatureExtractor) -> None:
        chosen = extractor.at(SaliencyPrompt(), 1)
        assert chosen.id == chosen.at(SaliencyPrompt(), 1).id
        assert chosen.id.startswith(extractor.name)

    def test_threads_do_not_disturb_one_another(self, extractor: FeatureExtractor) -> None:
        images = [noise((40 + number % 3, 50), number) for number in range(6)]
        alone = [extractor(image) for image in images]
        with ThreadPoolExecutor(3) as pool:
            for together, features in zip(pool.map(extractor, images), alone, strict=True):
                np.testing.assert_array_equal(together, features)

    def test_the_id_is_stable_and_holds_the_name(self, extractor: FeatureExtractor) -> None:
        before = extractor.id
        extractor(noise((8, 8)))
        assert extractor.id == before
        assert before.startswith(extractor.name)
