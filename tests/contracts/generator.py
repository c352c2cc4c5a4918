"""What every region generator must do. A test class inherits the suite and gives the fixture `generator`."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from saa_core.generators import Proposals, RegionGenerator
from saa_core.types import RGB
from tests.contracts.images import IMAGES, noise, peak

PHRASES = ("anomaly", "dark scratch", "frobnicated wick")


def propose(generator: RegionGenerator, image: RGB) -> Proposals:
    return generator(image, PHRASES, peak())


class RegionGeneratorContract:
    @pytest.fixture
    def generator(self) -> RegionGenerator:
        raise NotImplementedError

    @pytest.mark.parametrize("image", IMAGES)
    def test_boxes_and_scores_are_in_range(self, generator: RegionGenerator, image: RGB) -> None:
        found, (height, width) = propose(generator, image), image.shape[:2]
        assert found.boxes.dtype == found.scores.dtype == np.float32
        assert found.boxes.shape == (len(found.boxes), 4)
        assert found.scores.shape == (len(found.boxes), len(PHRASES))
        assert ((found.boxes >= 0) & (found.boxes <= (width, height, width, height))).all()
        assert (found.boxes[:, :2] < found.boxes[:, 2:]).all()
        assert ((found.scores >= 0) & (found.scores <= 1)).all()

    @pytest.mark.parametrize("image", IMAGES)
    def test_evidence_is_none_or_a_map_for_each_phrase(self, generator: RegionGenerator, image: RGB) -> None:
        evidence = propose(generator, image).evidence
        if evidence is not None:
            assert evidence.dtype == np.float16
            assert evidence.ndim == 3
            assert len(evidence) == len(PHRASES)
            assert ((evidence >= 0) & (evidence <= 1)).all()

    def test_unknown_words_are_words_of_the_phrases_each_once(self, generator: RegionGenerator) -> None:
        unknown = generator(noise((20, 30)), (*PHRASES, PHRASES[-1]), peak()).unknown_words
        assert set(unknown) <= set(" ".join(PHRASES).split())
        assert len(unknown) == len(set(unknown))

    def test_without_phrases_there_are_no_scores(self, generator: RegionGenerator) -> None:
        assert generator(noise((20, 30)), (), peak()).scores.shape[1] == 0

    def test_threads_do_not_disturb_one_another(self, generator: RegionGenerator) -> None:
        images = [noise((40, 50), number) for number in range(6)]
        alone = [propose(generator, image) for image in images]
        with ThreadPoolExecutor(3) as pool:
            for together, found in zip(pool.map(lambda image: propose(generator, image), images), alone, strict=True):
                np.testing.assert_array_equal(together.boxes, found.boxes)
                np.testing.assert_array_equal(together.scores, found.scores)

    def test_the_id_is_stable_and_holds_the_name(self, generator: RegionGenerator) -> None:
        before = generator.id
        propose(generator, noise((8, 8)))
        assert generator.id == before
        assert before.startswith(generator.name)
