"""`saa refine`: what the person reads, what a program reads, exit codes, and what is left when it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli import app
from integrations.refinery import RefineRequest
from saa_core.errors import StoreError
from saa_core.masks import encode
from tests.plates import BUNDLE, PRODUCT, Labelled, Plates, perfect, said

pytestmark = pytest.mark.usefixtures("prefect_api", "one_thread")


def saa(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def refine(plates: Plates, *more: str) -> Any:
    return saa("refine", "--product", PRODUCT, "--workspace", plates.settings.workspace, "--budget", "60", *more)


def as_json(result: Any) -> dict[str, Any]:
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def test_help_teaches_by_example() -> None:
    assert "saa refine --product bottle" in saa("refine", "--help").output


def test_a_promotion_as_json_and_the_next_label_uses_it(plates: Plates, labelled: Labelled) -> None:
    plates.catalog.add_reviews(perfect(labelled.refs))
    result = refine(plates, "--risk", "--json")
    assert result.exit_code == 0, result.output
    found = as_json(result)
    assert {"product", "outcome", "champion", "proposed", "evidence", "gain", "missing", "report"} <= set(found)
    assert (found["product"], found["outcome"], found["champion"]) == (PRODUCT, "promoted", BUNDLE.id)
    assert (found["evidence"]["defective"], found["evidence"]["good"], found["missing"]) == (8, 12, {})
    assert found["gain"]["mean"] >= found["gain"]["lower"] > 0
    champion = plates.catalog.champion(PRODUCT)
    assert champion is not None
    assert found["proposed"] == champion.id
    assert "promoted" not in result.stdout.replace('"outcome": "promoted"', "")
    assert "searching" in result.stderr
    assert "decides from now on" in Path(found["report"]).read_text()
    photographs = Path(labelled.refs[0].uri).parent
    where = "--product", PRODUCT, "--workspace", plates.settings.workspace, "--json"
    again = as_json(saa("label", photographs, *where))
    assert (again["bundle"], again["model_calls"]) == (champion.id, 0)


def test_too_little_evidence_in_words(plates: Plates, labelled: Labelled) -> None:
    plates.catalog.add_reviews(perfect(labelled.refs[:5]))
    result = refine(plates)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == (
        "Too little has been reviewed to refine plate: 6 more defective and 17 more good images are needed."
    )
    report = Path(lines[-1].removeprefix("report: "))
    assert "Too little has been reviewed" in report.read_text()
    found = as_json(refine(plates, "--json"))
    assert (found["outcome"], found["proposed"], found["gain"]) == ("collect-more", None, None)
    assert found["missing"] == {"defective": 6, "good": 17}
    assert plates.catalog.champion(PRODUCT) is None


def test_reviews_that_cannot_be_used_are_named_and_the_exit_code_says_so(plates: Plates, labelled: Labelled) -> None:
    first, *others = labelled.refs
    plates.catalog.add_reviews([said(first, [encode(np.ones((8, 8), np.bool_))]), *perfect(others)])
    result = refine(plates, "--json")
    assert result.exit_code == 2
    reason = "a reviewed mask has 8 x 8 pixels, the image has 64 x 64"
    assert f"left out: 000.png: {reason}" in result.stderr
    assert as_json(result)["evidence"]["unusable"] == [["000.png", reason]]


def test_the_flow_ends_in_a_state_that_says_what_came_of_it(plates: Plates) -> None:
    from flows.refine import refine_flow

    state = refine_flow(RefineRequest(product=PRODUCT), str(plates.settings.workspace), return_state=True)
    assert state.name == "CollectMore"
    assert (
        state.message
        == "Too little has been reviewed to refine plate: 8 more defective and 20 more good images are needed."
    )


@pytest.mark.slow
def test_a_report_that_cannot_be_written_promotes_nothing(plates: Plates, labelled: Labelled) -> None:
    plates.catalog.add_reviews(perfect(labelled.refs))
    (plates.settings.workspace / "refinements").write_text("in the way")
    error = refine(plates, "--risk").exception
    assert isinstance(error, StoreError)
    assert "cannot be written" in str(error)
    assert plates.catalog.champion(PRODUCT) is None
    assert plates.catalog.refinements(PRODUCT) == ()
    (plates.settings.workspace / "refinements").unlink()
    assert as_json(refine(plates, "--risk", "--json"))["outcome"] == "promoted"
    assert len(plates.catalog.looks(PRODUCT)) == 1


def test_what_is_not_there_is_said_before_anything_starts(plates: Plates, tmp_path: Path) -> None:
    unknown = saa("refine", "--product", "cup", "--workspace", plates.settings.workspace).exception
    assert isinstance(unknown, StoreError)
    assert str(unknown) == "cup: has no finished run; `saa label IMAGES --product cup` makes one"
    nowhere = saa("refine", "--product", PRODUCT, "--workspace", tmp_path / "nowhere").exception
    assert isinstance(nowhere, StoreError)
    assert "is no workspace yet" in str(nowhere)
    assert not (tmp_path / "nowhere").exists()
