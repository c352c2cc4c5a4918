"""Operators of FiftyOne's App on a real server of it: what is selected is sent, judged, explained, labelled again."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from flows.runs import LabelRequest
from flows.services import PLUGINS
from flows.start import start
from integrations.catalog import Catalog
from integrations.fiftyone import lifecycle
from integrations.fiftyone.environment import connect
from integrations.fiftyone.schema import find_dataset
from integrations.fiftyone.tagging import newest_predictions
from integrations.fiftyone.workspace import publish, pull_product
from integrations.settings import Settings
from saa_core import library
from saa_core.prompts import PromptBundle
from tasks.progress import advance
from tasks.workbench import descriptor_of
from tests.browser.curator import curator_at
from tests.fiftyone_server import Mongod, disconnect
from tests.flows.test_exchange import photograph
from tests.label_studio_server import Server, delete_projects, free_port

PRODUCT, COUNT = "plate", 8
BUNDLE = PromptBundle(product=PRODUCT)

Labels = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Desk:
    """A product in FiftyOne, and the App that shows it."""

    settings: Settings
    url: str
    fiftyone: Any

    @property
    def dataset(self) -> Any:
        dataset = find_dataset(self.fiftyone, PRODUCT)
        dataset.reload()
        return dataset

    @property
    def samples(self) -> list[str]:
        return list(self.dataset.sort_by("name").values("id"))

    def regions(self, number: int) -> list[dict[str, str]]:
        """The regions of an image, as the App says that they are selected."""
        field, sample = newest_predictions(self.dataset), self.samples[number]
        ids = self.dataset.select(sample).values(f"{field}.detections.id")[0]
        return [{"sample_id": sample, "label_id": label, "field": field} for label in ids]

    def tags(self, number: int) -> list[list[str]]:
        field = newest_predictions(self.dataset)
        return list(self.dataset.select(self.samples[number]).values(f"{field}.detections.tags")[0])

    @contextmanager
    def another(self) -> Iterator[str]:
        """An image that no run shows."""
        sample = self.fiftyone.Sample(filepath="/none.png", key="none")
        self.dataset.add_sample(sample)
        yield sample.id
        self.dataset.delete_samples([sample.id])

    def ask(self, path: str, verb: str, selected: list[str], labels: Labels, dataset: str, **more: Any) -> Any:
        asked = {
            "operator_uri": f"@saa/curation/{verb}",
            "dataset_name": dataset,
            "view": [],
            "selected": selected,
            "selected_labels": list(labels),
            **more,
        }
        answer = httpx.post(f"{self.url}/operators/{path}", json=asked, timeout=300, trust_env=False)
        return answer.raise_for_status().json()

    def form(self, verb: str, selected: list[str]) -> str:
        """What the form says before anything is done."""
        more = {"params": {}, "target": "inputs"}
        return json.dumps(self.ask("resolve-type", verb, selected, (), PRODUCT, **more), ensure_ascii=False)

    def done(self, verb: str, selected: list[str], labels: Labels = (), **params: Any) -> str:
        answer = self.ask("execute", verb, selected, labels, PRODUCT, params=params)
        assert not answer["error"], answer["error"]
        assert not answer["result"]["refused"], answer["result"]["message"]
        return str(answer["result"]["message"])

    def refused(
        self, verb: str, selected: list[str], labels: Labels = (), dataset: str = PRODUCT, **params: Any
    ) -> str:
        answer = self.ask("execute", verb, selected, labels, dataset, params=params)
        assert not answer["error"], "a refusal is an answer"
        assert answer["result"]["refused"]
        return str(answer["result"]["message"])


@pytest.fixture(scope="module")
def desk(
    prefect_api: str, mongod: Mongod, label_studio: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Desk]:
    folder, before = tmp_path_factory.mktemp("app"), dict(os.environ)
    os.environ |= {
        "SAA_FIFTYONE_URI": mongod.uri,
        "SAA_FIFTYONE_DATABASE": f"test-{uuid.uuid4().hex[:12]}",
        "SAA_LABEL_STUDIO_URL": label_studio.url,
        "SAA_LABEL_STUDIO_TOKEN": label_studio.token,
        "SAA_UNAIDED_SHARE": "0",
    }
    settings = Settings.load(workspace=folder / "workspace")
    photographs = photograph(folder / "photographs", COUNT)
    request = LabelRequest(source=str(photographs), product=PRODUCT, bundle=BUNDLE, workspace=str(settings.workspace))
    start(request, settings)
    publish(settings, PRODUCT, None, descriptor_of(settings, PRODUCT, None), advance)
    found, _ = lifecycle.up(settings, PLUGINS, free_port())
    assert found.url is not None
    yield Desk(settings, found.url, connect(mongod.uri, settings.fiftyone_database, folder))
    lifecycle.down(settings)
    disconnect()
    mongod.drop(settings.fiftyone_database)
    delete_projects(label_studio)
    os.environ.clear()
    os.environ.update(before)


SELECTING = ("send_to_label_studio", "accept_regions", "mark_good", "explain_region")


class TestRefusals:
    @pytest.mark.parametrize("verb", SELECTING)
    def test_nothing_selected(self, desk: Desk, verb: str) -> None:
        assert desk.refused(verb, []).startswith("Nothing is selected")
        assert "Nothing is selected" in desk.form(verb, [])

    @pytest.mark.parametrize("verb", [*SELECTING, "relabel"])
    def test_a_data_set_of_somebody_else(self, desk: Desk, verb: str) -> None:
        other = desk.fiftyone.Dataset("other", persistent=True)
        other.add_sample(desk.fiftyone.Sample(filepath="/none.png"))
        try:
            answer = desk.refused(verb, other.values("id"), dataset="other", bundle="generic", whole_set=True)
        finally:
            desk.fiftyone.delete_dataset("other")
        assert answer == "other: saa did not make this data set"

    def test_regions_of_another_field(self, desk: Desk) -> None:
        labels = [each | {"field": "expert"} for each in desk.regions(0)]
        assert "Only regions of the newest bundle" in desk.refused("accept_regions", [], labels)
        assert "expert holds no region that saa proposed" in desk.refused("explain_region", [], labels[:1])

    def test_what_is_not_there_any_more(self, desk: Desk) -> None:
        gone = [desk.regions(0)[0] | {"label_id": "0" * 24}]
        assert "is not there any more" in desk.refused("explain_region", [], gone)
        for verb in SELECTING:
            assert "is not there any more" in desk.refused(verb, ["0" * 24])

    def test_the_form_cannot_be_sent(self, desk: Desk) -> None:
        form = json.loads(desk.form("mark_good", []))
        assert form["invalid"]
        assert form["error_message"].startswith("Nothing is selected")
        assert not json.loads(desk.form("mark_good", desk.samples[:1]))["invalid"]

    def test_images_without_regions(self, desk: Desk) -> None:
        assert "have no regions" in desk.refused("accept_regions", desk.samples[-1:])

    def test_more_than_one_explanation(self, desk: Desk) -> None:
        assert desk.refused("explain_region", desk.samples[:2]) == "Select one region, or one image."

    def test_the_whole_set_without_a_word(self, desk: Desk) -> None:
        with desk.another() as extra:
            assert f"The whole set of the latest run, {COUNT} images of " in desk.form("relabel", [])
            assert "1 of the selected images show nothing" in desk.refused("mark_good", [extra])
        refused = desk.refused("relabel", desk.samples[:1], bundle="generic", whole_set=False)
        assert "Nothing was done: tick" in refused

    def test_an_error_of_the_command_is_the_operators(self, desk: Desk) -> None:
        refused = desk.refused("relabel", [], bundle="mvtec/bottl", whole_set=True)
        assert refused.startswith("mvtec/bottl: no such bundle in the library, did you mean 'mvtec/bottle'")


def test_a_region_and_an_image_explained(desk: Desk) -> None:
    region = desk.done("explain_region", [], desk.regions(1)[:1])
    assert region.startswith("**")
    assert "(#1): its confidence is" in region
    assert "| region floor | confidence |" in region
    assert desk.done("explain_region", desk.samples[:1]).startswith("Marked: 1 region of")
    assert desk.done("explain_region", desk.samples[-1:]).startswith("Not marked: ")


def test_the_opened_image_is_meant_where_none_is_selected(desk: Desk) -> None:
    answer = desk.ask("execute", "explain_region", [], (), PRODUCT, params={}, current_sample=desk.samples[0])
    assert answer["result"]["message"].startswith("Marked: ")


def test_what_is_judged_comes_back_as_reviews(desk: Desk) -> None:
    assert desk.done("mark_good", desk.samples[:2]).startswith("2 images are good")
    assert [sample.tags for sample in desk.dataset.select(desk.samples[:2])] == [["good"], ["good"]]
    assert desk.done("accept_regions", [], desk.regions(0)).startswith("1 regions are accepted")
    assert desk.tags(0) == [["accepted"]]
    assert desk.dataset[desk.samples[0]].tags == []
    assert "1 selected image will be tagged good" in desk.form("mark_good", desk.samples[:1])
    desk.done("accept_regions", desk.samples[2:3])
    intake = pull_product(desk.settings, PRODUCT)
    assert (intake.refused, intake.sentence()) == ([], intake.sentence())
    with Catalog(desk.settings.catalog_url) as catalog:
        findings = {review.image: review.finding for review in catalog.reviews(PRODUCT)}
    keys = desk.dataset.select(desk.samples[:3], ordered=True).values("key")
    assert [findings[key] for key in keys] == ["defective", "good", "defective"]


def test_the_selection_is_in_label_studio(desk: Desk, label_studio: Server) -> None:
    assert desk.done("send_to_label_studio", desk.samples[1:3]).startswith("2 new tasks, 0 were there: [the project](")
    assert desk.done("send_to_label_studio", desk.samples[:2]).startswith("1 new tasks, 2 were there")
    with label_studio.http() as http:
        (project,) = http.get("/api/projects/").raise_for_status().json()["results"]
    assert (project["task_number"], project["total_predictions_number"]) == (3, 3)


@pytest.mark.slow
def test_the_grid_shows_masks_and_runs_an_operator(desk: Desk) -> None:
    with curator_at(desk.url, PRODUCT) as curator:
        curator.wait_for_regions(3, least=100)
        assert curator.orange(COUNT - 1) == 0
        curator.select(COUNT - 1)
        curator.operate("saa: mark as good", "1 selected image will be tagged good")
        # Its answer may be gone with the grid that it loads anew; the tag stays.
        end = time.monotonic() + 60
        while desk.dataset.match_tags("good").values("id") != [desk.samples[-1]]:
            assert time.monotonic() < end
            time.sleep(0.2)


def test_groups_of_the_sidebar_and_a_saved_view(desk: Desk) -> None:
    with curator_at(desk.url, PRODUCT, view="most-uncertain") as curator:
        assert curator.groups() >= {"what was found", "what experts say", "what to look at", "the image"}
        assert curator.page.get_by_text("most uncertain").count()
        uncertain = desk.dataset.load_saved_view("most uncertain")
        curator.page.get_by_text(f"{len(uncertain)} samples").wait_for()
    assert 0 < len(uncertain) < COUNT


@pytest.mark.slow
def test_another_bundle_stands_beside_the_first(desk: Desk) -> None:
    before = newest_predictions(desk.dataset)
    assert f"on {COUNT} images." in desk.done("relabel", [], bundle="mvtec/bottle", whole_set=True)
    assert newest_predictions(desk.dataset) != before
    assert desk.dataset.has_sample_field(before)
    with Catalog(desk.settings.catalog_url) as catalog:
        runs = {run.bundle for run in [catalog.latest_run(PRODUCT, state="done")] if run}
    assert runs == {library.load("mvtec/bottle").id}
