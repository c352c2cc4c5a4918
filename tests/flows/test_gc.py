"""`saa gc` between commands: each does afterwards what it did before, and asks no model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from integrations.blobs import BlobStore
from saa_core.errors import StoreError

pytestmark = pytest.mark.usefixtures("prefect_api")


def saa(*words: str | Path) -> Any:
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_finished_run_misses_nothing(photographs: Callable[..., Path], tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    place = ("--workspace", workspace)
    labelled = ("label", photographs(4), "--product", "plate", *place)
    first = saa(*labelled)
    explained = saa("explain", "000.png", "--product", "plate", *place)
    BlobStore(str(workspace / "blobs")).put("features", "ab12" * 16, b"junk")
    for path in workspace.rglob("*"):
        os.utime(path, (1e9, 1e9))
    wanted = saa("gc", "--dry-run", *place)
    assert wanted["garbage"] == {"features": {"files": 1, "bytes": 40}}
    assert saa("gc", *place) == wanted | {"dry_run": False}
    assert saa("gc", *place)["garbage"] == {}
    assert saa("explain", "000.png", "--product", "plate", *place) == explained
    again = saa(*labelled)
    assert (again["run"], again["regions"], again["model_calls"]) == (first["run"], first["regions"], 0)
    shutil.rmtree(workspace / "runs" / first["run"])  # its files are gone: made again from what is stored
    anew = saa(*labelled)
    assert (anew["regions"], anew["model_calls"]) == (first["regions"], 0)


def test_as_text(photographs: Callable[..., Path], tmp_path: Path) -> None:
    place = ["--workspace", str(tmp_path / "w")]
    saa("label", photographs(3), "--product", "plate", *place)
    said = CliRunner().invoke(app, ["gc", "--dry-run", *place]).stdout
    assert said.startswith("0.0 MB would be thrown away, ")


def test_where_there_is_no_workspace(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["gc", "--workspace", str(tmp_path / "w")])
    assert isinstance(result.exception, StoreError)
    assert not (tmp_path / "w").exists()
