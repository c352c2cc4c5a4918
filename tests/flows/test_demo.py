"""The demo from end to end: what it says, that its files are there, and that a second call changes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from integrations.catalog import Catalog
from integrations.demo import DEFECTS, MONDAY, SURFACES, TUESDAY, Day
from saa_core.reviews import evidence

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_api")]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def found(out: Path, prefect_api: None) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["demo", "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def images_of(day: Day) -> int:
    return len(day.good) + len(DEFECTS) * len(day.defective)


def test_both_days_are_labelled_for_every_surface(found: dict[str, Any]) -> None:
    labelled = [run["images"]["labelled"] + run["images"]["reused"] for run in found["runs"]]
    assert labelled == [images_of(MONDAY)] * 3 + [images_of(TUESDAY)] * 3
    assert {run["profile"] for run in found["runs"][:3]} == {"paper"}


def test_figures_of_the_photographs_that_nobody_corrected(found: dict[str, Any]) -> None:
    for side in ("before", "after", "default"):
        assert set(found[side]["classes"]) == set(SURFACES)
        assert {row["images"] for row in found[side]["classes"].values()} == {images_of(TUESDAY)}
        assert found[side]["classes"]["brick"]["max_f1_pixel"] > 0.3
        assert found[side]["mean"]["image_auroc"] > 0.7


def test_only_mondays_photographs_were_reviewed(found: dict[str, Any], out: Path) -> None:
    with Catalog(f"sqlite:///{out / 'workspace' / 'catalog.sqlite'}") as catalog:
        for run in found["runs"]:
            keys = {image.key for image in catalog.images_of(run["run"])}
            reviewed = set(evidence(catalog.reviews(run["product"]))) & keys
            assert bool(reviewed) == (run in found["runs"][:3])


def test_something_was_promoted_and_the_next_day_is_labelled_with_it_and_better(found: dict[str, Any]) -> None:
    told = found["refinements"]
    promoted = [surface for surface in SURFACES if told[surface]["outcome"] == "promoted"]
    assert promoted
    for monday, tuesday in zip(found["runs"][:3], found["runs"][3:], strict=True):
        refined = tuesday["product"] in promoted
        assert tuesday["bundle"] == (told[tuesday["product"]] if refined else monday)["bundle"]
    gains = [
        found["after"]["classes"][surface][figure] - found["before"]["classes"][surface][figure]
        for surface in promoted
        for figure in ("f1_pixel", "region_f1")
    ]
    assert sum(gains) > 0


def test_reports_are_there(found: dict[str, Any]) -> None:
    for path in map(Path, found["reports"]):
        text = path.read_text()
        assert "Figures against the known masks" in text
        assert "before" in text
        assert path.with_name("contact_sheet.png").is_file()
    for told in found["refinements"].values():
        assert Path(told["report"]).is_file()


def test_a_second_call_says_the_same_in_words_and_calls_no_model(found: dict[str, Any], out: Path) -> None:
    again = json.loads(CliRunner().invoke(app, ["demo", "--out", str(out), "--json"]).stdout)
    assert sum(run["model_calls"] for run in again["runs"]) == 0
    assert without_seconds(again["after"]) == without_seconds(found["after"])
    assert again["refinements"] == found["refinements"]
    told = CliRunner().invoke(app, ["demo", "--out", str(out)]).stdout
    assert re.search(r"brick  \d+ good, \d+ defective; \w+: ", told)
    assert re.search(r"mean  f1 pixel 0\.\d\d -> 0\.\d\d", told)
    assert "not GroundingDINO or SAM" in told


def without_seconds(figures: dict[str, Any]) -> dict[str, Any]:
    rows = {**figures["classes"], "mean": figures["mean"]}
    return {name: {key: row[key] for key in row if not key.startswith("seconds")} for name, row in rows.items()}
