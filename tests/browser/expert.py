"""An expert at the screen: Label Studio's own editor in headless Chromium, driven as a person drives it.

Everything is found by what a person, or a screen reader, finds it by: roles, labels, names. Points are given in pixels
of the image, wherever and however large the editor shows it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Locator, Page, Request, Response, sync_playwright

Point = tuple[float, float]
Pixels = NDArray[np.uint8]
Tool = Literal["brush-tool", "eraser"]

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PATIENCE = 30_000  # milliseconds; only a failure waits so long
_IMAGE = ".lsf-image img"  # it has no alternative text to find it by
_ANNOTATIONS = re.compile(r"/api/tasks/\d+/annotations")
_LOADED = f"""() => {{
    const image = document.querySelector("{_IMAGE}");
    return image !== null && image.complete && image.naturalWidth > 0;
}}"""


def find_browser() -> str:
    """Path of the system's Chromium or Chrome. Without one the test is skipped; where `CI` is set, it fails."""
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        reason = f"needs a browser on the PATH: {', '.join(_BROWSERS)}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return found


@contextmanager
def expert_at(url: str, email: str, password: str, width: int = 1400, height: int = 1000) -> Iterator[Expert]:
    """An expert who has logged in, before a window of so many pixels."""
    program = find_browser()
    # Chromium refuses to start its sandbox as root, which is who runs a container.
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=sandbox)
        try:
            page = browser.new_page(viewport={"width": width, "height": height}, base_url=url)
            page.set_default_timeout(_PATIENCE)
            expert = Expert(page)
            expert.log_in(email, password)
            yield expert
        finally:
            browser.close()


class Expert:
    """One person's window.

    Attributes:
        page: The page, for what has no verb here.
        requested: URLs of all requests that the page made.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requested: list[str] = []
        page.on("request", self._record)

    def _record(self, request: Request) -> None:
        self.requested.append(request.url)

    def log_in(self, email: str, password: str) -> None:
        self.page.goto("/user/login/")
        self.page.locator("input[name=email]").fill(email)
        self.page.locator("input[name=password]").fill(password)
        self.page.locator("input[name=password]").press("Enter")
        self.page.wait_for_url(lambda url: "/user/login" not in url)

    # ---------------------------------------------------------------------------------------------------------- opening

    def open(self, project: int, task: int, regions: int) -> None:
        """Open a task of the list, and wait until its image and so many regions are on the screen."""
        self.page.goto(f"/projects/{project}/data?task={task}")
        self.meet(task, regions)

    def label_all(self, project: int) -> None:
        """Ask for one task after the other, in the order of the first tab; only so can a task be skipped."""
        self.page.goto(f"/projects/{project}/data")
        self.page.get_by_role("button", name="Label All Tasks").click()

    def meet(self, task: int, regions: int) -> None:
        """Wait until a task is on the screen, with its image and so many regions."""
        self.page.locator(f".lsf-current-task__task-id:text-is('{task}')").wait_for()
        self.page.wait_for_function(_LOADED)
        self._wait_for_regions(regions)
        self.picture()

    def _wait_for_regions(self, number: int) -> None:
        self.page.wait_for_function("n => document.querySelectorAll('[role=treeitem]').length === n", arg=number)

    # ---------------------------------------------------------------------------------------------------------- looking

    @property
    def labels(self) -> list[str]:
        """Labels of the regions, in the order of the list."""
        return self._regions.locator(".lsf-outliner-item__title").all_inner_texts()

    def picture(self) -> Pixels:
        """What the screen shows where the image is, masks and all: uint8 (H, W, 3) RGB, at the image's own size.

        Taken when it no longer changes: masks are drawn some time after the list of regions.
        """
        before, now = None, self._shot()
        while before is None or not np.array_equal(before, now):
            self.page.wait_for_timeout(150)
            before, now = now, self._shot()
        return self._at_image_size(now)

    def toggle_regions(self) -> None:
        """Hide the masks, or show them again."""
        self.page.get_by_role("button", name="all regions").click()

    def _shot(self) -> Pixels:
        raw = np.frombuffer(self.page.screenshot(), np.uint8)
        return np.asarray(cv2.imdecode(raw, cv2.IMREAD_COLOR_RGB), np.uint8)

    def _at_image_size(self, shot: Pixels) -> Pixels:
        width, height = self._image_size
        columns, rows = np.meshgrid(np.arange(width), np.arange(height))
        x, y = self._on_page(columns, rows)
        return shot[y.astype(int), x.astype(int)]

    # ---------------------------------------------------------------------------------------------------------- working

    def select(self, label: str) -> None:
        """Select the only region with a label."""
        self._region(label).click()

    def take(self, tool: Tool) -> None:
        self.page.get_by_role("button", name=tool, exact=True).click()

    def choose_label(self, label: str) -> None:
        self.page.locator(".lsf-labels").get_by_text(label, exact=True).click()

    def stroke(self, *points: Point) -> None:
        """Draw with the tool in hand from point to point, (x, y) in pixels of the image."""
        for number, point in enumerate(points):
            self.page.mouse.move(*self._on_page(*point), steps=8)
            if number == 0:
                self.page.mouse.down()
        self.page.mouse.up()

    def erase(self, label: str, *points: Point) -> None:
        """Take a stroke away from the only region with a label."""
        self.select(label)
        self.take("eraser")
        self.stroke(*points)

    def delete(self, label: str) -> None:
        left = self._regions.count() - 1
        self.select(label)
        self.page.keyboard.press("Backspace")
        self._wait_for_regions(left)

    def relabel(self, old: str, new: str) -> None:
        self.select(old)
        self.choose_label(new)

    def add(self, label: str, words: str, *points: Point) -> None:
        """Draw a new region with one stroke of the brush and say what it is."""
        number = self._regions.count()
        self.take("brush-tool")
        self.choose_label(label)
        self.stroke(*points)
        self._wait_for_regions(number + 1)
        self._write(self._regions.last, words)

    def say(self, label: str, words: str) -> None:
        """Write under the only region with a label what it is."""
        self._write(self._region(label), words)

    def judge(self, verdict: str) -> None:
        """Give the verdict on the image."""
        self.page.locator(f"input[type=checkbox][name={verdict}]").check()

    def submit(self) -> None:
        self._send("Submit current annotation")

    def skip(self) -> None:
        self._send("skip-task")

    # ----------------------------------------------------------------------------------------------------------- inside

    @property
    def _regions(self) -> Locator:
        return self.page.get_by_role("treeitem")

    def _region(self, label: str) -> Locator:
        return self._regions.filter(has=self.page.get_by_text(label, exact=True))

    @staticmethod
    def _write(region: Locator, words: str) -> None:
        field = region.get_by_test_id("textarea-region-input")
        field.fill(words)
        field.press("Enter")

    def _send(self, button: str) -> None:
        with self.page.expect_response(_is_annotation) as answer:
            self.page.get_by_role("button", name=button).click()
        assert answer.value.status == 201, answer.value.text()

    @property
    def _image_size(self) -> tuple[int, int]:
        width, height = self.page.locator(_IMAGE).evaluate("image => [image.naturalWidth, image.naturalHeight]")
        return int(width), int(height)

    def _on_page(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Where the centre of a pixel of the image is on the page."""
        box = self.page.locator(_IMAGE).bounding_box()
        assert box is not None
        width, height = self._image_size
        return box["x"] + (x + 0.5) * box["width"] / width, box["y"] + (y + 0.5) * box["height"] / height


def _is_annotation(response: Response) -> bool:
    return response.request.method == "POST" and _ANNOTATIONS.search(response.url) is not None
