"""The service under fire, for three minutes and for half an hour."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from integrations.label_studio.server import Home
from tests.label_studio_server import SERVICES
from tests.soak import Soak, prepared


@pytest.fixture
def soak(tmp_path: Path, label_studio_template: Home, mongod_program: Path) -> Iterator[Soak]:
    made = prepared(tmp_path, label_studio_template.folder, SERVICES)
    yield made
    made.saa("services", "down")


def test_three_minutes_of_kills(soak: Soak) -> None:
    soak.saa("services", "up")
    soak.run(180, arrivals=30, kills=12)
    soak.settle()
    soak.check()
    assert soak.killed.total() >= 2


@pytest.mark.slow
def test_half_an_hour_of_kills(soak: Soak) -> None:
    soak.saa("services", "up")
    soak.run(1800, arrivals=60, kills=45)
    soak.settle()
    soak.check()
    assert set(soak.killed) >= {"prefect", "label-studio", "mongod", "serve", "worker"}
