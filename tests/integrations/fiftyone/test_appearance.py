"""How the App shows a data set, and that what somebody sets otherwise stays."""

from __future__ import annotations

from typing import Any

import pytest

from integrations.fiftyone.appearance import EXPERT_COLOR, FOUND_COLOR, MAP_COLOR
from tests.fiftyone_room import ONE, TWO, Room
from tests.gallery import SECOND


@pytest.fixture
def shown(room: Room) -> Room:
    room.gallery.label("run1")
    room.publish()
    return room


def colors(room: Room) -> dict[str, str]:
    return {each["path"]: each["fieldColor"] for each in room.dataset.app_config.color_scheme.fields}


def groups(room: Room) -> dict[str, list[str]]:
    return {group.name: list(group.paths) for group in room.dataset.app_config.sidebar_groups}


def test_every_field_has_its_group(shown: Room) -> None:
    shown.gallery.review(shown.gallery.label("run1"), shown.gallery.refs[0], [], verdict="good")
    shown.curate()
    counts = [f"{ONE.evaluation}_{name}" for name in ("tp", "fp", "fn")]
    assert groups(shown)["behind the figures"] == [*counts, "features"]
    placed = {path for paths in groups(shown).values() for path in paths}
    assert set(shown.dataset.get_field_schema()) - placed - {"metadata"} == set()


def test_a_new_bundle_takes_the_place_of_the_last(shown: Room) -> None:
    assert colors(shown) == {ONE.predictions: FOUND_COLOR, ONE.map: MAP_COLOR, "expert": EXPERT_COLOR}
    shown.gallery.label("run2", SECOND)
    shown.publish()
    assert colors(shown) == {TWO.predictions: FOUND_COLOR, TWO.map: MAP_COLOR, "expert": EXPERT_COLOR}
    assert TWO.predictions in groups(shown)["what was found"]
    assert TWO.predictions in shown.dataset.app_config.active_fields.paths


def test_what_somebody_set_stays(shown: Room) -> None:
    dataset = shown.dataset
    config = dataset.app_config
    config.color_scheme.opacity = 0.3
    for entry in config.color_scheme.fields:
        entry["fieldColor"] = "#123456" if entry["path"] == "expert" else entry["fieldColor"]
    config.sidebar_groups[0].name = "mine"
    config.active_fields.paths = ["expert"]
    dataset.save()
    shown.gallery.label("run2", SECOND)
    shown.publish()
    config = shown.dataset.app_config
    assert (config.color_scheme.opacity, config.active_fields.paths) == (0.3, ["expert"])
    assert colors(shown) == {TWO.predictions: FOUND_COLOR, TWO.map: MAP_COLOR, "expert": "#123456"}
    assert "mine" in groups(shown)


class TestDrawing:
    def test_the_expert_s_regions_and_nothing_else(self, shown: Room) -> None:
        dataset = shown.dataset
        assert dataset.active_label_schemas == ["expert"]
        assert list(dataset.label_schemas) == ["expert"]
        assert dataset.label_schemas["expert"]["classes"] == ["scratch", "dent", "defect"]

    def test_labels_of_one_s_own_and_those_of_a_new_bundle(self, shown: Room) -> None:
        dataset = shown.dataset
        schema: dict[str, Any] = dataset.label_schemas["expert"]
        dataset.set_label_schemas({"expert": schema | {"classes": [*schema["classes"], "mine"]}})
        dataset.deactivate_label_schemas("expert")
        shown.publish()
        assert shown.dataset.active_label_schemas == []
        shown.gallery.label("run2", SECOND)
        shown.publish()
        assert shown.dataset.label_schemas["expert"]["classes"] == ["scratch", "dent", "defect", "mine", "stain"]


class TestViews:
    def test_one_of_somebody_s_own_stays(self, shown: Room) -> None:
        dataset = shown.dataset
        dataset.delete_saved_view("needs review")
        dataset.save_view("Needs Review!", dataset.limit(1), color="#123456")
        report = shown.publish()
        assert "your view 'Needs Review!' stays; rename it to get ours, 'needs review'" in report.notes
        assert len(shown.dataset.load_saved_view("Needs Review!")) == 1
        assert shown.dataset.get_saved_view_info("Needs Review!")["color"] == "#123456"
        assert "Needs Review!" not in shown.curate().views

    def test_the_colour_of_ours_stays_when_it_is_saved_anew(self, shown: Room) -> None:
        shown.dataset.update_saved_view_info("most uncertain", {"color": "#123456"})
        before = shown.dataset.load_saved_view("most uncertain")._serialize()
        shown.gallery.label("run2", SECOND)
        shown.publish()
        assert shown.dataset.load_saved_view("most uncertain")._serialize() != before
        assert shown.dataset.get_saved_view_info("most uncertain")["color"] == "#123456"
