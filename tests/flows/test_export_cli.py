"""`saa export`: what it says, in words and as JSON, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app, main
from flows.cli.export import Format
from integrations.export import FORMATS
from tests.labelled_set import LabelledSet, block, drawn


@pytest.fixture
def reviewed(labelled_set: LabelledSet) -> LabelledSet:
    a, b, _ = labelled_set.add_many(3)
    labelled_set.label({"002.png": [("dent", block(1, 1))]})
    labelled_set.review(drawn(a, ("crack", block(1, 1))), drawn(b))
    return labelled_set


def run(made: LabelledSet, *words: str | Path) -> Any:
    options = ["--product", "plate", "--workspace", made.settings.workspace]
    return CliRunner().invoke(app, ["export", *map(str, [*words, *options])])


def fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    monkeypatch.setattr("sys.argv", ["saa", "export", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    return " ".join(capsys.readouterr().err.split())


def test_the_command_knows_every_format() -> None:
    assert [format.value for format in Format] == list(FORMATS)


def test_help_teaches_by_example() -> None:
    assert "saa export coco" in CliRunner().invoke(app, ["export", "--help"]).output


def test_in_words(reviewed: LabelledSet) -> None:
    result = run(reviewed, "yolo", reviewed.folder / "out", "--predictions", "--split", "100/0/0")
    assert result.exit_code == 0
    assert "predictions of plate: 3 images (3 train, 0 val, 0 test): 2 good, 1 defective" in result.stdout
    assert "note: the scores of 1 regions are not written" in result.stdout
    assert f"export: {reviewed.folder / 'out'}" in result.stdout
    assert "exporting: 3/3" in result.stderr


def test_as_json(reviewed: LabelledSet) -> None:
    result = run(reviewed, "coco", reviewed.folder / "out", "--json")
    content = json.loads(result.stdout)
    assert (content["what"], content["good"], content["regions"], content["labels"]) == ("reviews", 1, 1, ["crack"])
    assert content["left_out"] == {"without a finding": 1}


def test_what_is_refused_is_exit_code_2(reviewed: LabelledSet) -> None:
    Path(reviewed.refs[0].uri).unlink()
    result = run(reviewed, "masks", reviewed.folder / "out")
    assert result.exit_code == 2
    assert "refused: 000.png: cannot be read" in result.stderr


def test_errors_say_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "has no finished run" in fail(monkeypatch, capsys, "coco", "out", "--product", "plate")
    assert "is for --predictions" in fail(monkeypatch, capsys, "coco", "out", "--product", "plate", "--run", "r")
    assert "100 together" in fail(monkeypatch, capsys, "coco", "out", "--product", "plate", "--split", "1/2/3")
    assert "coco" in fail(monkeypatch, capsys, "voc", "out", "--product", "plate")
    assert list(tmp_path.iterdir()) == []
