"""What every region refiner must do. A test class inherits the suite and gives the fixture `refiner`."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from saa_core.refiners import Refined, RegionRefiner
from saa_core.types import RGB, Boxes
from tests.contracts.images import IMAGES, noise, peak


def boxes_of(image: RGB) -> Boxes:
    """The whole image, its middle, less than a pixel of it, and two boxes that reach beyond it; read-only."""
    height, width = image.shape[:2]
    shares = [(0, 0, 1, 1), (0.3, 0.3, 0.7, 0.7), (0.5, 0.5, 0.501, 0.501), (-0.5, -0.5, 0.4, 0.4), (0.6, 0.1, 2, 0.9)]
    boxes = np.array(shares, np.float32) * np.array([width, height, width, height], np.float32)
    boxes.setflags(write=False)
    return boxes


def refine(refiner: RegionRefiner, image: RGB) -> Refined:
    return refiner(image, boxes_of(image), peak())


class RegionRefinerContract:
    @pytest.fixture
    def refiner(self) -> RegionRefiner:
        raise NotImplementedError

    @pytest.mark.parametrize("image", IMAGES)
    def test_every_box_has_a_mask_of_the_images_size(self, refiner: RegionRefiner, image: RGB) -> None:
        found, count = refine(refiner, image), len(boxes_of(image))
        assert [mask.size for mask in found.masks] == [image.shape[:2]] * count
        assert found.quality.dtype == np.float32
        assert found.quality.shape == (count,)
        assert ((found.quality >= 0) & (found.quality <= 1)).all()

    def test_no_box_is_no_mask(self, refiner: RegionRefiner) -> None:
        found = refiner(noise((20, 30)), np.zeros((0, 4), np.float32), peak())
        assert found.masks == ()
        assert found.quality.shape == (0,)

    def test_an_embedding_of_the_image_changes_nothing(self, refiner: RegionRefiner) -> None:
        image = noise((40, 50))
        again = refiner(image, boxes_of(image), peak(), refiner.embed(image))
        assert again.masks == refine(refiner, image).masks

    def test_threads_do_not_disturb_one_another(self, refiner: RegionRefiner) -> None:
        images = [noise((40, 50), number) for number in range(6)]
        alone = [refine(refiner, image) for image in images]
        with ThreadPoolExecutor(3) as pool:
            for together, found in zip(pool.map(lambda image: refine(refiner, image), images), alone, strict=True):
                assert together.masks == found.masks
                np.testing.assert_array_equal(together.quality, found.quality)

    def test_the_id_is_stable_and_holds_the_name(self, refiner: RegionRefiner) -> None:
        before = refiner.id
        refine(refiner, noise((8, 8)))
        assert refiner.id == before
        assert before.startswith(refiner.name)
