"""What was said in the App comes back as reviews: tags, and masks that were edited there."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrations.catalog import Catalog
from integrations.fiftyone import pull as pull_module
from integrations.fiftyone.media import Media, whole_mask
from integrations.fiftyone.tagging import accept, judged_regions, mark_good
from saa_core.errors import ServiceError
from saa_core.masks import Rle, decode, decode_crop, encode, iou
from saa_core.reviews import Review, evidence
from tests.fiftyone_room import ONE, TWO, Room
from tests.gallery import PRODUCT, SECOND, kept, patch


def reviews(room: Room) -> dict[str, Review]:
    with Catalog(room.gallery.settings.catalog_url) as catalog:
        return evidence(catalog.reviews(PRODUCT))


def tag(room: Room, number: int, rank: int, name: str, field: str = ONE.predictions) -> None:
    sample = room.sample(number)
    sample[field].detections[rank].tags.append(name)
    sample.save()


def paint(room: Room, number: int, mask: Rle, label: str = "hole") -> None:
    """Leave one region on an image, as the App's Annotate tab does it."""
    sample, (crop, top, left) = room.sample(number), decode_crop(mask)
    box = [left / mask.width, top / mask.height, crop.shape[1] / mask.width, crop.shape[0] / mask.height]
    drawn = room.database.fiftyone.Detection(label=label, bounding_box=box, mask=crop.astype(np.uint8))
    sample.expert = sample.expert or room.database.fiftyone.Detections()
    sample.expert.detections = [drawn]
    sample.save()


def cut_off(*_: object) -> None:
    raise KeyboardInterrupt


