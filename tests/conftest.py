"""Fixtures and settings for all rooms."""

from pathlib import Path

import pytest
from hypothesis import is_hypothesis_test, settings

pytest_plugins = [
    "tests.label_studio_server",
    "tests.fiftyone_server",
    "tests.plates",
    "tests.labelled_set",
    "tests.fiftyone_room",
    "tests.deadly",
    "tests.store_servers",
]

SHARED = Path(__file__).resolve().parents[2] / "shared"

# The machine's load must not fail a test, and a failure must come back on the next run.
settings.register_profile("saa", deadline=None, derandomize=True)
settings.load_profile("saa")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The soak goes first, for it takes minutes; properties do not count towards coverage."""
    items.sort(key=lambda item: item.path.name != "test_soak.py")
    for item in items:
        # A hundred examples run the lines of one; to trace them all would double what the test takes.
        if is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("no_cover")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and prompts beside the project, which is not part of it."""
    if not (SHARED / "data" / "dev").is_dir():
        pytest.skip("needs the folder ../shared with real images, which is not part of the project")
    return SHARED
