"""A desk at the shared server, and one at a server that may be killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from integrations.catalog import Catalog
from integrations.label_studio.client import Client
from integrations.label_studio.server import Home
from tests.desk import Desk
from tests.label_studio_server import Server


@contextmanager
def desk_at(server: Server, folder: Path) -> Iterator[Desk]:
    with Catalog(f"sqlite:///{folder / 'catalog.sqlite'}") as catalog, Client(server.url, server.token) as client:
        yield Desk(server, catalog, folder, client)


@pytest.fixture
def desk(label_studio: Server, tmp_path: Path, project_cleanup: None) -> Iterator[Desk]:
    with desk_at(label_studio, tmp_path) as made:
        yield made


@pytest.fixture
def strict_desk(label_studio_strict: Server, tmp_path: Path, project_cleanup: None) -> Iterator[Desk]:
    with desk_at(label_studio_strict, tmp_path) as made:
        yield made


@pytest.fixture(params=["label_studio", "label_studio_strict"])
def any_desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    """At the server that operators have, then at one that validates predictions."""
    server = request.getfixturevalue(request.param)
    with desk_at(server, tmp_path) as made:
        yield made
        with server.http() as http:
            for project in http.get("/api/projects/").json()["results"]:
                http.delete(f"/api/projects/{project['id']}/")


@pytest.fixture
def own_desk(own_label_studio: Server, label_studio_template: Home, tmp_path: Path) -> Iterator[Desk]:
    with desk_at(own_label_studio, tmp_path) as made:
        made.fresh = label_studio_template.data
        yield made
