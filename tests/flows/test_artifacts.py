"""What a labelled run leaves in Prefect for whoever looks at it there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
from prefect import flow
from typer.testing import CliRunner

from flows.cli import app
from integrations.environments import held
from integrations.fiftyone.lifecycle import folder_in
from tasks.report import link_fiftyone, publish_link


def test_a_run_shows_what_to_review_and_its_sheet(
    prefect_api: str, photographs: Callable[..., Path], tmp_path: Path
) -> None:
    words = ["label", str(photographs(4)), "--product", "Düse_1", "--workspace", str(tmp_path / "w"), "--json"]
    run = json.loads(CliRunner().invoke(app, words).stdout)["run"]
    answer = httpx.post(f"{prefect_api}/artifacts/filter", json={}).raise_for_status().json()
    found = {each["key"]: each for each in answer if run in (each["key"] or "")}
    assert {key: each["type"] for key, each in found.items()} == {
        f"label-{run}": "markdown",
        f"review-first-{run}": "table",
        f"contact-sheet-{run}": "image",
    }
    rows = json.loads(found[f"review-first-{run}"]["data"])
    assert {row["image"] for row in rows} == {"000.png", "001.png", "002.png", "003.png"}
    assert found[f"contact-sheet-{run}"]["data"].startswith("data:image/jpeg;base64,")


def test_a_run_leads_to_where_people_go_on(prefect_api: str, tmp_path: Path) -> None:
    app_folder = folder_in(tmp_path) / "app"

    @flow
    def linked() -> None:
        publish_link("label-studio-Cap 7", "http://127.0.0.1:8080/projects/7", "Cap in Label Studio")
        link_fiftyone("nobody's", str(tmp_path))
        with held(app_folder / "server.lock"):
            (app_folder / "server.json").write_text(json.dumps({"port": 5161, "pid": 1, "version": "0"}))
            link_fiftyone("Cap 7", str(tmp_path))

    linked()
    answer = httpx.post(f"{prefect_api}/artifacts/filter", json={}).raise_for_status().json()
    found = {each["key"]: each["data"] for each in answer}
    assert found["label-studio-cap-7"] == "[Cap in Label Studio](http://127.0.0.1:8080/projects/7)"
    assert found["fiftyone-cap-7"] == "[Cap 7 in FiftyOne](http://127.0.0.1:5161/datasets/Cap%207)"
    assert "fiftyone-nobody-s" not in found
