"""One line of JSON per event, and nothing where nobody asked for it."""

from __future__ import annotations

import json
import logging
import logging.config
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integrations.catalog import RunImage, RunRecord
from integrations.logs import JsonLine, write_logs
from integrations.settings import Settings
from saa_core.errors import SettingsError
from tests.labelled_set import LabelledSet, drawn
from tests.plates import BUNDLE, PRODUCT


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    write_logs("text", None)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_what_is_noted_is_told(labelled_set: LabelledSet, tmp_path: Path) -> None:
    path = tmp_path / "log"
    (ref,) = labelled_set.add_many(1)
    write_logs("json", path)
    labelled_set.label({})
    labelled_set.catalog.record_images("run1", [RunImage("b\n.png", "quarantined", reason="empty file")])
    labelled_set.review(drawn(ref))
    labelled_set.catalog.promote(BUNDLE.id, reason="a test")
    found = lines(path)
    events = ["run begun", "image labelled", "run finished", "image quarantined", "reviews stored", "bundle promote"]
    assert [line["event"] for line in found] == events
    assert {line["product"] for line in found} == {PRODUCT}
    assert {line["run"] for line in found[:4]} == {"run1"}
    assert found[1]["image"] == ref.key
    assert (found[3]["reason"], "image" in found[3]) == ("empty file", False)
    assert found[4]["count"] == 1
    assert found[5]["bundle"] == BUNDLE.id


def test_whoever_sets_up_logging_anew_ends_nothing(labelled_set: LabelledSet, tmp_path: Path) -> None:
    write_logs("json", tmp_path / "log")
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})  # as Prefect does
    labelled_set.catalog.promote(BUNDLE.id, reason="a test")
    assert [line["event"] for line in lines(tmp_path / "log")] == ["bundle promote"]


def test_a_run_that_is_known_has_not_begun_again(labelled_set: LabelledSet, tmp_path: Path) -> None:
    labelled_set.label({})
    write_logs("json", tmp_path / "log")
    labelled_set.catalog.begin_run(RunRecord("run1", PRODUCT, BUNDLE.id, "batch", {}, "0"))
    assert lines(tmp_path / "log") == []


def test_every_process_that_loads_the_settings_logs_as_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAA_LOG", "json")
    for _ in range(2):  # once is enough
        Settings.load(workspace=tmp_path)
    logging.getLogger("integrations.blobs").warning("%s: damaged", "a blob")
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["level"], told["event"], told["logger"]) == ("warning", "a blob: damaged", "integrations.blobs")
    monkeypatch.setenv("SAA_LOG", "text")
    Settings.load(workspace=tmp_path)
    logging.getLogger("integrations.blobs").info("nobody hears this")
    assert capsys.readouterr().err == ""


def test_a_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAA_LOG", "json")
    monkeypatch.setenv("SAA_LOG_FILE", str(tmp_path / "none" / "log"))
    with pytest.raises(SettingsError, match=r"log_file .*: cannot be written: No such file"):
        Settings.load()


def test_an_error_is_one_line_too() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "it failed", None, (ValueError, error, None))
    line = JsonLine().format(record)
    assert "\n" not in line
    assert json.loads(line)["error"].startswith("ValueError: two")
