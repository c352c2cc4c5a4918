"""Operators of FiftyOne's App on a real server of it: what is selected is sent, judged, explained, labelled again."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from flows.runs import LabelRequest
from flows.services import PLUGINS
from flows.start import start
from integrations.fiftyone import lifecycle
from integrations.fiftyone.environment import connect
from integrations.fiftyone.schema import find_dataset
from integrations.fiftyone.tagging import newest_predictions
from integrations.fiftyone.workspace import publish
from integrations.settings import Settings
from saa_core.prompts import PromptBundle
from tasks.progress import advance
from tasks.workbench import descriptor_of
from tests.fiftyone_server import Mongod, disconnect
from tests.flows.test_exchange import photograph
from tests.label_studio_server import Server, delete_projects

pytestmark = pytest.mark.slow

PRODUCT, COUNT = "plate", 8
BUNDLE = PromptBundle(product=PRODUCT)


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

    def run(self, verb: str, selected: list[str], labels: list[dict[str, str]], **params: Any) -> dict[str, Any]:
        """What an operator answers."""
        asked = {
            "operator_uri": f"@saa/curation/{verb}",
            "dataset_name": PRODUCT,
            "view": [],
            "selected": selected,
            "selected_labels": labels,
            "params": params,
        }
        answer = httpx.post(f"{self.url}/operators/execute", json=asked, timeout=300, trust_env=False)
        return dict(answer.raise_for_status().json())

    def done(self, verb: str, selected: list[str], labels: list[dict[str, str]], **params: Any) -> str:
        answer = self.run(verb, selected, labels, **params)
        assert not answer["error"], answer["error"]
        return str(answer["result"]["message"])

    def refused(self, verb: str, selected: list[str], labels: list[dict[str, str]], **params: Any) -> str:
        answer = self.run(verb, selected, labels, **params)
        assert answer["error"]
        return str(answer["error_message"])


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
    found, _ = lifecycle.up(settings, PLUGINS)
    assert found.url is not None
    yield Desk(settings, found.url, connect(mongod.uri, settings.fiftyone_database, folder))
    lifecycle.down(settings)
    disconnect()
    mongod.drop(settings.fiftyone_database)
    delete_projects(label_studio)
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("verb", ["send_to_label_studio", "accept_regions", "mark_good", "explain_region"])
def test_nothing_selected_is_refused(desk: Desk, verb: str) -> None:
    assert "Nothing is selected" in desk.refused(verb, [], [])


def test_explained(desk: Desk) -> None:
    print(desk.done("explain_region", [], desk.regions(1)[:1]))
    print(desk.done("explain_region", desk.samples[:1], []))


def test_rest(desk: Desk) -> None:
    print(desk.done("accept_regions", [], desk.regions(1)[:1]))
    print(desk.tags(1))
    print(desk.done("accept_regions", desk.samples[:2], []))
    print(desk.done("mark_good", desk.samples[1:2], []), desk.tags(1))
    print(desk.done("send_to_label_studio", desk.samples[1:3], []))
    print(desk.refused("relabel", [], [], bundle="generic", whole_set=False))
    print(desk.done("relabel", [], [], bundle="mvtec/bottle", whole_set=True))
    print(desk.run("relabel", [], [], bundle="mvtec/bottl", whole_set=True))
