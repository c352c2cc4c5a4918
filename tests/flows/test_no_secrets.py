"""Secrets in the settings, and every place where the commands that use them leave words: none of them is there."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from flows.cli import app
from tests.echo import Echo
from tests.labelled_set import picture
from tests.plates import PRODUCT

TOKEN, PASSWORD, HOOK = "tok3n-Zq81xv", "passw0rd-Ht52", "h00k-Yx93"


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, ...]]:
    """Secrets of every kind in the settings; the servers they are for answer by what they were sent, or not at all."""
    monkeypatch.setenv("SAA_LABEL_STUDIO_TOKEN", TOKEN)
    monkeypatch.setenv("SAA_FIFTYONE_URI", f"mongodb://saa:{PASSWORD}@127.0.0.1:9/?serverSelectionTimeoutMS=300")
    monkeypatch.setenv("SAA_ALARM_WEBHOOK", f"https://127.0.0.1:9/{HOOK}")
    with Echo() as url:
        monkeypatch.setenv("SAA_LABEL_STUDIO_URL", url)
        yield TOKEN, PASSWORD, HOOK


def told(arguments: list[str]) -> str:
    """All that a command prints, as main would print it, and the traceback of what it raised."""
    result = CliRunner().invoke(app, arguments)
    raised = "".join(traceback.format_exception(result.exception)) if result.exception else ""
    return result.output + str(result.exception) + raised


def test_secrets_are_shown_nowhere(
    prefect_api: str, tmp_path: Path, secrets: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    photographs, workspace = tmp_path / "photographs", tmp_path / "w"
    photographs.mkdir()
    for number in range(3):
        (photographs / f"{number}.png").write_bytes(picture(number, size=(64, 64)))
    place = ["--workspace", str(workspace)]
    commands = [
        ["label", str(photographs), "--product", PRODUCT, *place],
        ["push", "label-studio", "--product", PRODUCT, *place],
        ["push", "fiftyone", "--product", PRODUCT, *place],
        ["pull", "label-studio", "--product", PRODUCT, *place],
        ["refine", "--product", PRODUCT, *place],
        ["config", "show", *place],
        ["config", "show", "--json", *place],
        ["doctor", *place],
        ["status", "--json", *place],
        ["services", "status", "label-studio", *place],
        ["services", "status", "fiftyone", *place],
        ["gc", "--dry-run", *place],
    ]
    said = {" ".join(words[:2]): told(words) for words in commands}
    assert "403" in said["push label-studio"]  # it came as far as the server that echoes
    assert "***" in said["config show"]
    said["log"] = caplog.text
    said["Prefect"] = everything_of(prefect_api)
    assert PRODUCT in said["Prefect"]
    for place_, text in said.items():
        for secret in secrets:
            assert secret not in text, place_
    for path in workspace.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret.encode() in content for secret in secrets), path


def everything_of(api: str) -> str:
    """What Prefect keeps of runs: their parameters and states, artifacts, logs."""
    found = [
        httpx.post(f"{api}/{kind}/filter", json={}).raise_for_status().text
        for kind in ("flow_runs", "task_runs", "artifacts", "logs")
    ]
    return "".join(found)
