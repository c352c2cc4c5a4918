"""The command line: streams, exit codes, JSON, and errors that say what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app, main
from saa_core import __version__, library

Photographs = Callable[..., Path]


def run(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def as_json(*words: str | Path) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def fail(words: Sequence[str | Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The error line of a command that fails, run through the real entry point."""
    monkeypatch.setattr("sys.argv", ["saa", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    return " ".join(capsys.readouterr().err.split())


def test_version() -> None:
    assert __version__ in run("--version").stdout


@pytest.mark.parametrize("verb", ["label", "evaluate", "demo", "report", "doctor", "bundle list", "config show"])
def test_help_teaches_by_example(verb: str) -> None:
    result = run(*verb.split(), "--help")
    assert result.exit_code == 0
    assert f"saa {verb}" in result.output


@pytest.mark.usefixtures("prefect_api")
def test_label_prints_the_summary_and_nothing_else(photographs: Photographs, tmp_path: Path) -> None:
    summary = as_json("label", photographs(4), "--product", "plate", "--workspace", tmp_path / "w")
    assert {"run", "product", "bundle", "models", "images", "model_calls", "regions", "seconds", "report"} <= set(
        summary
    )
    assert summary["models"] == {"generator": "lexical", "refiner": "contour", "features": "filter-bank"}
    told = run("label", tmp_path / "photos", "--product", "plate", "--workspace", tmp_path / "w")
    assert "not GroundingDINO or SAM" in told.stdout
    assert "0 model calls" in told.stdout
    assert summary["report"] in told.stdout
    again = as_json("report", "--run", summary["run"][:6], "--workspace", tmp_path / "w")
    assert again == {
        "run": summary["run"],
        "report": summary["report"],
        "contact_sheet": str(Path(summary["report"]).with_name("contact_sheet.png")),
    }


@pytest.mark.usefixtures("prefect_api")
def test_quarantine_is_exit_code_2(photographs: Photographs, tmp_path: Path) -> None:
    folder = photographs(4)
    (folder / "bad.png").write_bytes(b"x")
    result = run("label", folder, "--product", "plate", "--workspace", tmp_path / "w", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["images"]["quarantined"] == 1
    assert "bad.png" in result.stderr


def test_errors_name_the_thing_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "nowhere" in fail(["label", "nowhere", "--product", "p"], monkeypatch, capsys)
    assert "mvtec/bottle" in fail(["bundle", "show", "mvtec/botle"], monkeypatch, capsys)
    assert "no run yet" in fail(["report"], monkeypatch, capsys)
    assert "nowhere" in fail(["evaluate", "nowhere"], monkeypatch, capsys)


def test_wrong_usage_is_a_failure_and_not_work_done_in_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Missing option '--product'" in fail(["label", "photos"], monkeypatch, capsys)
    assert "'--limit'" in fail(["label", "photos", "--product", "p", "--limit", "0"], monkeypatch, capsys)
    assert "No such command 'lable'" in fail(["lable"], monkeypatch, capsys)
    assert fail(["bundle"], monkeypatch, capsys) == ""  # its help is on stdout


def test_a_product_needs_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--product: needs a name" in fail(["label", tmp_path, "--product", " "], monkeypatch, capsys)


def test_an_error_is_an_object_under_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["saa", "report", "--json"])
    with pytest.raises(SystemExit):
        main()
    assert "no run yet" in json.loads(capsys.readouterr().out)["error"]


class TestBundle:
    def test_list_knows_the_library(self, tmp_path: Path) -> None:
        rows = as_json("bundle", "list", "--workspace", tmp_path)["bundles"]
        assert {row["name"] for row in rows} == set(library.names())
        assert "mvtec/bottle" in run("bundle", "list", "--product", "bottle", "--workspace", tmp_path).stdout

    def test_looking_makes_no_workspace(self, tmp_path: Path) -> None:
        run("bundle", "list", "--workspace", tmp_path / "w")
        run("bundle", "show", "generic", "--workspace", tmp_path / "w")
        assert not (tmp_path / "w").exists()

    def test_export_import_keeps_the_id(self, tmp_path: Path) -> None:
        file = tmp_path / "bottle.yaml"
        assert run("bundle", "export", "mvtec/bottle", "--out", file, "--workspace", tmp_path).exit_code == 0
        imported = as_json("bundle", "import", file, "--workspace", tmp_path)["imported"]
        assert imported == {"bottle": library.load("mvtec/bottle").id}
        shown = as_json("bundle", "show", imported["bottle"][:8], "--workspace", tmp_path)
        assert shown["language"]["object"] == "bottle"
        assert run("bundle", "export", "mvtec/bottle", "--workspace", tmp_path).stdout == file.read_text()

    def test_diff(self, tmp_path: Path) -> None:
        changes = as_json("bundle", "diff", "generic", "mvtec/bottle", "--workspace", tmp_path)["changes"]
        assert "property.area_max" in {change["path"] for change in changes}
        same = run("bundle", "diff", "generic", "generic", "--workspace", tmp_path)
        assert "no difference" in same.stderr


class TestEvaluate:
    @pytest.fixture
    def dataset(self, photographs: Photographs, tmp_path: Path) -> Path:
        """Eight plates in MVTec layout; the scratches of the first four are known."""
        import numpy as np
        from PIL import Image

        source = photographs(8)
        root = tmp_path / "data" / "plate"
        for number in range(8):
            kind = "scratch" if number < 4 else "good"
            target = root / "test" / kind / f"{number:03}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((source / f"{number:03}.png").read_bytes())
            if number < 4:
                mask = np.zeros((96, 96), np.uint8)
                mask[20 + 5 * number : 23 + 5 * number, 10:80] = 255
                path = root / "ground_truth" / kind / f"{number:03}_mask.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(path)
        return tmp_path / "data"

    def test_figures(self, dataset: Path, tmp_path: Path) -> None:
        found = as_json("evaluate", dataset, "--workspace", tmp_path / "w")
        row = found["classes"]["plate"]
        assert row["images"] == 8
        assert row["max_f1_pixel"] > 0.5
        assert row["image_auroc"] > 0.9
        assert found["mean"]["max_f1_pixel"] == row["max_f1_pixel"]
        assert found["profile"] == "batch"
        table = run("evaluate", dataset, "--workspace", tmp_path / "w").stdout
        assert "plate" in table
        assert "mean" in table

    @pytest.mark.parametrize(
        ("prompt", "profile"),
        [("language", "paper"), ("property", "reference"), ("saliency", "batch"), ("confidence", "paper")],
    )
    def test_ablations_run(self, dataset: Path, tmp_path: Path, prompt: str, profile: str) -> None:
        found = as_json("evaluate", dataset, "--without", prompt, "--profile", profile, "--workspace", tmp_path / "w")
        assert found["profile"] == profile
        assert 0 < found["mean"]["max_f1_pixel"] <= 1

    def test_words_by_class(self, dataset: Path, tmp_path: Path) -> None:
        words = tmp_path / "words.json"
        words.write_text(json.dumps({"bundles": {"plate": {"language": {"specific": ["scratch"]}}, "cup": None}}))
        found = as_json("evaluate", dataset, "--bundle", words, "--only", "plate", "--workspace", tmp_path / "w")
        assert found["classes"]["plate"]["max_f1_pixel"] > 0.5

    def test_a_bad_image_is_named(self, dataset: Path, tmp_path: Path) -> None:
        (dataset / "plate" / "test" / "good" / "bad.png").write_bytes(b"x")
        result = run("evaluate", dataset, "--workspace", tmp_path / "w", "--json")
        assert result.exit_code == 2
        assert any("bad.png" in name for name in json.loads(result.stdout)["quarantined"])


def test_config_says_where_a_value_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAA_BATCH_SIZE", "5")
    monkeypatch.setenv("SAA_CATALOG", "postgresql://me:secret@db/saa")
    shown = run("config", "show", "--workspace", tmp_path, "--json").stdout
    values = json.loads(shown)
    assert values["batch_size"] == {"value": "5", "source": "SAA_BATCH_SIZE"}
    assert values["workspace"]["source"] == "argument"
    assert "secret" not in shown


def test_doctor(tmp_path: Path) -> None:
    found = {check["name"]: check for check in as_json("doctor", "--workspace", tmp_path / "w")["checks"]}
    assert found["weight-free models"]["state"] == "ok"
    assert found["prefect"]["state"] == "ok"
    assert not (tmp_path / "w").exists()
    assert "weight-free models" in run("doctor", "--workspace", tmp_path / "w").stdout


def test_config_as_a_table(tmp_path: Path) -> None:
    assert "max_megapixels" in run("config", "show", "--workspace", tmp_path).stdout


def test_doctor_says_what_is_broken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    result = run("doctor", "--workspace", tmp_path / "file" / "w", "--json")
    assert result.exit_code == 1
    states = {check["name"]: check["state"] for check in json.loads(result.stdout)["checks"]}
    assert states["workspace"] == "broken"
    assert states["weight-free models"] == "ok"


def test_doctor_asks_the_users_prefect_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    result = run("doctor", "--workspace", tmp_path, "--json")
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert checks["prefect's API"]["state"] == "broken"
    assert "PREFECT_API_URL" in checks["prefect's API"]["advice"]
