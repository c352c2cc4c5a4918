"""Whether a real server serves the images of a project."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from integrations.label_studio.client import Client
from integrations.label_studio.served import serves_images
from saa_core.errors import ServiceError
from tests.label_studio_server import Server

CONFIG = '<View><Image name="image" value="$image"/></View>'

pytestmark = pytest.mark.usefixtures("project_cleanup")


@pytest.fixture
def client(label_studio: Server) -> Any:
    with Client(label_studio.url, label_studio.token) as client:
        yield client


@pytest.fixture
def project(client: Client, label_studio: Server) -> int:
    """A project whose local storage is the server's folder `served`."""
    project = int(client.post("/api/projects/", {"title": "served", "label_config": CONFIG})["id"])
    folder = label_studio.files / "served"
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.zeros((3, 5), np.uint8)).save(folder / "good.png")
    (folder / "bad.png").write_bytes(b"no image")
    client.post("/api/storages/localfiles", {"project": project, "path": str(folder), "use_blob_urls": True})
    return project


def add(client: Client, project: int, *urls: str) -> None:
    for url in urls:
        client.post(f"/api/projects/{project}/import", [{"data": {"image": url}}])


def local(name: str) -> str:
    return f"/data/local-files/?d=served/{name}"


def test_nothing_there_yet(client: Client, project: int) -> None:
    assert serves_images(client, project) == f"project {project} holds no images"


def test_the_newest_is_tried(client: Client, project: int) -> None:
    add(client, project, local("bad.png"), local("good.png"))
    assert serves_images(client, project) == f"serves the images of project {project} (3 x 5 pixels tried)"


@pytest.mark.parametrize(
    ("url", "reason"),
    [(local("bad.png"), "serves no image for task"), (local("none.png"), "404"), ("/user/login/", "serves no image")],
)
def test_what_comes_is_no_image(client: Client, project: int, url: str, reason: str) -> None:
    add(client, project, url)
    with pytest.raises(ServiceError, match=reason):
        serves_images(client, project)


def test_storage_that_only_the_server_reads(client: Client, project: int) -> None:
    add(client, project, "s3://bucket/a.png?token=hunter2")
    assert "hunter2" not in serves_images(client, project)
    assert "s3://bucket" in serves_images(client, project)
