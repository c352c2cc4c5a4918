"""Prefect's environment: ours where the user has set nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import cv2
import pytest
from PIL import Image

from flows.runtime import one_thread_each
from tasks.progress import advance, watched_by


def child(code: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that has no Prefect setting but these."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DO_NOT_TRACK"))}
    environment = {**bare, "XDG_STATE_HOME": str(home), **more}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


LIFE = """
import json, os, sys, urllib.request
from pathlib import Path
from flows.runtime import prepare_prefect
wait = prepare_prefect(Path("w"))
wait()
url = os.environ["PREFECT_API_URL"]
settings = json.load(urllib.request.urlopen(url + "/admin/settings"))
print(json.dumps({
    "url": url,
    "home": os.environ["PREFECT_HOME"],
    "results": os.environ["PREFECT_LOCAL_STORAGE_PATH"],
    "analytics": settings["server"]["analytics_enabled"],
    "scheduler": settings["server"]["services"]["scheduler"]["enabled"],
}))
sys.stdout.flush()
os.kill(os.getpid(), 9)
"""


def test_a_private_quiet_server_that_ends_with_a_killed_process(tmp_path: Path) -> None:
    done = child(LIFE, tmp_path)
    assert done.returncode == -9, done.stderr
    said = json.loads(done.stdout)
    assert said["url"].startswith("http://127.0.0.1:")
    assert Path(said["home"]).is_relative_to(tmp_path)
    assert said["results"] == "w/prefect"
    assert said["analytics"] is False
    assert said["scheduler"] is False
    end = time.monotonic() + 30
    while answers(said["url"]) and time.monotonic() < end:
        time.sleep(0.1)
    assert not answers(said["url"])


@pytest.mark.slow
def test_a_server_that_cannot_start_says_where_to_look(tmp_path: Path) -> None:
    code = "from pathlib import Path; from flows.runtime import prepare_prefect; prepare_prefect(Path('r'))()"
    done = child(code, tmp_path, PREFECT_API_DATABASE_CONNECTION_URL="sqlite+aiosqlite:////nowhere/at/all.db")
    assert "StoreError: Prefect's API: did not start" in done.stderr
    assert "server.log" in done.stderr
    assert (tmp_path / "saa" / "prefect" / "server.log").stat().st_size > 0


def test_a_state_folder_that_cannot_be_made_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "saa").write_text("in the way")
    code = "from pathlib import Path; from flows.runtime import prepare_prefect; prepare_prefect(Path('r'))"
    done = child(code, tmp_path)
    assert "StoreError" in done.stderr
    assert "PREFECT_HOME names another" in done.stderr


def test_the_users_server_stays(tmp_path: Path) -> None:
    code = (
        "import os; from pathlib import Path; from flows.runtime import prepare_prefect;"
        "prepare_prefect(Path('r'))(); print(os.environ['PREFECT_API_URL'], 'PREFECT_HOME' in os.environ)"
    )
    done = child(code, tmp_path, PREFECT_API_URL="http://127.0.0.1:1/api")
    assert done.stdout.split() == ["http://127.0.0.1:1/api", "False"]


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "photos" / "a.png")
    words = ["saa", "label", str(tmp_path / "photos"), "--product", "p", "--workspace", str(tmp_path / "w")]
    code = f"import sys; sys.argv = {words!r}; from flows.cli import main; main()"
    done = child(code, tmp_path, PREFECT_API_URL="http://127.0.0.1:1/api")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: Prefect's API: ")
    assert "Traceback" not in done.stderr


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
