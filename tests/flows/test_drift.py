"""What the bundle proved and what has drifted since, from `saa label` to the run's files, its page and `saa audit`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from integrations.catalog import Catalog
from integrations.outputs import read_records, read_run
from integrations.settings import Settings
from saa_core.prompts import PromptBundle
from saa_core.refinement.drift import ADVICE, LEAST
from tests.alarm_site import listening

BUNDLE = PromptBundle(product="plate")
Photographs = Callable[..., Path]


def saa(workspace: Path, *words: str | Path) -> str:
    result = CliRunner().invoke(app, [*map(str, words), "--workspace", str(workspace)])
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def label(workspace: Path, folder: Path, *more: str) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(saa(workspace, "label", folder, "--product", "plate", "--json", *more))
    return summary


def audit(workspace: Path) -> tuple[list[str], Any]:
    command = "audit", "--product", "plate"
    return saa(workspace, *command).splitlines(), json.loads(saa(workspace, *command, "--json"))["drift"]


def dim(folder: Path) -> Path:
    """The same photographs in less light."""
    for path in folder.iterdir():
        Image.fromarray((np.asarray(Image.open(path)) * 0.4).astype(np.uint8)).save(path)
    return folder


def keep(workspace: Path, bundle: PromptBundle) -> PromptBundle:
    with Catalog(Settings.load(workspace=workspace).catalog_url) as catalog:
        catalog.add_bundle(bundle)
    return bundle


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_api")
def test_a_lot_that_has_drifted_is_told_by_the_run_and_by_audit_and_to_the_site(
    photographs: Photographs, tmp_path: Path, prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = tmp_path / "w"
    keep(workspace, BUNDLE)
    first = label(workspace, photographs(LEAST + 2), "--bundle", BUNDLE.id, "--lot", "1")
    assert (first["bundle"], first["notes"]) == (BUNDLE.id, [])
    saa(workspace, "promote", BUNDLE.id)
    lines, found = audit(workspace)
    assert lines[1] == "drift: no new photographs were labelled since the promotion"
    assert found == {"images_before": LEAST + 2, "regions_compared": False, "lots": [], "alarms": []}

    with listening() as site:
        monkeypatch.setenv("SAA_ALARM_WEBHOOK", site.url)
        calm = label(workspace, photographs(4, "calm", seed=1), "--lot", "2")
        dark = label(workspace, dim(photographs(LEAST + 2, "dark", seed=2)), "--lot", "3")
    assert calm["notes"] == []
    (heard,) = site.heard
    assert (heard["product"], heard["run"]) == ("plate", dark["run"])
    assert heard["sentences"] == dark["notes"]
    artifacts = httpx.post(f"{prefect_api}/artifacts/filter", json={}).json()
    (artifact,) = (each for each in artifacts if each["key"] == f"drift-{dark['run']}")
    assert artifact["data"].startswith("# plate has drifted")
    note = next(note for note in dark["notes"] if "its images look different" in note)
    assert note.startswith("Lot 3: ")
    assert note.endswith(f"{ADVICE}.")
    assert read_run(Path(dark["report"]).parent)["notes"] == dark["notes"]
    assert "its images look different" in Path(dark["report"]).read_text()
    assert label(workspace, tmp_path / "dark", "--lot", "3")["notes"] == dark["notes"]

    lines, found = audit(workspace)
    assert (found["lots"], {alarm["lot"] for alarm in found["alarms"]}) == (["2", "3"], {"3"})
    assert found["regions_compared"] is True
    count = len(found["alarms"])
    alarms = f"{count} alarm{'s' * (count > 1)}"
    assert lines[1] == f"drift: {alarms} in 2 lots since the promotion, against {LEAST + 2} images before it"
    assert f"    {note}" in lines


def test_audit_says_why_nothing_is_watched(tmp_path: Path) -> None:
    keep(tmp_path, BUNDLE)
    saa(tmp_path, "promote", BUNDLE.id)
    lines, found = audit(tmp_path)
    assert lines[1] == (f"drift: not watched, since 0 images were labelled before the promotion and {LEAST} are needed")
    assert (found["images_before"], found["lots"], found["alarms"]) == (0, [], [])


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_api")
def test_audit_says_when_regions_cannot_be_compared(photographs: Photographs, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    folder, new = photographs(LEAST), keep(workspace, BUNDLE.changed(decision={"threshold": 0.8}))
    keep(workspace, BUNDLE)
    label(workspace, folder, "--bundle", BUNDLE.id, "--lot", "1")
    saa(workspace, "promote", new.id)
    label(workspace, photographs(4, "later", seed=1), "--lot", "2")
    blind = "    regions were not compared: too few earlier images were decided by it; `saa label` them again"
    lines, found = audit(workspace)
    assert lines[1] == f"drift: no alarm in 1 lot since the promotion, against {LEAST} images before it"
    assert (lines[2], found["regions_compared"]) == (blind, False)
    assert label(workspace, folder, "--lot", "1")["model_calls"] == 0
    lines, found = audit(workspace)
    assert (blind in lines, found["regions_compared"]) == (False, True)


@pytest.mark.usefixtures("prefect_api")
def test_the_accept_threshold_reaches_the_records_and_the_page(photographs: Photographs, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    plain = label(workspace, photographs(6))
    confidences = [
        region["confidence"]
        for record in read_records(Path(plain["report"]).parent)
        for region in record["regions"]
        if region["needs_review"] and region["precision"] is None
    ]
    assert len(confidences) == plain["regions"] >= 2
    accept = (min(confidences) + max(confidences)) / 2
    proved = BUNDLE.changed(decision={"accept": accept, "calibration": [[0.0, 0.5], [accept, 0.96]]})
    again = label(workspace, tmp_path / "photos", "--bundle", keep(workspace, proved).id)
    assert again["model_calls"] == 0
    regions = [region for record in read_records(Path(again["report"]).parent) for region in record["regions"]]
    spared = [region for region in regions if not region["needs_review"]]
    assert 0 < len(spared) < len(regions)
    assert all(region["confidence"] >= accept and region["precision"] == 0.96 for region in spared)
    assert all(region["precision"] == 0.5 for region in regions if region["needs_review"])
    page = Path(again["report"]).read_text()
    assert f"{len(spared)} of {len(regions)} regions need" in page
    assert "All of them are suggestions" not in page
