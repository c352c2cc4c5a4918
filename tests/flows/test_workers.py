"""prefect.yaml as whoever has workers of their own uses it: `prefect deploy --all`, a worker, a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.deployments import deployments
from integrations import daemons, prefect_server
from integrations.catalog import Catalog
from integrations.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
Photographs = Callable[..., Path]
pytestmark = pytest.mark.slow


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Prefect server of the site's, and this environment its client."""
    place = prefect_server.place_in(tmp_path)
    server, _ = daemons.up(place, prefect_server.server_in(tmp_path))
    url = prefect_server.api_url(server)
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "client"))
    monkeypatch.setenv("SAA_WORKSPACE", str(tmp_path / "w"))
    yield url
    daemons.down(place)


def prefect(*words: str) -> list[str]:
    return [sys.executable, "-m", "prefect", "--no-prompt", *words]


def asked(api: str, what: str) -> list[dict[str, Any]]:
    answer = httpx.post(f"{api}/{what}/filter", json={}, timeout=30).raise_for_status()
    return list(answer.json())


def test_a_worker_runs_what_was_deployed(
    api: str, tmp_path: Path, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAA_WATCH", json.dumps({"plate": str(photographs(4))}))
    subprocess.run(prefect("work-pool", "create", "saa", "--type", "process"), check=True)
    subprocess.run(prefect("deploy", "--all"), check=True, cwd=ROOT)
    known = {each["name"]: each for each in asked(api, "deployments")}
    assert set(known) == {each.name for each in deployments(Settings())}
    assert known["nightly"]["schedules"][0]["active"]
    assert sum(each["name"].startswith("saa: ") for each in asked(api, "automations")) == 4

    worker = subprocess.Popen(prefect("worker", "start", "--pool", "saa"), cwd=tmp_path, env=os.environ)
    try:
        httpx.post(f"{api}/deployments/{known['label']['id']}/create_flow_run", json={}, timeout=30).raise_for_status()
        end = time.monotonic() + 120
        while not (done := [run for run in asked(api, "flow_runs") if run["state_type"] == "COMPLETED"]):
            assert time.monotonic() < end, asked(api, "flow_runs")
            time.sleep(0.5)
    finally:
        worker.terminate()
        worker.wait(60)
    assert "4 images" in done[0]["state"]["message"]
    with Catalog(Settings.load().catalog_url) as catalog:
        assert catalog.products() == ("plate",)
