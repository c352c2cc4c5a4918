"""`saa refine --push`: a promoted bundle decides the images again, and experts see what it shows, on a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from integrations.label_studio.client import Client
from tests.label_studio_server import Server
from tests.plates import BUNDLE, COUNT, PRODUCT, Labelled, Plates, perfect

pytestmark = pytest.mark.usefixtures("prefect_api", "one_thread")


@pytest.fixture
def server(label_studio: Server, monkeypatch: pytest.MonkeyPatch, project_cleanup: None) -> Server:
    """The server that the settings name; every image is shown with its masks."""
    monkeypatch.setenv("SAA_LABEL_STUDIO_URL", label_studio.url)
    monkeypatch.setenv("SAA_LABEL_STUDIO_TOKEN", label_studio.token)
    monkeypatch.setenv("SAA_UNAIDED_SHARE", "0")
    return label_studio


def saa(plates: Plates, *words: str | Path) -> dict[str, Any]:
    asked = [*words, "--product", PRODUCT, "--workspace", plates.settings.workspace, "--json"]
    result = CliRunner().invoke(app, [str(word) for word in asked])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def test_the_new_champion_labels_again_and_pushes(plates: Plates, labelled: Labelled, server: Server) -> None:
    photographs = Path(labelled.refs[0].uri).parent
    first = saa(plates, "label", photographs, "--bundle", BUNDLE.id)
    plates.catalog.add_reviews(perfect(labelled.refs))
    found = saa(plates, "refine", "--risk", "--budget", "60", "--push")
    assert found["outcome"] == "promoted"
    run = plates.catalog.run(found["run"])
    assert (run.bundle, run.model_calls) == (found["proposed"], 0)
    assert run.id != first["run"]
    assert found["pushed"]["tasks"] == COUNT
    with Client(server.url, server.token) as client:
        project = client.get(f"/api/projects/{found['pushed']['project']}")
    assert (project["task_number"], project["total_predictions_number"]) == (COUNT, COUNT)


def test_what_is_not_promoted_is_not_pushed(plates: Plates, labelled: Labelled, server: Server) -> None:
    plates.catalog.add_reviews(perfect(labelled.refs[:5]))
    found = saa(plates, "refine", "--budget", "60", "--push")
    assert (found["outcome"], found["run"], found["pushed"]) == ("collect-more", None, None)
