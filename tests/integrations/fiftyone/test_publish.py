"""Runs and reviews in a real data set: what is written, that nothing is written twice, and nothing is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from integrations.catalog import Catalog, PredictionRecord
from integrations.fiftyone import workspace
from integrations.fiftyone.bundles import bundles_in
from integrations.settings import Settings
from saa_core.errors import ImageError, ServiceError, StoreError
from saa_core.masks import decode, union
from saa_core.reviews import ReviewedRegion
from saa_core.types import ImageRef
from tests.fiftyone_room import ONE, TWO, Room, describe
from tests.fiftyone_server import Mongod
from tests.gallery import FIRST, PRODUCT, SECOND, kept, patch


def test_regions_maps_and_scores_are_those_of_the_run(room: Room) -> None:
    run = room.gallery.label("run1")
    report = room.publish()
    assert (report.added, report.present, report.refused) == (6, 0, [])
    sample = room.sample(0)
    shown = room.gallery.shown(run, room.gallery.refs[0])
    detections = sample[ONE.predictions].detections
    assert [each.region for each in detections] == [region.id for region in shown]
    assert [each.label for each in detections] == [region.label for region in shown]
    assert [each.confidence for each in detections] == [region.score for region in shown]
    assert detections[0].phrase == "scratch"
    assert detections[0].phrase_scores == {"scratch": 0.9}
    whole = detections[0].to_segmentation(frame_size=(48, 48)).mask != 0
    assert np.array_equal(whole, decode(shown[0].mask))
    assert np.array_equal(sample[ONE.map].get_map(), sample[ONE.map].get_map())
    assert list(sample[ONE.map].range) == [0, 255]
    assert sample[ONE.score] == run.images[0]["score"]
    assert (sample.name, sample.lot, sample.review_state) == ("0000.png", "lot 0", "new")
    assert (sample.metadata.width, sample.metadata.height) == (48, 48)
    assert len(sample.features) == 8
    assert 0 <= sample.review_priority <= 1
    assert room.sample(2)[ONE.predictions].detections == []


def test_twice_changes_nothing(room: Room) -> None:
    room.gallery.label("run1")
    room.publish()
    before = room.dataset.values(["id", "last_modified_at", f"{ONE.predictions}.detections.id"])
    report = room.publish()
    assert (report.added, report.present, report.written) == (0, 6, {})
    assert room.dataset.values(["id", "last_modified_at", f"{ONE.predictions}.detections.id"]) == before


def test_new_images_join_and_the_rest_stays(room: Room) -> None:
    room.gallery.label("run1")
    room.publish()
    ids = dict(zip(*room.dataset.values(["key", "id"]), strict=True))
    room.gallery.photograph(4)
    room.gallery.label("run2")
    report = room.publish()
    assert (report.added, report.present) == (4, 6)
    after = dict(zip(*room.dataset.values(["key", "id"]), strict=True))
    assert len(after) == 10
    assert ids.items() <= after.items()


def test_a_new_bundle_has_fields_of_its_own_and_keeps_the_old(room: Room) -> None:
    room.gallery.label("run1")
    room.publish()
    before = room.dataset.values(f"{ONE.predictions}.detections.mask_path")
    room.gallery.label("run2", SECOND, shift=2)
    room.publish()
    assert bundles_in(room.dataset) == [ONE, TWO]
    assert room.dataset.values(f"{ONE.predictions}.detections.mask_path") == before
    files = {
        path
        for field in (ONE, TWO)
        for each in room.dataset.values(f"{field.predictions}.detections.mask_path")
        for path in each
    }
    assert len(files) == sum(len(each) for each in before) * 2, "two fields never share a file"
    groups = {group.name: group.paths for group in room.dataset.app_config.sidebar_groups}
    assert TWO.predictions in groups["what was found"]
    assert ONE.predictions in groups["earlier bundles"]
    priorities = room.dataset.values("review_priority")
    room.publish("run1")
    assert bundles_in(room.dataset) == [ONE, TWO], "the newest is that of the newest run, whatever was published last"
    assert room.dataset.values("review_priority") == priorities


def test_all_fields_are_declared_before_anything_is_written(room: Room) -> None:
    room.gallery.label("run1")
    room.publish()
    schema = room.dataset.get_field_schema(flat=True)
    for name in ("expert.detections.outcome", "verdict.label", "uniqueness", f"{ONE.predictions}.detections.saliency"):
        assert name in schema
    assert room.dataset.get_index_information()["key"]["unique"]
    assert room.dataset.persistent


class TestReviews:
    def test_every_state(self, room: Room) -> None:
        run, refs = room.gallery.label("run1"), room.gallery.refs
        first = room.gallery.shown(run, refs[0])[0]
        moved = ReviewedRegion(first.id, first.label, patch(5, 6))
        added = ReviewedRegion(None, "stain", patch(30, 30, 4, 4), "a stain")
        room.gallery.review(run, refs[0], [moved, added])
        room.gallery.review(run, refs[1], [], verdict="good")
        room.gallery.review(run, refs[2], [], state="skipped")
        room.gallery.review(run, refs[3], kept(room.gallery.shown(run, refs[3])), verdict="unsure")
        self.send(room, refs[4], aided=False)
        room.publish()
        assert [room.sample(n).review_state for n in range(6)] == [
            "reviewed", "reviewed", "skipped", "unsure", "waiting", "new"
        ]  # fmt: skip
        expert = room.sample(0).expert.detections
        assert [(each.label, each.outcome, each.region, each.words) for each in expert] == [
            ("scratch", "adjusted", first.id, ""),
            ("stain", "added", "", "a stain"),
        ]
        masks = [each.to_segmentation(frame_size=(48, 48)).mask != 0 for each in expert]
        assert np.array_equal(masks[0] | masks[1], decode(union([patch(5, 6), patch(30, 30, 4, 4)])))
        assert 0 < room.sample(0).expert_change < 1
        assert room.sample(0).verdict.label == "defective"
        assert (room.sample(1).verdict.label, room.sample(1).expert.detections) == ("good", [])
        assert room.sample(3).expert is None
        assert (room.sample(4).blind, room.sample(5).blind) == (True, False)
        assert room.publish().written == {}

    def test_nothing_is_shown_to_whoever_judges_without_masks(self, room: Room) -> None:
        run, refs = room.gallery.label("run1"), room.gallery.refs
        room.publish()
        room.gallery.label("run2", SECOND, shift=2)
        self.send(room, refs[0], aided=False)
        room.publish()
        for fields in (ONE, TWO):
            shown = [room.sample(0)[name] for name in (fields.predictions, fields.map, fields.score)]
            assert shown == [None, None, None]
            assert room.sample(1)[fields.predictions].detections
        assert room.publish().written == {}
        room.dataset.match({"key": refs[0].key}).tag_samples("good")
        ((name, reason),) = room.pull().refused
        assert (name, "Label Studio has it without masks" in reason) == ("0000.png", True)
        room.gallery.review(run, refs[0], [], verdict="good")
        room.publish()
        assert len(room.sample(0)[TWO.predictions].detections) == 2
        assert room.sample(0)[TWO.map].map_path

    def send(self, room: Room, ref: ImageRef, *, aided: bool) -> None:
        with Catalog(room.gallery.settings.catalog_url) as catalog:
            catalog.remember_target(PRODUCT, "label-studio", "http://x", "label-studio project 1")
            record = PredictionRecord(
                "label-studio project 1", ref.key, "run1", FIRST.id, "v", 1, aided=aided, priority=0.5, regions=()
            )
            catalog.record_predictions([record])

    def test_a_later_review_replaces_and_a_withdrawn_one_leaves(self, room: Room) -> None:
        run, ref = room.gallery.label("run1"), room.gallery.refs[0]
        room.gallery.review(run, ref, kept(room.gallery.shown(run, ref)))
        room.publish()
        assert len(room.sample(0).expert.detections) == 2
        room.gallery.review(run, ref, kept(room.gallery.shown(run, ref)[:1]), minutes=1)
        room.publish()
        assert len(room.sample(0).expert.detections) == 1
        room.gallery.review(run, ref, [], state="withdrawn", minutes=2)
        room.publish()
        sample = room.sample(0)
        assert (sample.expert, sample.verdict, sample.review_state, sample.expert_change) == (None, None, "new", None)

    def test_annotators_that_differ(self, room: Room) -> None:
        run, ref = room.gallery.label("run1"), room.gallery.refs[0]
        room.gallery.review(run, ref, kept(room.gallery.shown(run, ref)))
        room.gallery.review(run, ref, [], verdict="good", who="bert", minutes=1)
        room.publish()
        assert "anna says defective, bert says good" in room.sample(0).dispute


class TestFaults:
    def test_an_image_that_is_gone_is_named_and_the_others_go_on(self, room: Room) -> None:
        room.gallery.label("run1")
        Path(room.gallery.refs[1].uri).unlink()
        report = room.publish()
        assert report.added == 5
        assert [name for name, _ in report.refused] == ["0001.png"]
        assert "vanished" in report.refused[0][1]

    def test_an_image_that_moved_is_found_again(self, room: Room) -> None:
        room.gallery.label("run1")
        room.publish()
        sample = room.sample(0)
        sample.filepath = str(Path(sample.filepath).with_name("gone.png"))
        sample.save()
        assert room.publish().written == {"filepath": 1}
        assert room.sample(0).filepath == room.gallery.refs[0].uri

    def test_a_mask_that_was_deleted_is_written_again(self, room: Room) -> None:
        room.gallery.label("run1")
        room.publish()
        path = Path(room.sample(0)[ONE.predictions].detections[0].mask_path)
        path.unlink()
        room.publish()
        assert path.is_file()

    def test_somebody_elses_data_set_is_left_alone(self, room: Room) -> None:
        fiftyone = room.database.fiftyone
        theirs = fiftyone.Dataset(PRODUCT, persistent=True)
        theirs.add_sample(fiftyone.Sample(filepath="/theirs.png"))
        room.gallery.label("run1")
        with pytest.raises(ServiceError, match="a data set of this name that saa did not make"):
            room.publish()
        assert len(theirs) == 1
        assert "key" not in theirs.get_field_schema()

    def test_a_data_set_whose_making_was_cut_off_is_made_whole(self, room: Room) -> None:
        room.database.fiftyone.Dataset(PRODUCT, persistent=True)
        room.gallery.label("run1")
        with pytest.raises(ServiceError, match="is not in FiftyOne"):
            room.pull()
        assert room.publish().added == 6

    def test_a_name_that_fiftyone_takes_for_that_of_another(self, room: Room) -> None:
        room.database.fiftyone.Dataset(PRODUCT.upper(), persistent=True)
        room.gallery.label("run1")
        with pytest.raises(ServiceError, match=r"plate: FiftyOne does not take this name: .*'PLATE'; name one of the"):
            room.publish()

    def test_an_image_without_features_has_none(self, room: Room) -> None:
        def unreadable(ref: ImageRef) -> Any:
            if ref == room.gallery.refs[1]:
                raise ImageError(ref.names[0], "cannot be decoded")
            return describe(ref)

        room.gallery.label("run1")
        workspace.publish(room.gallery.settings, PRODUCT, None, unreadable, lambda *step: None)
        assert (room.sample(0).features is None, room.sample(1).features) == (False, None)
        assert 0 <= room.sample(1).review_priority <= 1
        assert room.publish().written["features"] == 1

    def test_reviewed_images_that_no_pushed_run_holds_are_named(self, room: Room) -> None:
        room.gallery.label("run1")
        (ref,) = room.gallery.photograph(1)
        room.gallery.review(room.gallery.label("run2"), ref, [], verdict="good")
        assert room.publish("run1").notes == ["1 reviewed images are in no run that was pushed: 0006.png"]
        assert room.publish().notes == []

    def test_another_product_does_not_wait(self, room: Room) -> None:
        def describe_slowly(ref: ImageRef) -> Any:
            with pytest.raises(ServiceError, match="lid: is not in FiftyOne"):
                pool.submit(workspace.pull_product, room.gallery.settings, "lid").result(timeout=60)
            return describe(ref)

        room.gallery.refs[1:] = []
        room.gallery.label("run1")
        with ThreadPoolExecutor() as pool:
            workspace.publish(room.gallery.settings, PRODUCT, None, describe_slowly, lambda *step: None)

    def test_no_run(self, room: Room) -> None:
        with pytest.raises(StoreError, match="has no finished run"):
            room.publish()

    def test_no_mongod(self, tmp_path: Path) -> None:
        settings = Settings.load(workspace=tmp_path / "w")
        with pytest.raises(ServiceError, match="saa services up fiftyone"):
            workspace.publish(settings, PRODUCT, None, describe, lambda *step: None)


PUBLISH = """
import sys
from pathlib import Path
from integrations.settings import Settings
from integrations.fiftyone import workspace
from tests.fiftyone_room import describe
settings = Settings.load(workspace=Path(sys.argv[1]), fiftyone_uri=sys.argv[2], fiftyone_database=sys.argv[3])
print("begun", flush=True)
print(workspace.publish(settings, "plate", None, describe, lambda *step: None).added)
"""


def publisher(settings: Settings, uri: str, database: str) -> subprocess.Popen[str]:
    """Another process that publishes the workspace's latest run."""
    command = [sys.executable, "-c", PUBLISH, str(settings.workspace), uri, database]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_publishers_wait_for_each_other(room: Room) -> None:
    room.gallery.photograph(24)
    room.gallery.label("run1")
    both = [publisher(room.gallery.settings, room.database.uri, room.database.name) for _ in range(2)]
    outcomes = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outcomes
    assert sorted(int(said.split()[-1]) for said, _ in outcomes) == [0, 30]
    assert len(room.dataset) == 30
    assert room.publish().written == {}


