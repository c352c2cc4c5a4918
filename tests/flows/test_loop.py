"""The loop by itself: a real Prefect server of the workspace, `saa serve`, photographs that arrive, and a browser."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from flows.automations import HEARTBEAT
from integrations import daemons, prefect_server
from integrations.catalog import Catalog
from integrations.settings import Settings
from tests.browser.expert import find_browser

Photographs = Callable[..., Path]
PRODUCT = "cap / 'blue'"
SLEEP = """
import time
from prefect import flow

@flow(name="sleeper")
def sleeper():
    time.sleep(600)

sleeper()
"""


@dataclass
class Site:
    """A workspace with a Prefect server, and the service, which a test may end and start again."""

    workspace: Path
    photos: Path
    api: str
    environment: dict[str, str]
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def pages(self) -> str:
        """Where a person looks."""
        return self.api.removesuffix("/api")

    @property
    def said(self) -> str:
        return (self.workspace / "said").read_text()

    def start(self) -> None:
        words = [sys.executable, "-m", "flows.cli", "serve", "--port", "0", "--workspace", str(self.workspace)]
        with (self.workspace / "said").open("w") as said:
            self.process = subprocess.Popen(
                words, env=self.environment, stdout=said, stderr=said, text=True, start_new_session=True
            )
        self.until(lambda: f"deployments on {self.api}/" in self.said)

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        os.killpg(self.process.pid, number)
        code, self.process = self.process.wait(60), None
        return code

    def saa(self, *words: str) -> None:
        """A command of a person's."""
        command = [sys.executable, "-m", "flows.cli", *words, "--workspace", str(self.workspace)]
        subprocess.run(command, env=self.environment, check=True)

    def catalog(self) -> Catalog:
        return Catalog(Settings.load(workspace=self.workspace).catalog_url)

    def ask(self, path: str, **body: Any) -> list[dict[str, Any]]:
        answer = httpx.post(f"{self.api}/{path}/filter", json=body, timeout=30).raise_for_status()
        return list(answer.json())

    def runs(self, deployment: str, *states: str) -> list[dict[str, Any]]:
        """Runs of a deployment in one of these states, or in any, the latest first."""
        filters: dict[str, Any] = {"deployments": {"name": {"any_": [deployment]}}}
        if states:
            filters["flow_runs"] = {"state": {"name": {"any_": states}}}
        return self.ask("flow_runs", sort="EXPECTED_START_TIME_DESC", **filters)

    def deployments(self) -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in self.ask("deployments")}

    def until(self, holds: Callable[[], Any], seconds: float = 90) -> Any:
        end = time.monotonic() + seconds
        while not (found := holds()):
            assert time.monotonic() < end, self.said
            assert self.process is None or self.process.poll() is None, self.said
            time.sleep(0.2)
        return found


@contextmanager
def browsed(url: str) -> Iterator[tuple[Page, list[str]]]:
    """A page in a browser, and every address that it asks."""
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=sandbox)
        try:
            page = browser.new_page(viewport={"width": 1400, "height": 1000}, base_url=url)
            page.on("request", lambda request: asked.append(request.url))
            yield page, asked
        finally:
            browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    workspace, photos = folder / "workspace", folder / "photos"
    for each in (workspace, photos):
        each.mkdir()
    place = prefect_server.place_in(workspace)
    server, started = daemons.up(place, prefect_server.server_in(workspace))
    assert started
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SAA_"))}
    watch = {"SAA_WATCH": json.dumps({PRODUCT: str(photos)}), "SAA_WATCH_MINUTES": "0.1", "SAA_REFINE_AFTER": "6"}
    quick = {"PREFECT_RUNNER_POLL_FREQUENCY": "1", "XDG_STATE_HOME": str(folder)}
    found = Site(workspace, photos, prefect_server.api_url(server), bare | watch | quick)
    try:
        found.start()
        yield found
    finally:
        if found.process is not None:
            found.end(signal.SIGKILL)
        daemons.down(place)


def test_what_arrives_is_labelled_by_the_schedule_and_told_to_what_follows(
    site: Site, photographs: Photographs
) -> None:
    for path in photographs(6).iterdir():
        path.rename(site.photos / path.name)
    (published,) = site.until(lambda: site.runs("publish", "Completed"))
    with site.catalog() as catalog:
        labelled = catalog.latest_run(PRODUCT, state="done")
    assert labelled is not None
    # The event's fields came through as they are, quotes in the product's name and all.
    assert published["parameters"] == {"request": {"product": PRODUCT, "run": labelled.id}}
    assert published["state"]["message"] == f"{PRODUCT}: no Label Studio is set or runs"
    (curated,) = site.until(lambda: site.runs("curate"))
    assert curated["parameters"] == published["parameters"]