def mask_file(room: Room, mask: Rle) -> str:
    return Media(room.gallery.folder / "drawn").mask("mine", mask).path


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

    @pytest.mark.parametrize("again", ["good", "accept"])
    def test_what_is_said_again_after_something_else_counts(self, published: Room, again: str) -> None:
        ref = published.gallery.refs[1]
        say = {
            "good": lambda: mark_good(published.dataset, [published.sample(1).id]),
            "accept": lambda: accept(published.dataset, [published.sample(1)[ONE.predictions].detections[0].id]),
        }[again]
        say()
        published.pull()
        first = reviews(published)[ref.key]
        paint(published, 1, patch(1, 20))
        published.pull()
        assert reviews(published)[ref.key].masks == (patch(1, 20),)
        say()
        assert published.pull().states.total() == 1
        assert reviews(published)[ref.key].masks == first.masks
        assert published.pull().states == {}

    def test_tags_are_on_the_newest_bundles_regions(self, published: Room) -> None:
        published.gallery.label("run2", SECOND, shift=2)
        published.publish()
        tag(published, 1, 0, "accepted")
        intake = published.pull()
        reason = f"1 of its tags are on regions of another bundle; those of {TWO.predictions} are judged"
        assert (intake.states, intake.refused) == ({}, [("0001.png", reason)])
        tag(published, 1, 0, "accepted", TWO.predictions)
        published.pull()
        assert reviews(published)[published.gallery.refs[1].key].bundle == SECOND.id

    def test_tags_that_were_read_on_an_earlier_bundle_are_no_matter(self, published: Room) -> None:
        tag(published, 1, 0, "accepted")
        published.gallery.label("run2", SECOND, shift=2)
        assert published.publish().intake.states == {"submitted": 1}
        intake = published.pull()
        assert (intake.states, intake.refused) == ({}, [])

    def test_an_image_that_the_newest_bundle_lacks_is_judged_by_an_earlier_one(self, published: Room) -> None:
        gallery = published.gallery
        lacking, gallery.refs = gallery.refs, gallery.refs[2:]
        gallery.label("run2", SECOND)
        published.publish()
        gallery.refs = lacking
        accept(published.dataset, list(judged_regions(published.dataset, [published.sample(0).id])))
        mark_good(published.dataset, [published.sample(1).id])
        intake = published.pull()
        assert (intake.findings, intake.refused) == ({"defective": 1, "good": 1}, [])
        assert {reviews(published)[ref.key].run for ref in lacking[:2]} == {"run1"}

    def test_a_tag_on_an_image_that_no_bundle_shows(self, published: Room) -> None:
        sample = published.database.fiftyone.Sample(filepath="/x.png", key="x", name="x.png", tags=["good"])
        published.dataset.add_sample(sample)
        refused = published.pull().refused
        ((name, reason),) = refused
        assert (name, "no run that holds it was pushed here" in reason) == ("x.png", True)

    def test_the_newest_word_counts_wherever_it_was_said(self, published: Room) -> None:
        gallery, first, second = published.gallery, *published.gallery.refs[:2]
        mark_good(published.dataset, published.dataset.values("id")[:1])
        run = gallery.label("run1")
        for ref in (first, second):
            said = gallery.review(run, ref, kept(gallery.shown(run, ref)))
            with Catalog(gallery.settings.catalog_url) as catalog:
                catalog.add_reviews([replace(said, updated=datetime.now(UTC))])
        time.sleep(0.01)
        mark_good(published.dataset, published.dataset.values("id")[1:2])
        assert published.pull().findings == {"good": 2}
        assert [reviews(published)[ref.key].finding for ref in (first, second)] == ["defective", "good"]

    def test_a_pull_that_was_cut_off_is_done_by_the_next(
        self, published: Room, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mark_good(published.dataset, published.dataset.values("id")[:1])
        paint(published, 1, patch(20, 20))
        with monkeypatch.context() as patched:
            patched.setattr(pull_module, "note_read", cut_off)
            with pytest.raises(KeyboardInterrupt):
                published.pull()
        assert len(reviews(published)) == 2
        assert published.pull().states == {}
        assert published.sample(1).expert.detections[0].mask_path


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

    @pytest.mark.parametrize("change", ["bounding_box", "mask_path", "words", "label"])
    def test_whatever_is_changed_is_an_edit(self, published: Room, change: str) -> None:
        gallery, ref = published.gallery, published.gallery.refs[0]
        run = gallery.label("run1")
        gallery.review(run, ref, kept(gallery.shown(run, ref)))
        published.publish()
        sample = published.sample(0)
        first, second = sample.expert.detections
        x, y, *sides = first.bounding_box
        values = {
            "bounding_box": [x, y + 0.5, *sides],
            "mask_path": mask_file(published, patch(30, 30, 5, 5)),
            "words": "a deep one",
            "label": "dent",
        }
        first[change] = values[change]
        sample.save()
        assert published.pull().states == {"submitted": 1}
        said = reviews(published)[ref.key]
        before, after = gallery.shown(run, ref)[0], said.regions[0].reviewed
        assert after is not None
        assert (after.mask != before.mask) == (change in ("bounding_box", "mask_path"))
        assert (after.words, after.label) == (
            values["words"] if change == "words" else "",
            values["label"] if change == "label" else before.label,
        )
        assert published.pull().states == {}
        assert published.sample(0).expert.detections[1].mask_path == second.mask_path

    def test_what_was_undone_is_no_review(self, published: Room) -> None:
        gallery, ref = published.gallery, published.gallery.refs[1]
        run = gallery.label("run1")
        gallery.review(run, ref, kept(gallery.shown(run, ref)))
        published.publish()
        paint(published, 1, gallery.shown(run, ref)[0].mask, gallery.shown(run, ref)[0].label)
        assert published.pull().states == {}
        assert published.sample(1).expert.detections[0].mask_path

    def test_a_region_that_was_doubled_is_refused(self, published: Room) -> None:
        gallery, ref = published.gallery, published.gallery.refs[1]
        run = gallery.label("run1")
        gallery.review(run, ref, kept(gallery.shown(run, ref)))
        published.publish()
        sample = published.sample(1)
        sample.expert.detections.append(sample.expert.detections[0].copy())
        sample.save()
        assert published.pull().refused == [("0001.png", "its id occurs twice in one image")]

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
        report = published.publish()
        assert report.notes == ["1 images keep regions that were changed in the App: they could not be pulled"]
        assert len(published.sample(2).expert.detections) == 1


class TestPushes:
    """A push replaces regions, and takes nothing away that was said on them."""

    def test_what_was_said_is_pulled_first(self, published: Room) -> None:
        tag(published, 1, 0, "accepted")
        paint(published, 2, patch(10, 10))
        published.gallery.label("run2", shift=2)
        report = published.publish()
        assert report.intake.findings == {"defective": 2}
        assert "from the App: 2 new reviews: 2 submitted" in report.lines()[1]
        assert reviews(published)[published.gallery.refs[1].key].run == "run1"
        assert len(published.sample(2).expert.detections) == 1
        assert published.pull().states == {}

    def test_regions_with_tags_that_say_nothing_yet_stay(self, published: Room) -> None:
        tag(published, 0, 0, "accepted")
        published.gallery.label("run2", shift=2)
        report = published.publish()
        assert report.notes == ["1 images keep the regions that they have: a pull could not use all their tags"]
        assert report.refused == [("0000.png", "1 of its 2 regions have no tag; it counts once all have one")]
        assert published.dataset.values(f"{ONE.predictions}.run") == ["run1", *5 * ["run2"]]
        tag(published, 0, 1, "rejected")
        assert published.publish().intake.states == {"submitted": 1}
        assert published.publish().notes == []
        assert set(published.dataset.values(f"{ONE.predictions}.run")) == {"run2"}


@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_done_the_last_word_counts_and_is_stored_once(published: Room, seed: int) -> None:
    rng, hands = random.Random(seed), [Hand(published, number) for number in (1, 4)]
    for _ in range(12):
        rng.choice(hands).do(rng.choice(["accept", "reject", "good", "paint"]))
        if rng.random() < 0.6:
            news = sum(hand.pulled() for hand in hands)
            assert published.pull().states.total() == news
    for hand in hands:
        hand.pulled()
    published.pull()
    assert published.pull().states == {}
    said = reviews(published)
    assert [said[hand.ref.key].masks for hand in hands] == [hand.last for hand in hands]


class Hand:
    """Somebody at one image that shows one region, and what has to come of what they do."""

    def __init__(self, room: Room, number: int) -> None:
        self.room, self.number, self.ref = room, number, room.gallery.refs[number]
        (self.region,) = room.gallery.shown(room.gallery.label("run1"), self.ref)
        self.tags: set[str] = set()
        self.read: set[str] = set()
        self.painted: Rle | None = None
        self.strokes = 0
        self.last: tuple[Rle, ...] = ()

    def do(self, what: str) -> None:
        dataset, sample = self.room.dataset, self.room.sample(self.number)
        self.read = self.read - {{"accept": "accepted"}.get(what, what)}  # both operators say it anew
        region = sample[ONE.predictions].detections[0].id
        if what == "accept":
            accept(dataset, [region])
            self.tags = {"accepted"}
        elif what == "reject":
            dataset.select([sample.id]).untag_samples("good")
            dataset.select([sample.id]).untag_labels("accepted", ONE.predictions)
            dataset.select([sample.id]).tag_labels("rejected", ONE.predictions)
            self.tags = {"rejected"}
        elif what == "good":
            mark_good(dataset, [sample.id])
            self.tags = self.tags - {"accepted"} | {"good"}
        else:
            self.strokes += 1
            self.painted = patch(1 + self.strokes, 20)
            paint(self.room, self.number, self.painted)

    def pulled(self) -> bool:
        """A pull reads it all; returns whether there is anything new."""
        new = self.painted is not None or not self.tags <= self.read
        if self.painted is not None:
            self.last = (self.painted,)
        elif new:
            self.last = (self.region.mask,) if "accepted" in self.tags else ()
        self.painted, self.read = None, self.tags
        return new


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
