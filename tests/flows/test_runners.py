"""The label flow on processes, Dask and Ray: the same bytes as in threads, whatever dies."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.crew import KILLER, worthwhile
from flows.runs import LabelRequest, RunSummary
from flows.start import start
from integrations.settings import RunnerName, Settings
from saa_core.errors import SaaError, ServiceError, SettingsError
from saa_core.prompts import PromptBundle
from tests.deadly import POISON, DeadlyStore

Photographs = Callable[..., Path]
Store = Callable[[float], DeadlyStore]
pytestmark = pytest.mark.usefixtures("prefect_api")
needs_ray = pytest.mark.skipif(find_spec("prefect_ray") is None, reason='needs Ray: pip install ".[ray]"')
RAY = pytest.param("ray", marks=[pytest.mark.slow, needs_ray])
PROCESS, DASK = (pytest.param(name, marks=pytest.mark.slow) for name in ("process", "dask"))
BATCH = 2


@pytest.fixture(autouse=True)
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAA_BATCH_SIZE", str(BATCH))
    monkeypatch.setenv("SAA_WORKERS", "2")


def label(
    source: Path | str, workspace: Path, runner: RunnerName = "threads", address: str | None = None
) -> RunSummary:
    settings = Settings.load(workspace=workspace)
    prompts = PromptBundle(product="plate")
    where = {"workspace": str(workspace), "runner": runner, "address": address}
    return start(LabelRequest(source=str(source), product="plate", bundle=prompts, **where), settings)  # type: ignore[arg-type]


def written(workspace: Path, summary: RunSummary) -> dict[str, bytes]:
    folder = workspace / "runs" / summary.run
    files = [folder / "regions.jsonl", *sorted(folder.glob("ma*s/*.png"))]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize("runner", ["dask", PROCESS, RAY])
def test_an_image_that_kills_its_workers_is_found_and_the_rest_is_as_without_it(
    photographs: Photographs, tmp_path: Path, deadly_store: Store, runner: RunnerName
) -> None:
    folder, store = photographs(7), deadly_store(0.0)
    expected = label(folder, tmp_path / "threads")
    shutil.copy(photographs(1, name="other", seed=9) / "000.png", folder / POISON)
    summary = label(store.url(folder), tmp_path / runner, runner)
    assert (summary.images.labelled, summary.images.quarantined) == (7, 1)
    assert summary.refused == [(POISON, KILLER)]
    assert written(tmp_path / runner, summary) == written(tmp_path / "threads", expected)
    times = store.times()
    assert 2 <= times.pop(POISON) <= 2 + BATCH.bit_length()
    assert len({pid for pid, name in store.read() if name != POISON}) >= 2
    again = label(store.url(folder), tmp_path / runner)
    assert again.model_calls == 0


@pytest.mark.parametrize("runner", ["process", DASK, RAY])
def test_a_killed_worker_costs_what_was_in_flight(
    photographs: Photographs, tmp_path: Path, deadly_store: Store, runner: RunnerName
) -> None:
    folder, store = photographs(8), deadly_store(0.3)
    killer = threading.Thread(target=kill_one, args=(store, 3), daemon=True)
    killer.start()
    summary = label(store.url(folder), tmp_path / runner, runner)
    killer.join()
    assert (summary.images.labelled, summary.images.quarantined) == (8, 0)
    # Looking at the features and proposing regions each read an image once. A pool of processes ends with any of them,
    # so each of its two loses what it was at; elsewhere the others go on.
    in_flight = BATCH * (2 if runner == "process" else 1)
    assert 0 < sum(store.times().values()) - 2 * 8 <= in_flight
    assert summary.model_calls <= 8 * 3


def kill_one(store: DeadlyStore, after: int) -> None:
    """End the process that read last as `kill -9` does, once so many images were read."""
    while len(readings := store.read()) < after:
        time.sleep(0.01)
    os.kill(readings[-1][0], signal.SIGKILL)


@pytest.fixture
def dask_cluster() -> Iterator[str]:
    from distributed import LocalCluster

    cluster = LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None)
    with cluster:
        yield cluster.scheduler_address.removeprefix("tcp://")


@pytest.mark.slow
def test_a_cluster_of_the_users(photographs: Photographs, tmp_path: Path, dask_cluster: str) -> None:
    folder = photographs(6)
    expected = label(folder, tmp_path / "threads")
    summary = label(folder, tmp_path / "dask", "dask", dask_cluster)
    assert written(tmp_path / "dask", summary) == written(tmp_path / "threads", expected)


@pytest.mark.parametrize(
    ("runner", "address", "error", "reason"),
    [
        ("threads", "127.0.0.1:8786", SettingsError, "the runner threads has none: use dask or ray"),
        ("dask", "8786", SettingsError, "expected HOST:PORT"),
        ("dask", "127.0.0.1:dask", SettingsError, "expected HOST:PORT"),
        ("dask", "127.0.0.1:9", ServiceError, "no Dask cluster answers"),
        pytest.param(
            "ray",
            None,
            SettingsError,
            r"saa-labeling\[ray\]",
            marks=pytest.mark.skipif(find_spec("prefect_ray") is not None, reason="Ray is installed"),
        ),
    ],
)
def test_workers_that_cannot_be_had(
    photographs: Photographs, tmp_path: Path, runner: RunnerName, address: str, error: type[SaaError], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        label(photographs(3), tmp_path / "w", runner, address)


@given(st.floats(0, 100), st.sampled_from([1.7, 11.5]))
def test_a_batch_holds_the_work_that_is_worth_a_task(seconds: float, worth: float) -> None:
    images = worthwhile(seconds, worth)
    assert 4 <= images <= 256
    if 4 < images < 256:
        assert (images - 1) * seconds < worth <= images * seconds


def started(runner: RunnerName, body: str, **variables: str) -> str:
    """What a program says that has started the workers and runs `body` beside them."""
    code = STARTED.format(runner=runner, body=textwrap.indent(body, " " * 8))
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


STARTED = """
import psutil, subprocess, sys
from flows.runners import workers_for
from integrations.settings import Settings
from saa_core.models import WEIGHT_FREE

if __name__ == "__main__":
    workers = workers_for(Settings.load(runner="{runner}", workers=1), WEIGHT_FREE)
    with workers.runner() as runner:
        workers.count(runner)
{body}
"""
LISTENING = """
for each in (psutil.Process(), *psutil.Process().children(recursive=True)):
    print(*(c.laddr.ip for c in each.net_connections("tcp") if c.status == psutil.CONN_LISTEN))
"""
STRANGER = """
import os, ray
strangers = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
call = f"import ray; ray.init({ray.get_runtime_context().gcs_address!r})"
print("let in:", subprocess.run([sys.executable, "-c", call], env=strangers, capture_output=True).returncode == 0)
"""


@pytest.mark.slow
def test_dask_listens_on_the_loopback_interface_alone() -> None:
    assert set(started("dask", LISTENING).split()) == {"127.0.0.1"}


@pytest.mark.slow
@needs_ray
def test_ray_lets_no_stranger_in() -> None:
    assert "let in: False" in started("ray", STRANGER)
