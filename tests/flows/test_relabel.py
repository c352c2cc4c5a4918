"""`saa relabel`: another bundle on the photographs of the latest run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.runs import again
from integrations.catalog import Catalog, RunRecord
from integrations.settings import Settings
from saa_core.errors import StoreError
from saa_core.prompts import PromptBundle

pytestmark = pytest.mark.usefixtures("prefect_api")


def saa(workspace: Path, *words: str | Path) -> dict[str, Any]:
    asked = [*map(str, words), "--product", "plate", "--workspace", str(workspace), "--json"]
    result = CliRunner().invoke(app, asked)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_the_same_photographs_and_models(photographs: Callable[..., Path], tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    first = saa(workspace, "label", photographs())
    changed = PromptBundle(product="plate").changed(decision={"region_floor": 0.9})
    (tmp_path / "changed.yaml").write_text(changed.to_yaml())
    second = saa(workspace, "relabel", "--bundle", tmp_path / "changed.yaml")
    assert second["run"] != first["run"]
    assert second["bundle"] == changed.id
    assert (second["images"]["reused"], second["model_calls"]) == (8, 0)
    assert second["model_ids"] == first["model_ids"]
    with Catalog(Settings.load(workspace=workspace).catalog_url) as catalog:
        assert catalog.run(first["run"]).state == "done"
        assert catalog.champion("plate") is None


def test_nothing_to_label_again(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="plate: has no finished run; `saa label IMAGES --product plate` makes one"):
        saa(tmp_path / "workspace", "relabel", "--bundle", "generic")


def test_a_source_whose_secret_was_not_kept(tmp_path: Path) -> None:
    run = RunRecord("r", "plate", "b", "batch", {}, "0", source="https://saa:***@shop/photos")
    bundle = PromptBundle(product="plate")
    with pytest.raises(StoreError, match=f"holds a secret that was not kept; `saa label` it with --bundle {bundle.id}"):
        again(run, bundle, Settings.load(workspace=tmp_path))
