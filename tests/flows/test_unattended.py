"""The unattended flows on a real Prefect API: what they do for each product, and what they say when they cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State

from flows import requests
from integrations.backlog import note_seen, waiting
from integrations.catalog import Catalog
from integrations.settings import Settings
from saa_core.errors import SettingsError, StoreError

Photographs = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace that watches a folder, which is empty."""
    folder = tmp_path / "photos"
    folder.mkdir()
    monkeypatch.setenv("SAA_WORKSPACE", str(tmp_path / "w"))
    monkeypatch.setenv("SAA_WATCH", json.dumps({"plate": str(folder)}))
    return tmp_path / "w"


def catalog(workspace: Path) -> Catalog:
    return Catalog(Settings.load(workspace=workspace).catalog_url)


def ran(flow: Any, request: Any) -> State[Any]:
    state: State[Any] = flow(request, return_state=True)
    return state


def test_a_watched_folder_is_labelled_once(watched: Path, photographs: Photographs) -> None:
    from flows.unattended import label

    empty = ran(label, requests.Label())
    assert (empty.name, empty.message) == ("Completed", "plate: no photograph has arrived yet")
    photographs(6)
    first = ran(label, requests.Label(product="plate"))
    assert first.message is not None
    assert "6 images" in first.message
    with catalog(watched) as known:
        (run,) = known.runs("plate")
    assert ran(label, requests.Label()).message == f"plate: nothing new: run {run.id}"


def test_one_product_that_fails_does_not_keep_the_others(
    watched: Path, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.unattended import label

    folders = {"absent": str(watched / "absent"), "plate": str(photographs(4))}
    monkeypatch.setenv("SAA_WATCH", json.dumps(folders))
    state = ran(label, requests.Label())
    assert (state.name, state.type.value) == ("Failed", "FAILED")
    assert state.message is not None
    assert state.message.startswith("1 of 2 failed: label of absent: ")
    assert "no such folder" in state.message
    with catalog(watched) as known:
        assert known.products() == ("plate",)


@pytest.mark.slow
def test_the_night_does_all_that_can_be_done_and_nothing_twice(
    watched: Path, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import unattended

    photographs(6)
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(unattended, "publish_table", lambda key, rows: said.extend(rows))
    assert ran(unattended.nightly, requests.Nightly()).name == "Completed"
    steps = [row["step"] for row in said]
    assert steps == ["label", "collect", "refine", "relabel", "publish", "curate"]
    outcomes = {row["step"]: row["outcome"] for row in said}
    assert "6 images" in outcomes["label"]
    assert outcomes["collect"] == outcomes["publish"] == unattended.LABEL_STUDIO
    assert outcomes["curate"] == unattended.FIFTYONE
    assert outcomes["refine"] == "no review since the last refinement"
    assert outcomes["relabel"].startswith("nothing new: run ")


@pytest.mark.slow
def test_a_promoted_bundle_labels_again_without_a_model(watched: Path, photographs: Photographs) -> None:
    from flows.unattended import label, relabel

    photographs(6)
    ran(label, requests.Label())
    with catalog(watched) as known:
        (first,) = known.runs("plate")
        stricter = (
            known.bundle(first.bundle).changed(decision={"threshold": 0.95}).model_copy(update={"product": "plate"})
        )
        known.add_bundle(stricter)
        known.promote(stricter.id, reason="test")
    state = ran(relabel, requests.Relabel(product="plate"))
    with catalog(watched) as known:
        latest = known.latest_run("plate", state="done")
    assert latest is not None
    assert latest.bundle == stricter.id
    assert latest.model_calls == 0
    assert state.message is not None
    assert latest.id in state.message


def test_refining_reads_reviews_once(watched: Path, photographs: Photographs) -> None:
    from flows.unattended import label, refine

    photographs(4)
    ran(label, requests.Label())
    with catalog(watched) as known:
        note_seen(known, "plate", -2)  # as if two reviews had come
    state = ran(refine, requests.Refine(product="plate"))
    assert state.message is not None
    assert "report.html" in state.message
    with catalog(watched) as known:
        assert waiting(known, "plate") == 0
    again = ran(refine, requests.Refine(product="plate"))
    assert again.message == "plate: no review since the last refinement"


def test_what_is_not_known_is_named(watched: Path) -> None:
    from flows.unattended import label, publish, relabel

    with pytest.raises(SettingsError, match="names no folder of 'cap'"):
        label(requests.Label(product="cap"))
    with pytest.raises(StoreError, match="cap: has no finished run"):
        relabel(requests.Relabel(product="cap"))
    with pytest.raises(SettingsError, match="3f2a needs its product"):
        publish(requests.Publish(run="3f2a"))
    assert ran(relabel, requests.Relabel()).message == "there is no product yet"
