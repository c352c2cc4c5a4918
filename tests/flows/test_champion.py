"""Promote, roll back, audit: what the person reads, and what the next labelling does."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from integrations import prefect_server
from integrations.catalog import Catalog, RefinementRecord
from integrations.environments import held
from integrations.settings import Settings
from saa_core.errors import BundleError
from saa_core.prompts import PromptBundle
from saa_core.refinement.outcome import EvidenceSummary, Figures, Interval, Refinement

A = PromptBundle(product="plate")
B = A.changed(parent=A.id, confidence={"top_k": 1, "map": "mean"}, decision={"threshold": 0.8})
WORDY = B.changed(parent=B.id, language={"specific": ["scratch"]})
REFINEMENT = Refinement(
    product="plate",
    outcome="promoted",
    reasons=("better on nine of ten resamples",),
    champion=A,
    proposed=B,
    seed=7,
    configurations=2000,
    resamples=200,
    risk=False,
    evidence=EvidenceSummary("0123456789abcdef", 10, 20, 0, 6, 6, 31),
    gain=Interval(0.05, 0.01, 0.09),
    before=Figures(0.41, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, None),
    after=Figures(0.52, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1),
    held_before=Figures(0.43, None, None, None, None, None, None, 0.0),
    held_after=Figures(0.51, None, None, None, None, None, None, 0.125),
)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace that knows the bundles and has no champion."""
    folder = tmp_path / "w"
    with Catalog(Settings.load(workspace=folder).catalog_url) as catalog:
        for bundle in (A, B, WORDY):
            catalog.add_bundle(bundle)
    return folder


def saa(workspace: Path, *words: str | Path) -> Any:
    return CliRunner().invoke(app, [*map(str, words), "--workspace", str(workspace)])


def told(workspace: Path, *words: str | Path) -> list[str]:
    result = saa(workspace, *words)
    assert result.exit_code == 0, result.output
    return str(result.stdout).splitlines()


def as_json(workspace: Path, *words: str | Path) -> dict[str, Any]:
    return json.loads("\n".join(told(workspace, *words, "--json")))  # type: ignore[no-any-return]


@pytest.mark.parametrize("verb", ["promote", "rollback", "audit"])
def test_help_teaches_by_example(verb: str) -> None:
    assert f"saa {verb} " in CliRunner().invoke(app, [verb, "--help"]).output.partition("Example")[2]


# ---------------------------------------------------------------------------------------------------- promote, rollback


