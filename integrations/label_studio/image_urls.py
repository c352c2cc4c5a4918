"""Images that Label Studio shows from the URLs they were scanned from."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx

from integrations.image_sets import read_bytes
from integrations.label_studio.client import Client
from integrations.pictures import Published, PublishedImage, or_refusal, shown_as, sorted_out
from integrations.urls import masked_url
from saa_core.errors import ImageError, ServiceError
from saa_core.images import load_image
from saa_core.types import ImageRef

_READERS = 8
_WEB = ("http://", "https://")


class ByUrl:
    """Images at the URLs that they were scanned from; nothing is copied.

    The browser fetches http(s) by itself, so the images' host must allow it (CORS). Other schemes (s3, gs, ...) go
    through an import storage of the project, which an administrator sets up with the keys of the bucket.

    Args:
        client: The server.
        project: Its project's id.
        read: Reads the bytes of an image, with ImageError when they are gone or not those of its key.
    """

    writes = 0

    def __init__(self, client: Client, project: int, read: Callable[[ImageRef], bytes] = read_bytes) -> None:
        self._client, self._project, self._read = client, project, read

    def publish(self, images: Sequence[PublishedImage]) -> Published:
        """See `ImageSource.publish`. Every image is read once, to see that it is still the one that was labeled."""
        with ThreadPoolExecutor(_READERS) as readers:
            return sorted_out(images, readers.map(or_refusal(self._usable), images))

    def check(self, image: PublishedImage, url: str) -> None:
        """See `ImageSource.check`. The size is compared, not the bytes: a host may send browsers another format."""
        response = self._fetch(url)
        self._check_browser_may_read(url, response)
        try:
            picture = load_image(response.content, image.name)
        except ImageError as error:
            raise ServiceError(masked_url(url), f"answers with something else than an image: {error.reason}") from error
        if (picture.height, picture.width) != (image.height, image.width):
            sizes = f"{picture.height} x {picture.width} pixels, labeled at {image.height} x {image.width}"
            raise ServiceError(masked_url(url), f"has another size than before: {sizes}; label the set again")

    def _usable(self, image: PublishedImage) -> str:
        if "://" not in image.uri:
            raise ImageError(image.name, "has no URL; set label_studio_images to local-files or upload")
        if "?" in image.uri and not image.uri.startswith(_WEB):
            raise ImageError(image.name, "Label Studio cuts names in buckets at a '?'; rename it")
        if not shown_as(self._read(image.ref)):
            reason = "a browser does not show it as the models saw it; label_studio_images=upload converts such files"
            raise ImageError(image.name, reason)
        return image.uri

    def _fetch(self, url: str) -> httpx.Response:
        headers = {"Origin": _origin(self._client.url)}
        if url.startswith(_WEB):
            return self._client.fetch(url, headers)
        coded = base64.urlsafe_b64encode(url.encode()).decode()
        try:
            return self._client.fetch(f"/projects/{self._project}/resolve/?fileuri={coded}", headers)
        except ServiceError as error:
            if error.status in (None, 401):
                raise
            raise ServiceError(self._client.url, self._missing_storage(url, error.status), error.status) from error

    def _missing_storage(self, url: str, status: int | None) -> str:
        storages = self._client.get("/api/storages/", {"project": self._project})
        bucket = urlsplit(url).netloc
        for storage in storages:
            if bucket in (storage.get("bucket"), storage.get("container")):
                advice = "check the storage's keys and that the file is there"
                return f"storage {storage['id']} of the project does not give {masked_url(url)} ({status}): {advice}"
        place = f"{urlsplit(url).scheme}://{bucket}"
        advice = f"add one for {place} (project settings, Cloud Storage), or set label_studio_images=upload"
        return f"project {self._project} has no import storage for {masked_url(url)}: {advice}"

    def _check_browser_may_read(self, url: str, response: httpx.Response) -> None:
        ours, final = _origin(self._client.url), _origin(str(response.url))
        if ours == final:
            return
        if ours.startswith("https:") and final.startswith("http:"):
            raise ServiceError(masked_url(url), f"browsers block http images on a page of {ours}; serve them by https")
        if response.headers.get("Access-Control-Allow-Origin") not in ("*", ours):
            reason = f"browsers may not show it on a page of {ours}: make {final} answer with"
            allow = f"'Access-Control-Allow-Origin: {ours}' (CORS), or set label_studio_images=upload"
            raise ServiceError(masked_url(url), f"{reason} {allow}")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
