"""The whole loop on real servers, while somebody ends processes at random: what is lost, what is there twice?

Photographs arrive in a watched folder, `saa serve` labels and publishes them, an expert who knows the truth answers in
Label Studio, and what came back is refined. All of it is started by `saa services up`, killed by SIGKILL, and started
again by the same command.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from flows.services import serve_in
from integrations import daemons, prefect_server
from integrations.catalog import Catalog
from integrations.fiftyone import lifecycle as fiftyone
from integrations.label_studio import lifecycle as label_studio
from integrations.label_studio.client import Client
from integrations.label_studio.listing import list_tasks
from integrations.label_studio.payload import KEY
from integrations.label_studio.push import remembered_project
from integrations.settings import Settings
from saa_core.errors import SaaError
from saa_core.masks import encode
from tests.desk import row
from tests.plates import PRODUCT, plate, scratch

_DOWN = (SaaError, httpx.HTTPError, OSError, KeyError, TypeError)
"""What an expert sees of a server that was just killed."""


@dataclass
class Soak:
    """A workspace whose services live and die.

    Attributes:
        folder: For everything.
        settings: Of the workspace.
        environment: Of every command.
        arrived: Photographs that are in the watched folder.
        answered: Ids of the annotations that Label Studio has taken, by image key.
        killed: How often each kind of process was killed.
    """

    folder: Path
    settings: Settings
    environment: Mapping[str, str]
    random: random.Random = field(default_factory=lambda: random.Random(0))
    arrived: int = 0
    answered: dict[str, int] = field(default_factory=dict)
    killed: Counter[str] = field(default_factory=Counter)

    def saa(self, *words: str) -> dict[str, Any]:
        """What a command answers; an error fails the test."""
        command = [sys.executable, "-m", "flows.cli", *words, "--json"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, cwd=self.folder)
        assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def photograph(self, count: int) -> None:
        """More plates arrive, each whole at once."""
        watched = Path(self.settings.watch[PRODUCT])
        for number in range(self.arrived, self.arrived + count):
            path = watched / f"{number:04}.png"
            path.with_name(f".{path.name}").write_bytes(plate(number))
            path.with_name(f".{path.name}").rename(path)
        self.arrived += count

    # ----------------------------------------------------------------------------------------------------- the expert

    def answer(self) -> None:
        """Say of every task that has no annotation what is really there."""
        for client, task in self._tasks():
            if not task["total_annotations"]:
                mask = scratch(int(task["data"]["title"][:4]))
                rows = [row(encode(mask))] if mask.any() else []
                body = {"result": rows, "was_cancelled": False, "lead_time": 5.0}
                made = client.post(f"/api/tasks/{task['id']}/annotations/", body)
                self.answered[task["data"][KEY]] = made["id"]

    def _tasks(self) -> Iterator[tuple[Client, dict[str, Any]]]:
        """Every task of the product's project."""
        server = label_studio.running(label_studio.home_in(self.settings.workspace))
        if server is None:
            return
        with (
            Client(server.url, server.token.get_secret_value()) as client,
            Catalog(self.settings.catalog_url) as catalog,
        ):
            project = remembered_project(catalog, PRODUCT, client)
            if project is not None:
                for task in list_tasks(client, project, "id,data,total_annotations"):
                    yield client, task

    # --------------------------------------------------------------------------------------------------------- chaos

    def kill(self) -> None:
        """End one process of the loop as `kill -9` does, and start again what is gone."""
        victims = self._victims()
        if victims:
            name, pid = self.random.choice(victims)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.killed[name] += 1
        time.sleep(1)
        self.saa("services", "up")

    def _victims(self) -> list[tuple[str, int]]:
        found: list[tuple[str, int | None]] = []
        place, workspace = serve_in(self.settings.workspace).place, self.settings.workspace
        with suppress(SaaError):
            server, screen, service = (
                prefect_server.running(workspace),
                label_studio.running(label_studio.home_in(workspace)),
                daemons.running(place),
            )
            data = fiftyone.running(self.settings)
            found = [
                ("prefect", server and server.pid),
                ("label-studio", screen and screen.pid),
                ("mongod", data.mongod and data.mongod.pid),
                ("app", data.app and data.app.pid),
                ("serve", service and service.pid),
            ]
            if service is not None:
                with suppress(psutil.Error):
                    workers = psutil.Process(service.pid).children(recursive=True)
                    found += [("worker", worker.pid) for worker in workers]
        return [(name, pid) for name, pid in found if pid]

    # -------------------------------------------------------------------------------------------------------- the end

    def run(self, seconds: float, *, arrivals: float, kills: float) -> None:
        """Let photographs arrive, experts answer and processes die for a while; what fails in between is no matter."""
        end, stop = time.monotonic() + seconds, threading.Event()
        expert = threading.Thread(target=_again_and_again, args=(self.answer, stop, 2.0))
        expert.start()
        try:
            due, deadly = time.monotonic(), time.monotonic() + kills
            while time.monotonic() < end:
                if time.monotonic() >= due:
                    self.photograph(3)
                    due += arrivals
                if time.monotonic() >= deadly:
                    self.kill()
                    deadly = time.monotonic() + kills
                time.sleep(0.2)
        finally:
            stop.set()
            expert.join()

    def settle(self) -> None:
        """What an undisturbed night makes of it."""
        self.saa("services", "up")
        self.saa("label", self.settings.watch[PRODUCT], "--product", PRODUCT)
        self.saa("push", "label-studio", "--product", PRODUCT)
        self.answer()
        self.saa("pull", "label-studio", "--product", PRODUCT)
        self.saa("curate", "--product", PRODUCT)

    def check(self) -> None:
        """Catalog, Label Studio and FiftyOne agree image by image; no review is lost, nothing is there twice."""
        tasks = Counter(task["data"][KEY] for _, task in self._tasks())
        assert set(tasks.values()) == {1}, "an image has two tasks"
        assert len(tasks) == self.arrived
        with Catalog(self.settings.catalog_url) as catalog:
            reviews = [review for review in catalog.reviews(PRODUCT) if review.state == "submitted"]
        stored = Counter((review.image, review.id) for review in reviews)
        assert set(stored.values()) == {1}, "a review is there twice"
        assert {image for image, _ in stored} == set(tasks)
        taken = {(image, review.rpartition("/")[2]) for image, review in stored}  # ids are task/annotation
        assert {(image, str(annotation)) for image, annotation in self.answered.items()} <= taken, "a review is lost"
        for review in reviews:
            assert review.masks or review.finding == "good"
        self._check_fiftyone({review.image: review.finding for review in reviews})

    def _check_fiftyone(self, findings: Mapping[str, str | None]) -> None:
        from integrations.fiftyone.environment import connect
        from tests.fiftyone_server import disconnect

        uri = fiftyone.uri_of(self.settings)
        dataset = connect(uri, self.settings.fiftyone_database, self.folder / "reader").load_dataset(PRODUCT)
        try:
            keys, states, verdicts = dataset.values(["key", "review_state", "verdict.label"])
            assert len(keys) == len(set(keys)) == self.arrived
            assert set(states) == {"reviewed"}
            assert dict(zip(keys, verdicts, strict=True)) == findings
        finally:
            disconnect()


def _again_and_again(work: Callable[[], None], stop: threading.Event, pause: float) -> None:
    while not stop.wait(pause):
        with suppress(*_DOWN):
            work()


def prepared(folder: Path, template: Path, services: Path) -> Soak:
    """A workspace with a watched folder, its Label Studio's database made already."""
    watched, workspace = folder / "watched", folder / "workspace"
    watched.mkdir()
    home = label_studio.home_in(workspace)
    shutil.copytree(template, home.folder, ignore=shutil.ignore_patterns("token", "password"))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SAA_", "PREFECT_", "FIFTYONE_"))},
        "SAA_WORKSPACE": str(workspace),
        "SAA_SERVICES": str(services),
        "SAA_WATCH": json.dumps({PRODUCT: str(watched)}),
        "SAA_WATCH_MINUTES": "0.1",
        "SAA_UNAIDED_SHARE": "0.5",
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    }
    settings = Settings.load(workspace=workspace, watch={PRODUCT: str(watched)}, services=services)
    return Soak(folder, settings, environment)
