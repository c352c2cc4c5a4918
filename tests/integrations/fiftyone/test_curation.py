"""Figures and saved views, against what can be counted by hand."""

from __future__ import annotations

import socket
from typing import Any

import numpy as np
import pytest

from integrations.fiftyone.curation import likeness, pixel_f1
from saa_core.masks import decode, union
from saa_core.reviews import ReviewedRegion
from tests.fiftyone_room import ONE, TWO, Room
from tests.gallery import FIRST, SECOND, bundle, kept, patch


@pytest.fixture
def reviewed(room: Room) -> Room:
    """Image 0: one region right, one wrong, one missed. Image 1: as shown. Image 2: good. The rest: not reviewed."""
    run, refs = room.gallery.label("run1"), room.gallery.refs
    first = room.gallery.shown(run, refs[0])[0]
    room.gallery.review(run, refs[0], [*kept([first]), ReviewedRegion(None, "stain", patch(36, 36, 8, 8))])
    room.gallery.review(run, refs[1], kept(room.gallery.shown(run, refs[1])))
    room.gallery.review(run, refs[2], [], verdict="good")
    return room


def names(room: Room, view: str) -> list[str]:
    found: list[str] = room.dataset.load_saved_view(view).values("name")
    return found


def test_a_bundle_is_judged_by_the_experts_masks(reviewed: Room) -> None:
    curated = reviewed.curate()
    assert curated.regions == {ONE.key: {"tp": 2, "fp": 1, "fn": 1}}
    assert "bundle " + ONE.key + ": 2 of 3 regions shown are right, 2 of 3 real ones are found" in curated.lines()
    shown = [region.mask for region in reviewed.gallery.shown(reviewed.gallery.label("run1"), reviewed.gallery.refs[0])]
    truth = [shown[0], patch(36, 36, 8, 8)]
    a, b = decode(union(shown)), decode(union(truth))
    expected = 2 * (a & b).sum() / (a.sum() + b.sum())
    assert reviewed.sample(0)[ONE.pixel_f1] == pytest.approx(expected)
    assert (reviewed.sample(1)[ONE.pixel_f1], reviewed.sample(2)[ONE.pixel_f1]) == (1, 1)
    assert reviewed.sample(3)[ONE.pixel_f1] is None


def test_every_question_has_its_view(reviewed: Room) -> None:
    reviewed.curate()
    assert sorted(names(reviewed, "needs review")) == ["0003.png", "0004.png", "0005.png"]
    priorities = reviewed.dataset.load_saved_view("needs review").values("review_priority")
    assert priorities == sorted(priorities, reverse=True)
    assert sorted(names(reviewed, "most uncertain")) == ["0003.png", "0004.png"]
    assert names(reviewed, "missed defects") == ["0000.png"]
    assert names(reviewed, "expert changed most") == ["0000.png"]
    assert names(reviewed, "experts disagree") == []
    assert names(reviewed, "blind slice") == []
    assert "0000.png" in names(reviewed, "likely false alarms")
    alarms = reviewed.dataset.load_saved_view("likely false alarms")
    assert [each.rank for each in alarms.one({"name": "0000.png"})[ONE.predictions].detections] == [1]
    assert "bundles disagree" not in reviewed.dataset.list_saved_views()


def test_uncertain_is_what_is_near_the_threshold(room: Room) -> None:
    decided = FIRST.model_copy(update={"decision": FIRST.decision.model_copy(update={"accept": 0.7})})
    room.gallery.label("run1", decided)
    room.publish()
    uncertain = names(room, "most uncertain")
    assert (set(uncertain[:2]), set(uncertain[2:])) == ({"0000.png", "0003.png"}, {"0001.png", "0004.png"})
    assert "nearest to 0.7" in room.dataset.get_saved_view_info("most uncertain")["description"]


def test_the_weakest_quarter_is_that_of_what_is_not_reviewed(room: Room) -> None:
    run = room.gallery.label("run1")
    room.curate()
    assert sorted(names(room, "likely false alarms")) == ["0000.png", "0003.png"]
    for ref in (room.gallery.refs[0], room.gallery.refs[3]):
        room.gallery.review(run, ref, kept(room.gallery.shown(run, ref)))
    room.curate()
    assert sorted(names(room, "likely false alarms")) == ["0001.png", "0004.png"]


def test_two_bundles(reviewed: Room) -> None:
    reviewed.curate()
    reviewed.gallery.label("run2", SECOND, shift=3)
    curated = reviewed.curate()
    assert set(curated.regions) == {ONE.key, TWO.key}
    assert set(names(reviewed, "newest bundle worse")) == {"0000.png", "0001.png"}
    assert names(reviewed, "newest bundle better") == []
    assert sorted(names(reviewed, "bundles disagree")) == ["0000.png", "0001.png", "0003.png", "0004.png"]
    assert reviewed.sample(2).bundle_change == 0


