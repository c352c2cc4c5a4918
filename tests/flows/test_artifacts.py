"""What a labelled run leaves in Prefect for whoever looks at it there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
from typer.testing import CliRunner

from flows.cli import app


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
