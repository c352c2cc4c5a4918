"""The workspace's own FiftyOne, a real mongod and a real App: started, found again, lost, stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from pymongo import MongoClient

from integrations.daemons import Daemon
from integrations.environments import is_held
from integrations.fiftyone import lifecycle
from integrations.fiftyone.environment import durable
from integrations.fiftyone.lifecycle import Running, down, running, up, uri_of
from integrations.settings import Settings
from saa_core.errors import ServiceError
from tests.fiftyone_server import Mongod, end
from tests.label_studio_server import free_port

PLUGINS = Path(lifecycle.__file__).parent


@pytest.fixture
def settings(mongod_program: Path, tmp_path: Path) -> Iterator[Settings]:
    """Of a workspace whose FiftyOne has ports of its own, and does not run."""
    settings = Settings(workspace=tmp_path / "workspace", mongod=mongod_program, fiftyone_uri=None)
    for part in ("mongod", "app"):
        write_port(settings, part, free_port())
    yield settings
    down(settings)


def write_port(settings: Settings, part: str, port: int) -> None:
    note = lifecycle.folder_in(settings.workspace) / part / "server.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"port": port}))


def start(settings: Settings) -> Running:
    found, started = up(settings, PLUGINS)
    assert started
    found.prove()
    return found


def datasets(url: str | None) -> int:
    """How many data sets the App finds in its database."""
    answer = httpx.post(f"{url}/graphql", json={"query": "{ estimatedDatasetCount }"}, trust_env=False, timeout=60)
    return int(answer.raise_for_status().json()["data"]["estimatedDatasetCount"])


def names(settings: Settings) -> list[str]:
    """What is kept in the workspace's database."""
    with closing(MongoClient[Any](durable(uri_of(settings)))) as client:
        return [document["name"] for document in client["saa"]["kept"].find()]


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def kill(found: Daemon | None, lock: Path) -> None:
    assert found is not None
    os.killpg(found.pid, signal.SIGKILL)
    while is_held(lock):
        time.sleep(0.01)


@pytest.mark.slow
def test_up_lost_up_again_down(settings: Settings) -> None:
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: up(settings, PLUGINS), range(2)))
    found = both[0][0]
    assert both[1][0] == found
    found.prove()
    assert up(settings, PLUGINS) == (found, False)
    assert datasets(found.url) == 0
    with closing(MongoClient[Any](durable(uri_of(settings)))) as client:
        client["saa"]["kept"].insert_one({"name": "kept"})

    kill(found.mongod, found.folder / "mongod" / "server.lock")
    with pytest.raises(ServiceError, match="the mongod of this workspace does not run; `saa services up fiftyone`"):
        uri_of(settings)
    again = start(settings)
    assert (again.uri, again.app) == (found.uri, found.app)
    assert datasets(again.url) == 0
    assert names(settings) == ["kept"]

    kill(again.app, found.folder / "app" / "server.lock")
    assert running(settings).app is None
    last = start(settings)
    assert (last.uri, last.url, last.mongod) == (found.uri, found.url, again.mongod)
    assert datasets(last.url) == 0

    changed = settings.model_copy(update={"fiftyone_database": "another"})
    with pytest.raises(ServiceError, match="the App runs on another database; `saa services down fiftyone` first"):
        up(changed, PLUGINS)
    with pytest.raises(ServiceError, match="runs there already; `saa services down fiftyone` first"):
        up(settings, PLUGINS, free_port())

    assert last.mongod is not None
    assert last.app is not None
    assert down(settings)
    assert not down(settings)
    for part in (last.mongod, last.app):
        assert not lives(part.pid)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", part.port)) != 0
    assert running(settings) == Running(None, None, found.folder)


@pytest.mark.slow
def test_only_the_app_with_a_mongod_of_the_users(settings: Settings, mongod: Mongod) -> None:
    external = settings.model_copy(update={"fiftyone_uri": mongod.uri, "fiftyone_database": "test-external"})
    found = start(external)
    assert found.mongod is None
    assert uri_of(external) == mongod.uri
    assert datasets(found.url) == 0
    assert down(external)
    assert lives(mongod.pid)
    mongod.drop("test-external")


class TestRefusals:
    def test_a_mongod_of_the_users_that_does_not_answer(self, settings: Settings) -> None:
        uri = f"mongodb://saa:hunter2@127.0.0.1:{free_port()}/?serverSelectionTimeoutMS=100"
        with pytest.raises(ServiceError, match=r"no mongod answers there; .* SAA_FIFTYONE_URI") as caught:
            up(settings.model_copy(update={"fiftyone_uri": uri}), PLUGINS)
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(("part", "advice"), [("mongod", "delete .*json, and the next"), ("app", "with --port")])
    def test_a_port_of_another_program(self, settings: Settings, part: str, advice: str) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            write_port(settings, part, other.getsockname()[1])
            with pytest.raises(ServiceError, match=f"another program has this port; end it, or .*{advice}"):
                up(settings, PLUGINS)

    def test_no_trace_is_left_where_there_was_none(self, tmp_path: Path) -> None:
        assert not down(Settings(workspace=tmp_path / "workspace"))
        assert list(tmp_path.iterdir()) == []

    def test_parts_that_do_not_answer(self, tmp_path: Path) -> None:
        absent = Daemon(free_port(), os.getpid(), "1.0")
        for found in (Running(absent, None, tmp_path), Running(None, absent, tmp_path)):
            with pytest.raises(ServiceError, match=r"our server runs \(pid \d+\) but does not answer"):
                found.prove()


@pytest.mark.slow
def test_a_fiftyone_that_manages_its_own_mongod_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    """FiftyOne looks for one among all processes of a user, and takes it whatever folder it was told."""
    theirs = textwrap.dedent("""
        import sys
        import fiftyone.core.service as service
        service.DatabaseService.find_mongod = staticmethod(lambda: sys.argv[1])
        import fiftyone
        fiftyone.Dataset("theirs", persistent=True)
        print("ready", flush=True)
        sys.stdin.read()
        print(fiftyone.list_datasets(), flush=True)
    """)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FIFTYONE_")}
    alone = {"HOME": str(tmp_path), "FIFTYONE_DATABASE_DIR": str(tmp_path / "db"), "FIFTYONE_DO_NOT_TRACK": "1"}
    words = [sys.executable, "-W", "ignore", "-c", theirs, str(settings.mongod)]
    other = subprocess.Popen(
        words, env=clean | alone, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    try:
        assert other.stdout is not None
        assert any(line == "ready\n" for line in iter(other.stdout.readline, ""))
        assert datasets(start(settings).url) == 0
        down(settings)
        assert "theirs" in other.communicate(timeout=60)[0]
    finally:
        end(other)
        for pipe in (other.stdin, other.stdout):
            assert pipe is not None
            pipe.close()