def test_the_page_of_a_run_shows_what_became_of_each_product(site: Site) -> None:
    run = next(each for each in site.runs("label", "Completed") if "6 images" in each["state"]["message"])
    artifacts = site.ask("artifacts")
    (table,) = (each for each in artifacts if each["flow_run_id"] == run["id"] and each["type"] == "table")
    assert json.loads(table["data"])[0]["product"] == PRODUCT
    (summary,) = (each for each in artifacts if str(each["key"]).startswith("label-"))
    with browsed(site.pages) as (page, asked):
        page.goto(f"/runs/flow-run/{run['id']}")
        page.get_by_text("Artifacts", exact=True).first.click()
        page.get_by_role("link", name="unattended-label").first.wait_for()
        page.goto(f"/artifacts/artifact/{summary['id']}")
        page.get_by_role("heading", name=f"{PRODUCT}: ").wait_for()
    assert [url for url in asked if not url.startswith((site.pages, "data:", "blob:"))] == []


@pytest.mark.slow
def test_enough_reviews_are_refined(site: Site, tmp_path: Path) -> None:
    for path in site.photos.iterdir():
        Image.new("L", (96, 96)).save(tmp_path / path.name)
    site.saa("pull", "masks", str(tmp_path), "--product", PRODUCT)
    (run,) = site.until(lambda: site.runs("refine", "Completed"))
    assert run["parameters"] == {"request": {"product": PRODUCT}}
    assert "none of 6 reviewed images has a defect to find" in run["state"]["message"]


@pytest.mark.slow
def test_a_promotion_by_hand_labels_again(site: Site) -> None:
    with site.catalog() as catalog:
        (first,) = catalog.runs(PRODUCT)
        stricter = catalog.bundle(first.bundle).changed(decision={"threshold": 0.95})
        stricter = stricter.model_copy(update={"product": PRODUCT})
        catalog.add_bundle(stricter)
    site.saa("promote", stricter.id)
    (run,) = site.until(lambda: site.runs("relabel", "Completed"))
    assert run["parameters"] == {"request": {"product": PRODUCT}}
    with site.catalog() as catalog:
        _, second = catalog.runs(PRODUCT)
    assert second.bundle == stricter.id
    assert second.id in run["state"]["message"]


@pytest.mark.slow
def test_a_stop_pauses_the_schedules_and_the_next_start_goes_on_with_one_of_each(site: Site) -> None:
    assert site.end() == 0
    assert all(each["paused"] for each in site.deployments().values())
    site.start()
    assert not any(each["paused"] for each in site.deployments().values())
    automations = [each["name"] for each in site.ask("automations")]
    assert len(automations) == len(set(automations)) == 5


@pytest.mark.slow
def test_what_was_missed_while_no_service_was_there_is_done_once(site: Site) -> None:
    site.until(lambda: site.runs("label", "Completed"))
    assert site.end(signal.SIGKILL) == -signal.SIGKILL
    late = site.until(lambda: len(found := site.runs("label", "Late")) > 1 and found)
    site.start()
    left = {run["id"] for run in site.runs("label", "Late")}
    assert not left & {run["id"] for run in late[1:]}
    assert "runs that were missed are dropped" in site.said
    # Nor does a ring or an event that nobody heard wait for the night.
    assert all(site.until(lambda name=name: site.runs(name, "Completed")) for name in ("collect", "publish", "curate"))


@pytest.mark.slow
def test_a_run_whose_process_is_gone_ends_as_crashed(site: Site) -> None:
    beating = {"PREFECT_API_URL": site.api, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT)}

    def states() -> list[str]:
        return [run["state"]["name"] for run in site.ask("flow_runs", flows={"name": {"any_": ["sleeper"]}})]

    with subprocess.Popen([sys.executable, "-c", SLEEP], env=site.environment | beating) as process:
        site.until(lambda: states() == ["Running"])
        time.sleep(2)  # its first sign of life is on its way
        process.kill()
    assert states() == ["Running"]
    site.until(lambda: states() == ["Crashed"], seconds=180)