def test_a_server_that_does_not_answer_keeps_nobody_waiting(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        result = saa(workspace, "promote", A.id)
    assert (result.exit_code, result.stderr) == (0, "Prefect's server does not answer: the nightly run labels again\n")


def test_a_server_that_says_nothing_keeps_nobody_waiting(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows import events

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/api"
        monkeypatch.setenv("PREFECT_API_URL", url)
        monkeypatch.setattr(events, "_PATIENCE", 0.2)
        with temporary_settings({PREFECT_API_URL: url}):
            result = saa(workspace, "promote", A.id)
    assert (result.exit_code, result.stderr) == (0, "Prefect's server does not answer: the nightly run labels again\n")


def test_what_is_wrong_with_prefect_keeps_no_bundle_from_its_place(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    place = prefect_server.place_in(workspace)
    place.folder.mkdir(parents=True)
    with held(place.life):  # by a process that left no word of where it answers
        result = saa(workspace, "promote", A.id)
    assert result.exit_code == 0
    assert "a start was cut off" in result.stderr
    assert "the nightly run labels again" in result.stderr


def test_promote_says_what_the_next_label_does(workspace: Path) -> None:
    assert told(workspace, "promote", A.id[:6]) == [
        f"plate: {A.id} is the champion now",
        "next: `saa label IMAGES --product plate` decides with it",
    ]
    first, second = told(workspace, "promote", B.id, "--reason", "fewer false alarms")
    assert first == f"plate: {B.id} is the champion now in place of {A.id}"
    assert "phrases are the same, so a set that was labelled before needs no model" in second
    assert "phrases are others, so models look at every set" in told(workspace, "promote", WORDY.id)[1]
    assert told(workspace, "promote", WORDY.id)[0] == f"plate: {WORDY.id} is the champion already"


def test_promote_as_json(workspace: Path) -> None:
    as_json(workspace, "promote", A.id)
    found = as_json(workspace, "promote", B.id, "--reason", "fewer false alarms")
    assert (found["product"], found["bundle"], found["previous"], found["changed"]) == ("plate", B.id, A.id, True)
    assert (found["kind"], found["reason"]) == ("promote", "fewer false alarms")
    assert datetime.fromisoformat(found["at"]).utcoffset() is not None
    assert {"path": "confidence.top_k", "old": 5, "new": 1} in found["changes"]
    again = as_json(workspace, "promote", B.id)
    assert (again["bundle"], again["changed"], again["changes"]) == (B.id, False, [])


def test_a_bundle_is_promoted_for_its_own_product(workspace: Path) -> None:
    error = saa(workspace, "promote", A.id, "--product", "cup").exception
    assert isinstance(error, BundleError)
    assert "is a bundle of 'plate', not of 'cup'; `saa bundle export` it" in str(error)
    assert as_json(workspace, "audit", "--product", "plate")["champion"] is None
    assert as_json(workspace, "promote", A.id, "--product", "plate")["changed"] is True


def test_a_product_whose_name_has_spaces(workspace: Path) -> None:
    bundle = PromptBundle(product="blue plate")
    with Catalog(Settings.load(workspace=workspace).catalog_url) as catalog:
        catalog.add_bundle(bundle)
    assert "--product 'blue plate'`" in told(workspace, "promote", bundle.id)[1]


def test_rollback_goes_back(workspace: Path) -> None:
    for bundle in (A, B):
        told(workspace, "promote", bundle.id)
    first, second = told(workspace, "rollback", "--product", "plate")
    assert first == f"plate: {A.id} is the champion again in place of {B.id}"
    assert second.startswith("next: `saa label IMAGES --product plate` decides with it")
    error = saa(workspace, "rollback", "--product", "plate").exception
    assert isinstance(error, BundleError)
    assert "no earlier champion to go back to" in str(error)


def test_rollback_as_json(workspace: Path) -> None:
    for bundle in (A, B):
        told(workspace, "promote", bundle.id)
    found = as_json(workspace, "rollback", "--product", "plate", "--reason", "misses scratches")
    assert (found["kind"], found["bundle"], found["previous"]) == ("rollback", A.id, B.id)
    assert found["reason"] == "misses scratches"
    assert {"path": "confidence.top_k", "old": 1, "new": 5} in found["changes"]


def test_nothing_here_makes_a_workspace(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert isinstance(saa(nowhere, "promote", "abc").exception, BundleError)
    assert isinstance(saa(nowhere, "rollback", "--product", "plate").exception, BundleError)
    assert told(nowhere, "audit", "--product", "plate") == ["plate: has no champion yet"]
    assert not nowhere.exists()


# --------------------------------------------------------------------------------------------------------------- audit


@pytest.fixture
def history(workspace: Path) -> Path:
    """The workspace after a promotion by evidence, a proposal, two looks and a rollback."""
    with Catalog(Settings.load(workspace=workspace).catalog_url) as catalog:
        catalog.promote(A.id, reason="to begin with", who="anna")
        catalog.record_refinement(RefinementRecord.of(REFINEMENT))
        proposal = replace(REFINEMENT, champion=B, proposed=WORDY, outcome="proposed", gain=None, held_after=None)
        catalog.record_refinement(RefinementRecord.of(proposal))
        catalog.look("plate", "0123456789abcdef", A.id, B.id, 0.08)
        catalog.look("plate", "0123456789abcdef", B.id, WORDY.id, None)
        catalog.promote(B.id, reason="lower quantile of the gain above 0", who="refine")
        catalog.rollback("plate", reason="misses scratches", who="bert")
    return workspace


def test_audit_tells_who_when_what_and_why(history: Path) -> None:
    lines = told(history, "audit", "--product", "plate")
    assert lines[0] == f"plate: {A.id} is the champion"
    moves = [line for line in lines if " promoted " in line or " rolled back " in line]
    assert [move.split("UTC  ")[1] for move in moves] == [
        f"anna promoted {A.id}: to begin with",
        f"refine promoted {B.id} in place of {A.id}: lower quantile of the gain above 0",
        f"bert rolled back to {A.id} in place of {B.id}: misses scratches",
    ]
    moments = [datetime.strptime(move[:23], "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC) for move in moves]
    assert moments[0] <= moments[1] <= moments[2] <= datetime.now(UTC)
    assert "    confidence.top_k: 5 -> 1" in lines
    assert "    confidence.top_k: 1 -> 5" in lines
    assert f"    evidence 0123456789abcdef, seed 7, compared with {A.id}" in lines
    assert "    better on nine of ten resamples" in lines


def test_audit_tells_figures_proposals_and_looks(history: Path) -> None:
    lines = told(history, "audit", "--product", "plate")
    # The champion's false alarms are not known on the images that were searched, the F1 figures not on those held out.
    assert (
        "    on searched images: objective 0.410 -> 0.520, pixel f1 0.400 -> 0.500, region f1 0.400 -> 0.500" in lines
    )
    assert "    on held-out images: objective 0.430 -> 0.510, false alarms 0.000 -> 0.125" in lines
    assert "    gain +0.050 out of bag, 60 % of the resamples from +0.010 to +0.090" in lines
    (proposal,) = [line for line in lines if "never promoted" in line]
    assert proposal.endswith(f"proposed {WORDY.id}, never promoted")
    looks = lines[lines.index("looks at the held-out images: 2") + 1 :]
    assert [look.split("UTC  ")[1] for look in looks] == [
        f"{B.id} against {A.id}, gain +0.080",
        f"{WORDY.id} against {B.id}, gain not defined",
    ]


def test_audit_as_json(history: Path) -> None:
    found = as_json(history, "audit", "--product", "plate")
    assert (found["product"], found["champion"]) == ("plate", A.id)
    begun, promoted, back = found["promotions"]
    assert (begun["refinement"], begun["changes"], begun["previous"]) == (None, [], None)
    assert promoted["refinement"]["evidence"] == "0123456789abcdef"
    assert promoted["refinement"]["content"]["after"]["objective"] == 0.52
    assert {"path": "decision.threshold", "old": A.decision.threshold, "new": 0.8} in promoted["changes"]
    assert (back["who"], back["kind"], back["bundle"]) == ("bert", "rollback", A.id)
    assert [proposal["bundle"] for proposal in found["proposals"]] == [WORDY.id]
    assert [look["gain"] for look in found["looks"]] == [0.08, None]
    assert as_json(history, "audit", "--product", "cup") == {
        "product": "cup", "champion": None, "promotions": [], "proposals": [], "looks": [], "drift": None,
    }  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- labelling


@pytest.mark.usefixtures("prefect_api")
def test_rollback_restores_the_predictions_to_the_byte(photographs: Callable[..., Path], workspace: Path) -> None:
    folder, runs = photographs(8), Settings.load(workspace=workspace).runs

    def label() -> tuple[dict[str, Any], dict[str, bytes]]:
        summary = as_json(workspace, "label", folder, "--product", "plate")
        run = runs / summary["run"]
        files = [run / "regions.jsonl", *run.glob("ma*s/*.png")]
        return summary, {str(file.relative_to(run)): file.read_bytes() for file in files}

    told(workspace, "promote", A.id)
    first, as_it_was = label()
    assert len(as_it_was) == 1 + 2 * 8
    told(workspace, "promote", B.id)
    second, refined = label()
    assert (first["bundle"], second["bundle"]) == (A.id, B.id)
    assert second["model_calls"] == 0
    assert {name for name in refined if refined[name] != as_it_was[name]} >= {"regions.jsonl", "maps/000.png"}
    told(workspace, "rollback", "--product", "plate")
    shutil.rmtree(runs / first["run"])  # so that it is decided anew
    third, restored = label()
    assert (third["run"], third["bundle"], third["model_calls"]) == (first["run"], A.id, 0)
    assert restored == as_it_was
