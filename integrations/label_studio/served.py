"""Whether a project's images reach the expert's browser, tried on one of them."""

from __future__ import annotations

from integrations.label_studio.client import Client
from integrations.urls import masked_url
from saa_core.errors import ImageError, ServiceError
from saa_core.images import load_image


def serves_images(client: Client, project: int) -> str:
    """Fetch the newest image of a project as the browser would; returns one line about it.

    Raises:
        ServiceError: The project is gone, or what comes is no image.
    """
    newest = {"query": '{"ordering": ["-tasks:id"]}', "page_size": 1, "page": 1}
    tasks = client.get("/api/tasks/", {"project": project, "fields": "all", "include": "id,data", **newest})["tasks"]
    if not tasks:
        return f"project {project} holds no images"
    url = str(tasks[0]["data"].get("image", ""))
    if not url.startswith(("/", "http://", "https://")):
        return f"project {project} has images in storage that only its own server reads: {masked_url(url)[:100]}"
    try:
        height, width = load_image(client.fetch(url).content, url).pixels.shape[:2]
    except ImageError as error:
        raise ServiceError(client.url, f"serves no image for task {tasks[0]['id']}: {error.reason}") from error
    return f"serves the images of project {project} ({height} x {width} pixels tried)"
