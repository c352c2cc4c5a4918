"""`saa status` as a person and as a program read it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from flows.cli import app
from integrations.catalog import RunRecord
from tests.labelled_set import LabelledSet
from tests.plates import BUNDLE, PRODUCT

HEAVY = {"torch", "prefect", "fiftyone", "label_studio_sdk", "cv2", "httpx"}


def status(workspace: Path, *more: str) -> Any:
    result = CliRunner().invoke(app, ["status", "--workspace", str(workspace), *more])
    assert result.exit_code == 0, result.output
    return result


def test_of_a_workspace_that_is_not_there_yet(tmp_path: Path) -> None:
    said = status(tmp_path / "w").stdout
    assert "label-studio: stopped" in said
    assert "`saa label IMAGES" in said
    assert not (tmp_path / "w").exists()


def test_as_text_and_as_json(labelled_set: LabelledSet) -> None:
    labelled_set.add_many(2)
    labelled_set.label({})
    labelled_set.catalog.begin_run(RunRecord("run2", PRODUCT, BUNDLE.id, "batch", {}, "0"))
    workspace = labelled_set.settings.workspace
    told = json.loads(status(workspace, "--json").stdout)
    assert told["services"]["fiftyone"]["state"] == "stopped"
    assert [run["run"] for run in told["unfinished"]] == ["run2"]
    assert [(each["product"], each["images"]) for each in told["products"]] == [(PRODUCT, 2)]
    said = status(workspace).stdout
    assert f"run run2 of {PRODUCT}: 0 images so far" in said
    assert "champion" in said


def test_a_server_that_is_broken_does_not_hide_the_others(tmp_path: Path) -> None:
    from integrations.environments import held
    from integrations.label_studio import lifecycle

    # Held by a process that left no word of where it answers.
    with held(lifecycle.home_in(tmp_path).folder / "server.lock"):
        services = json.loads(status(tmp_path, "--json").stdout)["services"]
    assert services["label-studio"]["state"] == "broken"
    assert "a start was cut off" in services["label-studio"]["reason"]
    assert services["fiftyone"]["state"] == "stopped"


def test_it_needs_no_library_of_the_work(labelled_set: LabelledSet) -> None:
    labelled_set.add_many(2)
    labelled_set.label({})
    code = (
        "import sys; from typer.testing import CliRunner; from flows.cli import app; "
        "print(CliRunner().invoke(app, sys.argv[1:]).stdout); "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", code, "status", "--workspace", str(labelled_set.settings.workspace)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert PRODUCT in done.stdout
    assert HEAVY.isdisjoint(done.stdout.splitlines()[-1].split())
