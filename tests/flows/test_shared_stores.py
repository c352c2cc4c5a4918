"""A run whose workers share a PostgreSQL catalog and an S3 bucket, as those of several machines do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from flows.runs import LabelRequest, RunSummary
from flows.start import start
from integrations.catalog import Catalog
from integrations.settings import Settings
from saa_core.prompts import PromptBundle


def label(source: str, workspace: Path) -> RunSummary:
    request = LabelRequest(
        source=source, product="plate", bundle=PromptBundle(product="plate"), workspace=str(workspace)
    )
    return start(request, Settings.load(workspace=workspace))


def records(workspace: Path, run: str) -> bytes:
    return (workspace / "runs" / run / "regions.jsonl").read_bytes()


@pytest.mark.usefixtures("prefect_api")
def test_nothing_of_it_is_in_the_workspace_but_what_people_look_at(
    photographs: Callable[..., Path],
    tmp_path: Path,
    new_postgresql: Callable[[], str],
    s3_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, shared = photographs(6), tmp_path / "shared"
    expected = label(str(folder), tmp_path / "alone")
    fsspec.filesystem("s3").put(str(folder), f"{s3_bucket}/photos", recursive=True)
    monkeypatch.setenv("SAA_CATALOG", url := new_postgresql())
    monkeypatch.setenv("SAA_BLOBS", f"{s3_bucket}/blobs")
    monkeypatch.setenv("SAA_RUNNER", "process")
    monkeypatch.setenv("SAA_BATCH_SIZE", "3")
    summary = label(f"{s3_bucket}/photos", shared)
    assert summary.images == expected.images
    assert records(shared, summary.run) == records(tmp_path / "alone", expected.run)
    assert not {"blobs", "catalog.sqlite"} & {path.name for path in shared.iterdir()}
    with Catalog(url) as catalog:
        assert catalog.run(summary.run).labelled == 6
    again = label(f"{s3_bucket}/photos", tmp_path / "elsewhere")
    assert (again.run, again.model_calls) == (summary.run, 0)
