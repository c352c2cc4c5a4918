"""What was said in the App comes back as reviews: tags, and masks that were edited there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrations.catalog import Catalog
from integrations.fiftyone.media import whole_mask
from saa_core.errors import ServiceError
from saa_core.masks import Rle, decode, encode, iou
from saa_core.reviews import Review, evidence
from tests.fiftyone_room import ONE, TWO, Room
from tests.gallery import PRODUCT, SECOND, kept


def reviews(room: Room) -> dict[str, Review]:
    with Catalog(room.gallery.settings.catalog_url) as catalog:
        return evidence(catalog.reviews(PRODUCT))


def tag(room: Room, number: int, rank: int, name: str, field: str = ONE.predictions) -> None:
    sample = room.sample(number)
    sample[field].detections[rank].tags.append(name)
    sample.save()


@pytest.fixture
def published(room: Room) -> Room:
    """A room in which the first image shows two regions, the second one, the third none, and so on."""
    room.gallery.label("run1")
    room.publish()
    return room


class TestTags:
    def test_an_image_counts_once_every_region_is_tagged(self, published: Room) -> None:
        tag(published, 0, 0, "accepted")
        intake = published.pull()
        assert intake.states == {}
        assert intake.refused == [("0000.png", "1 of its 2 regions have no tag; it counts once all have one")]
        tag(published, 0, 1, "rejected")
        intake = published.pull()
        assert intake.findings == {"defective": 1}
        assert intake.outcomes == {"accepted": 1, "rejected": 1}
        review = reviews(published)[published.gallery.refs[0].key]
        run_regions = [region.predicted for region in review.regions]
        assert run_regions[0] is not None
        assert review.masks == (run_regions[0].mask,)
        assert (review.annotator, review.aided, review.run) == ("fiftyone", True, "run1")
        assert published.sample(0).review_state == "reviewed"
        assert len(published.sample(0).expert.detections) == 1

    def test_all_rejected_is_good(self, published: Room) -> None:
        tag(published, 1, 0, "rejected")
        assert published.pull().findings == {"good": 1}

    def test_an_image_tagged_good(self, published: Room) -> None:
        view = published.dataset.match({"key": published.gallery.refs[0].key})
        view.tag_samples("good")
        assert published.pull().findings == {"good": 1}
        assert published.sample(0).verdict.label == "good"

    def test_tags_that_contradict_are_refused_by_name(self, published: Room) -> None:
        tag(published, 0, 0, "accepted")
        published.dataset.match({"key": published.gallery.refs[0].key}).tag_samples("good")
        tag(published, 1, 0, "accepted")
        tag(published, 1, 0, "rejected")
        refused = dict(published.pull().refused)
        assert refused["0000.png"] == "it is tagged good, and a region of it accepted"
        assert refused["0001.png"] == "a region is tagged accepted and rejected"
        assert reviews(published) == {}

    def test_twice_is_once(self, published: Room) -> None:
        tag(published, 1, 0, "accepted")
        published.pull()
        assert published.pull().states == {}

    def test_an_old_tag_never_overrules_a_later_word(self, published: Room) -> None:
        gallery, ref = published.gallery, published.gallery.refs[0]
        published.dataset.match({"key": ref.key}).tag_samples("good")
        published.pull()
        said = reviews(published)[ref.key]
        run = gallery.label("run2", SECOND, shift=2)
        later = gallery.review(run, ref, kept(gallery.shown(run, ref)), minutes=60 * 24 * 400)
        assert later.updated > said.updated
        published.publish()
        assert published.pull().states == {}
        assert reviews(published)[ref.key] == later

    def test_tags_are_on_the_newest_bundles_regions(self, published: Room) -> None:
        published.gallery.label("run2", SECOND, shift=2)
        published.publish()
        tag(published, 1, 0, "accepted")
        assert published.pull().states == {}
        tag(published, 1, 0, "accepted", TWO.predictions)
        published.pull()
        assert reviews(published)[published.gallery.refs[1].key].bundle == SECOND.id


class TestEdits:
    def test_a_painted_mask_comes_back_at_the_images_size(self, published: Room) -> None:
        gallery, ref = published.gallery, published.gallery.refs[0]
        run = published.gallery.label("run1")
        shown = gallery.shown(run, ref)
        gallery.review(run, ref, kept(shown))
        published.publish()
        sample = published.sample(0)
        first = sample.expert.detections[0]
        first.mask, first.mask_path = np.ones((30, 50), np.uint8), None  # five times the resolution of the image
        sample.save()
        intake = published.pull()
        assert intake.outcomes == {"adjusted": 1, "accepted": 1}
        review = reviews(published)[ref.key]
        assert review.words == "masks edited in FiftyOne's App, at its canvas's resolution"
        whole = decode(shown[0].mask)
        rows, columns = np.flatnonzero(whole.any(1)), np.flatnonzero(whole.any(0))
        filled = np.zeros_like(whole)
        filled[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        assert review.masks == (encode(filled), shown[1].mask)
        # From then on the App shows what the catalog holds.
        assert None not in [each.mask_path for each in published.sample(0).expert.detections]
        assert published.publish().notes == []
        assert published.pull().states == {}

    def test_deleted_relabelled_and_drawn_anew(self, published: Room) -> None:
        gallery, ref = published.gallery, published.gallery.refs[0]
        run = published.gallery.label("run1")
        gallery.review(run, ref, kept(gallery.shown(run, ref)))
        published.publish()
        sample = published.sample(0)
        fiftyone = published.database.fiftyone
        sample.expert.detections[1].label = "stain"
        drawn = fiftyone.Detection(label="hole", bounding_box=[0.5, 0.5, 0.25, 0.25], mask=np.ones((12, 12), np.uint8))
        sample.expert.detections = [sample.expert.detections[1], drawn]
        sample.save()
        assert published.pull().outcomes == {"rejected": 1, "relabelled": 1, "added": 1}

    def test_regions_on_an_image_that_nobody_reviewed(self, published: Room) -> None:
        sample, fiftyone = published.sample(2), published.database.fiftyone
        drawn = fiftyone.Detection(label="hole", bounding_box=[0, 0, 0.5, 0.5], mask=np.ones((24, 24), np.uint8))
        sample.expert = fiftyone.Detections(detections=[drawn])
        sample.save()
        assert published.pull().outcomes == {"added": 1}
        assert reviews(published)[published.gallery.refs[2].key].masks[0].area == 24 * 24

    def test_all_deleted_is_good(self, published: Room) -> None:
        gallery, ref = published.gallery, published.gallery.refs[1]
        run = published.gallery.label("run1")
        gallery.review(run, ref, kept(gallery.shown(run, ref)))
        published.publish()
        sample = published.sample(1)
        sample.expert.detections = []
        sample.save()
        assert published.pull().findings == {"good": 1}

    def test_a_box_without_a_mask_is_refused_and_stays(self, published: Room) -> None:
        sample, fiftyone = published.sample(2), published.database.fiftyone
        sample.expert = fiftyone.Detections(detections=[fiftyone.Detection(label="hole", bounding_box=[0, 0, 1, 1])])
        sample.save()
        assert published.pull().refused == [
            ("0002.png", "a region 'hole' is a box without a mask; paint one, or use Label Studio")
        ]
        assert len(published.sample(2).expert.detections) == 1


def test_nothing_was_published(room: Room) -> None:
    room.gallery.label("run1")
    with pytest.raises(ServiceError, match="saa push fiftyone --product plate"):
        room.pull()


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.floats(-0.2, 1),
    st.floats(-0.2, 1),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_any_box_gives_a_mask_of_the_image(shape: tuple[int, int], x: float, y: float, w: float, h: float) -> None:
    mask = whole_mask(np.ones(shape, np.uint8), [x, y, w, h], 30, 50)
    assert isinstance(mask, Rle)
    assert mask.size == (30, 50)


def test_an_untouched_resolution_changes_no_pixel() -> None:
    pixels = np.random.default_rng(0).random((7, 9)) > 0.5
    whole = np.zeros((30, 50), np.bool_)
    whole[3:10, 20:29] = pixels
    mask = whole_mask(pixels.astype(np.uint8), [20 / 50, 3 / 30, 9 / 50, 7 / 30], 30, 50)
    assert iou([mask], [encode(whole)])[0, 0] == 1
