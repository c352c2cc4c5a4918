"""A real Prefect API for the tests that run flows, and small image sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.runtime import prepare_prefect


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Prefect server that lives as long as the tests; child processes reach it through PREFECT_API_URL."""
    home = tmp_path_factory.mktemp("prefect")
    before = dict(os.environ)
    os.environ["PREFECT_HOME"] = str(home)
    os.environ["PREFECT_API_URL"] = "set below"
    prepare_prefect(home)
    del os.environ["PREFECT_API_URL"]
    from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120), temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}):
        url = os.environ["PREFECT_API_URL"] = str(PREFECT_API_URL.value())
        yield url
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def photographs(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of n noisy grey plates of 96 x 96 pixels, the first half of them with a dark scratch."""

    def make(count: int = 8, name: str = "photos", seed: int = 0) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        rng = np.random.default_rng(seed)
        for number in range(count):
            pixels = rng.normal(150, 4, (96, 96))
            if number < count // 2:
                row = 20 + 5 * number
                pixels[row : row + 3, 10:80] -= 90
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB").save(folder / f"{number:03}.png")
        return folder

    return make
