"""Prefect's environment: ours where the user has set nothing."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from flows.progress import advance, watched_by
from flows.runtime import one_thread_each, prepare_prefect


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    import os

    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    # Set here, so that what the code sets is undone at the end of the test.
    for name in ("PREFECT_HOME", "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_private_quiet_server(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    before = dict(os.environ)
    prepare_prefect(tmp_path / "results")
    made = dict(os.environ)
    for name in made.keys() - before.keys():
        bare.setenv(name, made[name])
    assert made["DO_NOT_TRACK"] == "1"
    assert made["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert made["PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED"] == "false"
    assert Path(made["PREFECT_HOME"]).is_dir()
    assert Path(made["PREFECT_HOME"]).is_relative_to(tmp_path)
    assert made["PREFECT_LOCAL_STORAGE_PATH"] == str(tmp_path / "results")


def test_the_users_server_stays(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    bare.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    before = dict(os.environ)
    prepare_prefect(tmp_path / "results")
    made = dict(os.environ)
    for name in made.keys() - before.keys():
        bare.setenv(name, made[name])
    assert made["PREFECT_API_URL"] == "http://127.0.0.1:1/api"
    assert "PREFECT_HOME" not in made
    assert "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED" not in made


def test_threads_come_back() -> None:
    before = cv2.getNumThreads()
    with one_thread_each():
        assert cv2.getNumThreads() == 1
    assert cv2.getNumThreads() == before


def test_progress_reaches_whoever_watches() -> None:
    seen = []
    advance("unseen", 1, 2)
    with watched_by(lambda *step: seen.append(step)):
        advance("seen", 1, 2)
    advance("unseen", 2, 2)
    assert seen == [("seen", 1, 2)]
