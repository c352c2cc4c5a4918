"""The label flow on a real Prefect API: what it writes, what it reuses, what it survives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.runs import LabelRequest, RunSummary
from flows.start import start
from integrations.catalog import Catalog
from integrations.outputs import read_records
from integrations.settings import Settings
from saa_core import library
from saa_core.models import build
from saa_core.prompts import PromptBundle

Photographs = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("SAA_BATCH_SIZE", "3")  # tasks load the settings anew, so an argument would not reach them
    return Settings.load(workspace=tmp_path / "workspace")


def label(source: Path | str, settings: Settings, bundle: PromptBundle | None = None, **more: object) -> RunSummary:
    prompts = bundle or PromptBundle(product="plate")
    fields = {"source": str(source), "product": "plate", "bundle": prompts, "workspace": str(settings.workspace)}
    return start(LabelRequest(**{**fields, **more}), settings)  # type: ignore[arg-type]


def test_every_image_gets_map_mask_record_and_row(photographs: Photographs, settings: Settings) -> None:
    summary = label(photographs(8), settings)
    assert (summary.images.labelled, summary.images.reused, summary.images.quarantined) == (8, 0, 0)
    assert summary.model_calls == 8 * 3
    folder = settings.runs / summary.run
    assert len(list((folder / "maps").glob("*.png"))) == len(list((folder / "masks").glob("*.png"))) == 8
    records = list(read_records(folder))
    assert sum(len(record["regions"]) for record in records) == summary.regions > 0
    for record in records:
        mask = np.asarray(Image.open(folder / record["masks"][0]))
        assert mask.shape == (96, 96)
        assert (mask > 0).any() == bool(record["regions"])
    scores = {record["names"][0]: record["score"] for record in records}
    assert min(scores[f"{n:03}.png"] for n in range(4)) > max(scores[f"{n:03}.png"] for n in range(4, 8))
    assert Path(summary.report).is_file()
    assert (folder / "contact_sheet.png").is_file()
    with Catalog(settings.catalog_url) as catalog:
        record = catalog.run(summary.run)
        assert record.state == "done"
        assert record.models == build().ids
        assert {row.state for row in catalog.images_of(summary.run)} == {"labelled"}


def test_the_same_again_is_the_same_run_without_a_model_call(photographs: Photographs, settings: Settings) -> None:
    folder = photographs(5)
    first = label(folder, settings)
    again = label(folder, settings)
    assert again.run == first.run
    assert again.model_calls == 0
    assert again.images.reused == 5
    assert again.regions == first.regions


def test_other_numbers_call_no_model(photographs: Photographs, settings: Settings) -> None:
    folder, bundle = photographs(5), PromptBundle(product="plate")
    first = label(folder, settings, bundle)
    numbers = bundle.changed(
        property={"area_max": 0.2}, saliency={"gain": 2.0, "neighbours": 7}, confidence={"top_k": 1}
    )
    second = label(folder, settings, numbers)
    assert second.run != first.run
    assert second.model_calls == 0
    assert second.images.reused == 5
    for profile in ("paper", "reference"):
        assert label(folder, settings, bundle.changed(language={"agnostic": ["anomaly", "defect"]})).model_calls == 0
        same_words = bundle.with_profile(profile).changed(language={"agnostic": ["anomaly", "defect"]})
        assert label(folder, settings, same_words).model_calls == 0


def test_new_words_call_generator_and_refiner_only(photographs: Photographs, settings: Settings) -> None:
    folder = photographs(4)
    label(folder, settings)
    worded = PromptBundle.from_content({"product": "plate", "language": {"specific": ["scratch", "zyx"]}})
    summary = label(folder, settings, worded)
    assert summary.model_calls == 4 * 2
    assert summary.images.labelled == 4
    assert summary.unknown_words == ["zyx"]


def test_an_added_image_is_looked_at_and_no_feature_is_made_twice(photographs: Photographs, settings: Settings) -> None:
    folder = photographs(6)
    label(folder, settings)
    photographs(7)
    summary = label(folder, settings)
    # The set is every image's context, so all are proposed anew; features are kept.
    assert summary.model_calls == 1 + 7 * 2


def test_lost_outputs_are_written_again_without_a_model(photographs: Photographs, settings: Settings) -> None:
    folder = photographs(4)
    first = label(folder, settings)
    (settings.runs / first.run / "masks" / "002.png").unlink()
    again = label(folder, settings)
    assert again.model_calls == 0
    assert (settings.runs / first.run / "masks" / "002.png").is_file()


@pytest.mark.slow
def test_lost_candidates_are_made_again(photographs: Photographs, settings: Settings) -> None:
    folder = photographs(4)
    first = label(folder, settings)
    shutil.rmtree(settings.runs)
    shutil.rmtree(settings.workspace / "blobs" / "candidates")
    again = label(folder, settings)
    assert again.run == first.run
    assert again.model_calls == 4 * 2
    assert again.regions == first.regions


def test_bad_images_are_quarantined_and_the_rest_goes_on(photographs: Photographs, settings: Settings) -> None:
    folder = photographs(5)
    whole = (folder / "000.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "words.jpg").write_text("not an image")
    summary = label(folder, settings)
    assert (summary.images.labelled, summary.images.quarantined) == (5, 3)
    assert {name for name, _ in summary.refused} == {"cut.png", "empty.png", "words.jpg"}
    assert all(reason for _, reason in summary.refused)
    page = Path(summary.report).read_text()
    assert all(name in page for name in ("cut.png", "empty.png", "words.jpg"))
    again = label(folder, settings)
    assert (again.images.reused, again.images.quarantined, again.model_calls) == (5, 3, 0)


@pytest.mark.slow
def test_a_raised_size_limit_lets_images_in(
    photographs: Photographs, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photographs(4)
    Image.new("L", (1100, 1000)).save(folder / "large.png")
    monkeypatch.setenv("SAA_MAX_MEGAPIXELS", "1")
    refused = label(folder, Settings.load(workspace=settings.workspace))
    assert refused.refused == [("large.png", "more than 1000000 pixels, a decompression bomb?")]
    monkeypatch.setenv("SAA_MAX_MEGAPIXELS", "2")
    assert label(folder, Settings.load(workspace=settings.workspace)).images.quarantined == 0


@pytest.mark.slow
def test_batch_size_and_workers_change_no_byte(
    photographs: Photographs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, written = photographs(10), []
    for size, workers in ((1, 1), (16, 1), (3, 4)):
        monkeypatch.setenv("SAA_BATCH_SIZE", str(size))
        monkeypatch.setenv("SAA_WORKERS", str(workers))
        settings = Settings.load(workspace=tmp_path / f"{size}-{workers}")
        run = settings.runs / label(folder, settings).run
        files = [run / "regions.jsonl", *sorted(run.glob("ma*s/*.png"))]
        written.append({file.relative_to(settings.runs): file.read_bytes() for file in files})
    assert len(written[0]) == 1 + 2 * 10
    assert written[0] == written[1] == written[2]


def test_a_set_of_bad_images_only(tmp_path: Path, settings: Settings) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.png").write_text("no")
    summary = label(folder, settings)
    assert (summary.images.labelled, summary.images.quarantined, summary.regions) == (0, 1, 0)
    assert Path(summary.report).is_file()


def test_two_names_of_the_same_bytes_are_one_image(photographs: Photographs, settings: Settings) -> None:
    folder = photographs(4)
    shutil.copy(folder / "000.png", folder / "copy.png")
    summary = label(folder, settings)
    assert summary.images.labelled == 4
    assert (settings.runs / summary.run / "masks" / "copy.png").is_file()
    records = {tuple(record["names"]) for record in read_records(settings.runs / summary.run)}
    assert ("000.png", "copy.png") in records


def test_a_small_set_says_that_it_is_one(photographs: Photographs, settings: Settings) -> None:
    summary = label(photographs(2), settings)
    assert summary.images.labelled == 2
    assert "Fewer than 3" in summary.notes[0]


def test_limit_and_lot(photographs: Photographs, settings: Settings) -> None:
    summary = label(photographs(6), settings, limit=4, lot="L7")
    assert summary.images.labelled == 4
    with Catalog(settings.catalog_url) as catalog:
        assert {row.lot for row in catalog.images_of(summary.run)} == {"L7"}


def test_prefect_keeps_the_final_state_and_the_summary(photographs: Photographs, settings: Settings) -> None:
    from prefect.artifacts import Artifact
    from prefect.client.orchestration import get_client

    folder = photographs(4)
    (folder / "bad.png").write_bytes(b"x")
    summary = label(folder, settings)
    with get_client(sync_client=True) as client:
        names = {run.state_name for run in client.read_flow_runs()}
    assert "LabelledWithQuarantine" in names
    artifact = Artifact.get(key=f"label-{summary.run}")
    assert artifact is not None
    assert "bad.png" in str(artifact.data)


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(photographs: Photographs, tmp_path: Path, prefect_api: str) -> None:
    folder, workspace = photographs(24), tmp_path / "killed"
    command = [sys.executable, "-c", "from flows.cli import main; main()", "label", str(folder), "--product", "plate"]
    command += ["--workspace", str(workspace), "--json"]
    environment = {**os.environ, "PREFECT_API_URL": prefect_api, "SAA_BATCH_SIZE": "2", "SAA_WORKERS": "1"}
    features = workspace / "blobs" / "features"
    killed = 0
    for wanted in (4, 16):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and sum(path.is_file() for path in features.rglob("*")) < wanted:
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed == 2
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    assert summary["images"] == {"labelled": 24, "reused": 0, "quarantined": 0}
    # Nothing is done twice but what was in flight: at most one batch of 2 for each kill.
    assert 24 * 3 - 16 - 2 <= summary["model_calls"] <= 24 * 3 - 16 + 4
    whole = Settings.load(workspace=tmp_path / "whole")
    expected = label(folder, whole, library.load("generic"))
    assert summary["run"] == expected.run
    for kind in ("maps", "masks"):
        for path in sorted((whole.runs / expected.run / kind).glob("*.png")):
            assert path.read_bytes() == (workspace / "runs" / summary["run"] / kind / path.name).read_bytes()


@pytest.mark.slow
def test_interrupted_it_ends_at_once_and_says_how_to_go_on(photographs: Photographs, tmp_path: Path) -> None:
    folder, workspace = photographs(24), tmp_path / "interrupted"
    command = [sys.executable, "-c", "from flows.cli import main; main()", "label", str(folder), "--product", "plate"]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**bare, "SAA_BATCH_SIZE": "2", "SAA_WORKERS": "1", "XDG_STATE_HOME": str(tmp_path / "state")}
    process = subprocess.Popen(
        [*command, "--workspace", str(workspace)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    features = workspace / "blobs" / "features"
    while process.poll() is None and sum(path.is_file() for path in features.rglob("*")) < 4:
        time.sleep(0.01)
    # As a terminal does: to every process of the foreground group.
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in said
    assert "Traceback" not in said
