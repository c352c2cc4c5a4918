"""What every region generator must do. A test class inherits the suite and gives the fixture `generator`."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from saa_core.generators import Proposals, RegionGenerator, Request, merge
from saa_core.types import RGB, Query
from tests.contracts.images import IMAGES, noise, peak

PHRASES = ("anomaly", "dark scratch", "frobnicated wick")


QUERY = Query(PHRASES)


def propose(generator: RegionGenerator, image: RGB, query: Query = QUERY) -> Proposals:
    parts = generator.parts(query)
    return merge(query, parts, generator([Request(image, part, peak()) for part in parts]))


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
        # A detector's box may reach beyond the image, but its centre does not.
        centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
        assert ((centres >= 0) & (centres <= (width, height))).all()
        assert (found.boxes[:, :2] < found.boxes[:, 2:]).all()
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        if found.peaks is not None:
            assert found.peaks.shape == (len(found.boxes),)
            assert (found.peaks >= found.scores.max(axis=1, initial=0)).all()

    @pytest.mark.parametrize("image", IMAGES)
    def test_evidence_is_none_or_a_map_for_each_phrase(self, generator: RegionGenerator, image: RGB) -> None:
        evidence = propose(generator, image).evidence
        if evidence is not None:
            assert evidence.dtype == np.float16
            assert evidence.ndim == 3
            assert len(evidence) == len(PHRASES)
            assert ((evidence >= 0) & (evidence <= 1)).all()

    def test_unknown_words_are_words_of_the_phrases_each_once(self, generator: RegionGenerator) -> None:
        unknown = propose(generator, noise((20, 30)), Query((*PHRASES, "wick"))).unknown_words
        assert set(unknown) <= set(" ".join(PHRASES).split())
        assert len(unknown) == len(set(unknown))

    def test_without_phrases_there_are_no_scores(self, generator: RegionGenerator) -> None:
        assert propose(generator, noise((20, 30)), Query(())).scores.shape[1] == 0

    def test_no_request_is_no_answer(self, generator: RegionGenerator) -> None:
        assert generator([]) == []

    def test_requests_do_not_change_one_another(self, generator: RegionGenerator) -> None:
        """Several images and several queries of one call give what each of them gives alone."""
        images = [noise((40, 50)), noise((30, 60), 1)]
        requests = [
            Request(image, part, peak())
            for image in images
            for query in (Query(PHRASES), Query(PHRASES[:1]))
            for part in generator.parts(query)
        ]
        for request, together in zip(requests, generator(requests), strict=True):
            (alone,) = generator([request])
            np.testing.assert_allclose(together.boxes, alone.boxes, rtol=1e-4, atol=1e-3)
            np.testing.assert_allclose(together.scores, alone.scores, rtol=1e-4, atol=1e-5)

    def test_parts_share_out_the_phrases(self, generator: RegionGenerator) -> None:
        parts = generator.parts(Query(PHRASES, object="bottle"))
        assert sorted(phrase for part in parts for phrase in part.phrases) == sorted(PHRASES)

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