def test_a_publisher_that_was_killed_keeps_no_lock(room: Room) -> None:
    room.gallery.label("run1")
    process = publisher(room.gallery.settings, room.database.uri, room.database.name)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    room.publish()
    assert len(room.dataset) == 6
    assert room.publish().written == {}


def test_a_mongod_killed_while_a_run_is_published(own_mongod: Mongod, room: Room) -> None:
    gallery = room.gallery
    gallery.photograph(60)
    gallery.label("run1")
    settings = Settings.load(workspace=gallery.settings.workspace, fiftyone_uri=own_mongod.uri)
    for first in ("adding images", "cutting masks"):

        def advance(step: str, done: int, total: int, first: str = first) -> None:
            if step == first:
                own_mongod.kill()

        with pytest.raises(ServiceError, match="saa services up fiftyone"):
            workspace.publish(settings, PRODUCT, None, describe, advance)
        own_mongod.relaunch()
    report = workspace.publish(settings, PRODUCT, None, describe, lambda *step: None)
    assert report.present + report.added == 66
    dataset = room.database.fiftyone.load_dataset(PRODUCT)
    assert len(set(dataset.values("key"))) == len(dataset) == 66
    assert workspace.publish(settings, PRODUCT, None, describe, lambda *step: None).written == {}
    assert None not in dataset.values(f"{ONE.predictions}.run")