def test_images_of_an_earlier_run_of_the_bundle_are_judged_too(reviewed: Room) -> None:
    reviewed.curate()
    gallery, run = reviewed.gallery, reviewed.gallery.label("run1")
    gallery.review(run, gallery.refs[0], kept(gallery.shown(run, gallery.refs[0])), minutes=1)
    before, gallery.refs = gallery.refs, gallery.photograph(1)
    gallery.review(gallery.label("run2"), gallery.refs[0], [], verdict="good")
    reviewed.curate()
    gallery.refs = [*before, *gallery.refs]
    assert [reviewed.sample(number)[ONE.pixel_f1] for number in (0, 1, 6)] == [1, 1, 0]


def test_an_image_that_the_newest_bundle_lacks_has_no_change(reviewed: Room) -> None:
    refs = reviewed.gallery.refs
    reviewed.curate()
    reviewed.gallery.label("run2", SECOND, shift=3)
    reviewed.curate()
    reviewed.gallery.refs = refs[1:]
    reviewed.gallery.label("run3", bundle("stain"))
    reviewed.curate()
    reviewed.gallery.refs = refs
    assert reviewed.sample(0).bundle_change is None
    assert reviewed.sample(1).bundle_change > 0
    assert "0000.png" not in names(reviewed, "bundles disagree")


def test_again_nothing_is_written_and_nothing_evaluated_again(reviewed: Room) -> None:
    reviewed.curate()
    before = reviewed.dataset.values(["last_modified_at", "expert.detections.id"])
    run = reviewed.dataset.get_evaluation_info(ONE.evaluation).timestamp
    assert reviewed.curate().published.written == {}
    assert reviewed.dataset.values(["last_modified_at", "expert.detections.id"]) == before
    assert reviewed.dataset.get_evaluation_info(ONE.evaluation).timestamp == run


def test_new_reviews_are_evaluated(reviewed: Room) -> None:
    reviewed.curate()
    run, ref = reviewed.gallery.label("run1"), reviewed.gallery.refs[3]
    reviewed.gallery.review(run, ref, [], verdict="good")
    assert reviewed.curate().regions == {ONE.key: {"tp": 2, "fp": 3, "fn": 1}}


def test_reviews_that_a_plain_push_brought_are_evaluated_too(reviewed: Room) -> None:
    reviewed.curate()
    run, ref = reviewed.gallery.label("run1"), reviewed.gallery.refs[3]
    reviewed.gallery.review(run, ref, [], verdict="good")
    reviewed.publish()
    assert reviewed.curate().regions == {ONE.key: {"tp": 2, "fp": 3, "fn": 1}}


def test_all_of_it_works_without_a_network(reviewed: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def local(self: socket.socket, address: Any) -> None:
        assert not isinstance(address, tuple) or address[0] in ("127.0.0.1", "localhost", "::1"), address
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)
    reviewed.curate()


def test_pixels() -> None:
    assert pixel_f1([], []) == 1
    assert pixel_f1([patch(1, 1)], []) == pixel_f1([], [patch(1, 1)]) == 0
    assert pixel_f1([patch(1, 1)], [patch(1, 1)]) == 1


def test_images_that_repeat_one_another() -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 6))
    vectors[3] = vectors[7] + 1e-6
    vectors[4] = vectors[7]
    vectors[0] += 100
    unlike, groups = likeness(vectors)
    assert groups[3] == groups[4] == groups[7]
    assert len(set(groups)) == 18
    assert unlike[0] == max(unlike) == 1
    assert min(unlike[3], unlike[4], unlike[7]) == min(unlike)


def test_images_that_are_all_the_same() -> None:
    unlike, groups = likeness(np.ones((5, 3)))
    assert len(set(groups)) == 1
    assert len(set(unlike)) == 1


def test_near_duplicates_stand_side_by_side(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = room.gallery.refs
    twins = {refs[1].key, refs[4].key}
    vectors = {ref.key: np.full(4, 9.0) if ref.key in twins else np.eye(4)[n % 4] * n for n, ref in enumerate(refs)}
    room.gallery.label("run1")
    from integrations.fiftyone import workspace

    workspace.curate(
        room.gallery.settings, "plate", None, lambda ref: vectors[ref.key].astype(np.float32), lambda *step: None
    )
    assert sorted(names(room, "near-duplicates")) == ["0001.png", "0004.png"]
    assert room.sample(4).near_duplicate == "0001.png"
    assert names(room, "unusual images")
