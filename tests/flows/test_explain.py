"""`saa explain`: the answer first, every number behind it, and what an expert made of the image."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from flows.explain import explain_image
from flows.runs import LabelRequest, RunSummary
from flows.start import start
from integrations.catalog import Catalog, RunImage, RunRecord
from integrations.outputs import ImageRecord, read_records
from integrations.settings import Settings
from saa_core import masks
from saa_core.errors import BundleError, ImageError, StoreError
from saa_core.prompts import PromptBundle
from saa_core.reviews import PredictedRegion, Review, ReviewedRegion, compare
from saa_core.types import ImageRef

SIDE = 96
BUNDLE = PromptBundle.from_content({"product": "plate", "language": {"specific": ["dark scratch"]}})


@pytest.fixture(scope="module")
def labelled(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    """A run over six plates, the first three scratched, and a file that is no image."""
    folder = tmp_path_factory.mktemp("plates")
    rng = np.random.default_rng(1)
    for number in range(6):
        pixels = rng.normal(150, 4, (SIDE, SIDE))
        pixels[20 : 23 if number < 3 else 20, 10:80] -= 90
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    (folder / "words.png").write_text("no image")
    workspace = tmp_path_factory.mktemp("explain") / "w"
    request = LabelRequest(source=str(folder), product="plate", bundle=BUNDLE, workspace=str(workspace))
    return start(request, Settings.load(workspace=workspace))


@pytest.fixture
def workspace(labelled: RunSummary, tmp_path: Path) -> Path:
    """A copy of the workspace that a test may change."""
    copy = tmp_path / "w"
    shutil.copytree(Path(labelled.report).parents[2], copy)
    return copy


def run(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def told(*words: str | Path) -> list[str]:
    result = run("explain", *words)
    assert result.exit_code == 0, result.output
    return list(result.stdout.splitlines())


def as_json(*words: str | Path) -> dict[str, Any]:
    return json.loads("\n".join(told(*words, "--json")))  # type: ignore[no-any-return]


def record_of(workspace: Path, name: str) -> ImageRecord:
    folder = next((workspace / "runs").iterdir())
    return next(record for record in read_records(folder) if name in record["names"])


def plate(workspace: Path, *more: str | Path) -> tuple[str | Path, ...]:
    return ("--product", "plate", "--workspace", workspace, *more)


def test_the_first_line_answers(workspace: Path) -> None:
    marked, clean = told("0.png", *plate(workspace)), told("5.png", *plate(workspace))
    assert marked[0].startswith("Marked: ")
    assert "is needed" in marked[0]
    assert clean[0].startswith("Not marked: none of ")
    assert f"by bundle {BUNDLE.id} (profile batch; the run's own)" in marked[1]
    assert any(line.startswith("#") and line.endswith("because") for line in marked)
    assert any("✗" in line for line in clean)
    assert any(line.startswith("#") and line.endswith("dark scratch") for line in marked)
    assert any(line.startswith("Map: saliency (batch)") for line in marked)


def test_the_numbers_are_those_of_the_runs_files(workspace: Path) -> None:
    for name in ("0.png", "1.png", "4.png"):
        found, record = as_json(name, *plate(workspace)), record_of(workspace, name)
        assert found["image"] == {"key": record["key"], "names": [name]}
        assert found["notes"] == []
        assert round(found["score"], 6) == record["score"]
        shown = [each for each in found["candidates"] if each["shown"]]
        assert [each["rank"] for each in shown] == list(range(1, len(record["regions"]) + 1))
        for each, region in zip(shown, record["regions"], strict=True):
            assert each["box"] == region["box"]
            assert each["label"] == region["label"]
            assert round(each["confidence"], 6) == region["confidence"]
            assert {p["text"]: round(p["score"], 6) for p in each["phrases"]} == region["phrase_scores"]
        assert all(each["removed_by"] for each in found["candidates"] if not each["shown"])
        assert {check["name"] for each in found["candidates"] for check in each["checks"]} >= {"confidence", "overlap"}


def test_an_image_is_known_by_name_file_and_key(workspace: Path, tmp_path: Path, labelled: RunSummary) -> None:
    by_name = as_json("1.png", *plate(workspace))
    with Catalog(Settings.load(workspace=workspace).catalog_url) as catalog:
        uri = next(row.uri for row in catalog.images_of(labelled.run) if row.name == "1.png")
    moved = tmp_path / "elsewhere.png"
    shutil.copy(uri, moved)
    for image in (moved, by_name["image"]["key"][:10], by_name["image"]["key"].upper()):
        assert as_json(image, *plate(workspace, "--run", labelled.run[:6])) == by_name


def test_a_file_is_found_in_an_older_run(workspace: Path, labelled: RunSummary, prefect_api: str) -> None:
    settings = Settings.load(workspace=workspace)
    with Catalog(settings.catalog_url) as catalog:
        uri = next(row.uri for row in catalog.images_of(labelled.run) if row.name == "1.png")
    other = Path(uri).with_name("4.png")
    request = LabelRequest(source=str(other), product="plate", bundle=BUNDLE, workspace=str(workspace))
    later = start(request, settings)
    assert as_json(uri, *plate(workspace))["run"] == labelled.run
    assert as_json(other, *plate(workspace))["run"] == later.run
    with Catalog(settings.catalog_url) as catalog, pytest.raises(StoreError, match="in no finished run of 'plate'"):
        explain_image(__file__, "plate", settings, catalog)


def test_another_bundle_in_the_same_set(workspace: Path, tmp_path: Path) -> None:
    strict = tmp_path / "strict.yaml"
    strict.write_text(BUNDLE.changed(decision={"region_floor": 1.0}, confidence={"top_k": 1}).to_yaml())
    lines = told("0.png", *plate(workspace, "--bundle", strict))
    assert "not the run's own" in lines[1]
    found = as_json("0.png", *plate(workspace, "--bundle", strict))
    # The set's floor is half of the bundle's where little stands out that far.
    assert 0.5 <= found["region_floor"] < 1
    assert not found["own_bundle"]
    assert found["notes"] == []


def test_new_words_ask_the_models_and_say_so(workspace: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.yaml"
    words.write_text(BUNDLE.changed(language={"specific": ["bright spot"]}).to_yaml())
    result = run("explain", "0.png", *plate(workspace, "--bundle", words))
    assert "proposing regions: 6/6" in result.stderr
    assert "bright spot" in result.stdout
    assert "proposing regions" not in run("explain", "0.png", *plate(workspace, "--bundle", words)).stderr


def test_the_picture(workspace: Path, tmp_path: Path) -> None:
    out = tmp_path / "why.png"
    lines = told("0.png", *plate(workspace, "--out", out))
    assert lines[-1] == f"picture: {out}"
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1400
    assert as_json("0.png", *plate(workspace, "--out", out))["picture"] == str(out)


def test_a_photograph_that_is_gone_can_be_explained_but_not_drawn(workspace: Path, tmp_path: Path) -> None:
    settings = Settings.load(workspace=workspace)
    with Catalog(settings.catalog_url) as catalog:
        row = next(row for row in catalog.images_of(catalog.runs_of("plate", [key(workspace)])[key(workspace)][0]))
    hidden = Path(row.uri).rename(tmp_path / "hidden.png")
    try:
        assert told("0.png", *plate(workspace))[0].startswith("Marked")
        result = run("explain", "0.png", *plate(workspace, "--out", tmp_path / "why.png"))
        assert isinstance(result.exception, ImageError)
        assert not (tmp_path / "why.png").exists()
    finally:
        hidden.rename(row.uri)


def key(workspace: Path, name: str = "0.png") -> str:
    return record_of(workspace, name)["key"]


class TestExpert:
    def review(self, workspace: Path, annotator: str, added: bool) -> None:
        record = record_of(workspace, "0.png")
        shown = [
            PredictedRegion(
                str(rank), "defect", region["label"], region["confidence"], masks.from_coco(region["segmentation"])
            )
            for rank, region in enumerate(record["regions"])
        ]
        drawn = masks.encode_crop(np.ones((4, 9), np.bool_), 80, 60, SIDE, SIDE)
        left = [ReviewedRegion(None, "dirt", drawn, "a crumb")] if added else []
        review = Review(
            product="plate",
            image=record["key"],
            source="masks",
            id=annotator,
            state="submitted",
            annotator=annotator,
            updated=datetime(2025, 3, 2, tzinfo=UTC),
            verdict=None,
            words="",
            lead_seconds=None,
            run=None,
            bundle=record["bundle"],
            aided=True,
            regions=compare(shown, left),
        )
        with Catalog(Settings.load(workspace=workspace).catalog_url) as catalog:
            catalog.add_reviews([review])

    def test_what_the_expert_did_is_told(self, workspace: Path, tmp_path: Path) -> None:
        before = as_json("0.png", *plate(workspace))
        assert before["expert"] is None
        self.review(workspace, "anna", added=True)
        lines = told("0.png", *plate(workspace, "--out", tmp_path / "why.png"))
        assert "Expert anna found it defective on 2025-03-02." in lines
        assert any(line.startswith("  rejected 'defect': candidate #1 (IoU 1.00) is shown") for line in lines)
        assert any(line.startswith("  added 'dirt' (a crumb): ") for line in lines)
        said = as_json("0.png", *plate(workspace))["expert"]
        assert (said["annotator"], said["finding"], said["updated"]) == (
            "anna",
            "defective",
            "2025-03-02T00:00:00+00:00",
        )
        assert [region["outcome"] for region in said["regions"]][-1] == "added"

    def test_annotators_who_disagree_are_named(self, workspace: Path) -> None:
        self.review(workspace, "anna", added=True)
        self.review(workspace, "bert", added=False)
        assert any(line.startswith("note: annotators anna, bert disagree") for line in told("0.png", *plate(workspace)))


def test_files_that_say_something_else_are_noted(workspace: Path) -> None:
    lines = next((workspace / "runs").iterdir()) / "regions.jsonl"
    changed = [json.loads(line) for line in lines.read_text().splitlines()]
    changed[0]["regions"] = []
    lines.write_text("".join(json.dumps(record) + "\n" for record in changed))
    assert any("say something else; label the images again" in line for line in told("0.png", *plate(workspace)))
    lines.unlink()
    assert as_json("0.png", *plate(workspace))["notes"] == []


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("7.png", r"7\.png: run \w+ has no image of this name, file or key, did you mean \d\.png\?"),
        ("words.png", r"words\.png: was set aside by run \w+: "),
        ("abc", r"abc: run \w+ has no image"),
    ],
)
def test_an_image_that_is_not_there(workspace: Path, image: str, reason: str) -> None:
    result = run("explain", image, *plate(workspace))
    assert isinstance(result.exception, StoreError)
    assert re.match(reason, str(result.exception))


def test_a_file_that_was_set_aside(workspace: Path, labelled: RunSummary) -> None:
    settings = Settings.load(workspace=workspace)
    with Catalog(settings.catalog_url) as catalog:
        uri = next(row.uri for row in catalog.images_of(labelled.run) if row.name == "words.png")
        with pytest.raises(StoreError, match="was set aside"):
            explain_image(uri, "plate", settings, catalog)


def test_a_key_needs_enough_digits(tmp_path: Path) -> None:
    settings = Settings.load(workspace=tmp_path)
    alike = [ImageRef("abcd" + digit * 60, f"{digit}.png", (f"{digit}.png",)) for digit in "12"]
    with Catalog(settings.catalog_url) as catalog:
        catalog.add_bundle(BUNDLE)
        catalog.begin_run(RunRecord("run1", "plate", BUNDLE.id, "batch", {}, "0"))
        catalog.record_images("run1", [RunImage.of(ref, "labelled") for ref in alike])
        catalog.finish_run("run1", labelled=2, reused=0, quarantined=0, regions=0, model_calls=0, seconds=0)
        with pytest.raises(StoreError, match="2 images of run run1 have keys that begin like this"):
            explain_image("abcd", "plate", settings, catalog)


def test_a_run_or_bundle_that_is_not_there(workspace: Path) -> None:
    assert isinstance(run("explain", "0.png", *plate(workspace, "--run", "zz")).exception, StoreError)
    assert isinstance(run("explain", "0.png", *plate(workspace, "--bundle", "zz")).exception, BundleError)
    nowhere = run("explain", "0.png", "--product", "cup", "--workspace", workspace).exception
    assert "has no finished run" in str(nowhere)


def test_help_shows_an_example() -> None:
    assert "saa explain 003.png --product bottle" in run("explain", "--help").output
