"""A curator at the screen: FiftyOne's App in headless Chromium, driven as a person drives it."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, TimeoutError, sync_playwright

from tests.browser.expert import find_browser

_PATIENCE = 60_000  # milliseconds; only a failure waits so long
_DRAWING = ("--use-gl=swiftshader", "--enable-unsafe-swiftshader")  # the grid is drawn by WebGL, without a GPU here


@contextmanager
def curator_at(url: str, dataset: str, view: str | None = None) -> Iterator[Curator]:
    """A curator before the grid of a data set, or of one of its saved views by its name in URLs."""
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=[*sandbox, *_DRAWING])
        try:
            page = browser.new_page(viewport={"width": 1400, "height": 900}, base_url=url)
            page.set_default_timeout(_PATIENCE)
            page.goto(f"/datasets/{dataset}" + (f"?view={view}" if view else ""))
            yield Curator(page)
        finally:
            browser.close()


class Curator:
    """What a curator does."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._tiles().first.wait_for()

    def wait_for_regions(self, number: int, least: int) -> None:
        """Wait until so many pixels of an image of the grid have the colour of regions, which come after it."""
        end = time.monotonic() + _PATIENCE / 1000
        while (seen := self.orange(number)) < least:
            assert time.monotonic() < end, f"image {number} shows {seen} pixels of regions, not {least}"

    def orange(self, number: int) -> int:
        """How many pixels of an image of the grid have the colour of regions, drawn over the picture."""
        red, green, blue = np.asarray(Image.open(io.BytesIO(self._tiles().nth(number).screenshot())).convert("RGB")).T
        return int(((red > 190) & (green > 60) & (green < 150) & (blue < 80)).sum())

    def select(self, number: int) -> None:
        self._tiles().nth(number).locator("input[type=checkbox]").dispatch_event("click")

    def groups(self) -> set[str]:
        """Names of the sidebar's groups."""
        self.page.locator("input[value]").first.wait_for()  # a group's name can be edited
        values: list[str] = self.page.eval_on_selector_all("input", "inputs => inputs.map(each => each.value)")
        return {value.lower() for value in values}

    def operate(self, name: str, plan: str) -> None:
        """Run an operator whose form says `plan`; what it does is seen later."""
        self.page.keyboard.press("Backquote")
        self.page.get_by_placeholder("Search operations").fill(name)
        self.page.get_by_text(name, exact=True).click()
        told = self.page.get_by_text(plan)
        told.wait_for()
        # The form is drawn anew while the server looks at it, and a click on the old one is lost.
        while told.is_visible():
            self.page.get_by_role("button", name="Execute").click()
            with suppress(TimeoutError):
                told.wait_for(state="hidden", timeout=5_000)

    def _tiles(self) -> Locator:
        return self.page.locator('[data-cy="looker"]')
