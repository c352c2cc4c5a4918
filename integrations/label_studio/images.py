"""Three ways to show our images in Label Studio: local files, uploads, URLs.

What is there already is not written again, so a push that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from integrations.batches import batches
from integrations.files import temporary_name, write_atomic
from integrations.image_sets import Quarantined, read_bytes
from integrations.label_studio.client import Client
from integrations.label_studio.image_urls import ByUrl
from integrations.pictures import (
    Published,
    PublishedImage,
    as_png,
    is_same,
    or_refusal,
    shown_as,
    sorted_out,
)
from integrations.settings import ImagesMode
from saa_core.errors import ImageError, ServiceError, SettingsError

__all__ = ["ByUrl", "ImageSource", "LocalFiles", "Published", "PublishedImage", "Upload", "image_source"]

_FOLDER = "saa"

# The server takes 100 files and 250 MB a request; when a small one is lost, little is sent again.
_MOST_FILES = 90
_MOST_BYTES = 16_000_000
_UPLOADED = re.compile(r"-([0-9a-f]{64})\.(?:jpg|png)$")


class ImageSource(Protocol):
    """A way to show images in one project."""

    @property
    def writes(self) -> int:
        """Files and requests written so far; 0 when all was there already."""

    def publish(self, images: Sequence[PublishedImage]) -> Published:
        """Make images visible in the project.

        Raises:
            ServiceError: The server does not take them; nothing is wrong with a single image.
            StoreError: A file cannot be written on our side.
        """

    def check(self, image: PublishedImage, url: str) -> None:
        """Fetch an image as the expert's browser would, and compare.

        Args:
            image: One that was published.
            url: What `publish` gave for it.

        Raises:
            ServiceError: It would not be shown; the message says which setting is to be changed.
            ImageError: Our own copy is gone or has changed.
        """


def image_source(mode: ImagesMode, client: Client, project: int, files: Path | None) -> ImageSource:
    """The way that the setting `label_studio_images` names.

    Args:
        mode: The setting.
        client: The server.
        project: Its project's id.
        files: The server's document root as this machine sees it; only "local-files" needs it.

    Raises:
        SettingsError: "local-files" without `files`.
    """
    if mode == "upload":
        return Upload(client, project)
    if mode == "url":
        return ByUrl(client, project)
    if files is None:
        raise SettingsError("label_studio_files", "local-files needs it: the server's LOCAL_FILES_DOCUMENT_ROOT")
    return LocalFiles(client, project, files)


class LocalFiles:
    """Files below a folder that server and program share: hard links where possible, copies where not.

    They stand at <root>/saa/<first two letters of the key>/<key>.jpg or .png, once for all projects. Each project gets
    one local storage for <root>/saa, whose "Sync" finds nothing: it would make tasks that are not ours.

    Args:
        client: The server.
        project: Its project's id.
        root: The server's LOCAL_FILES_DOCUMENT_ROOT, under the same path on this machine.
    """

    def __init__(self, client: Client, project: int, root: Path) -> None:
        self._client, self._project = client, project
        # The server compares paths as they are written, so links are left alone.
        self._root = Path(os.path.abspath(root))  # noqa: PTH100
        self.writes = 0

    def publish(self, images: Sequence[PublishedImage]) -> Published:
        """See `ImageSource.publish`."""
        self._register()
        return sorted_out(images, map(or_refusal(self._place), images))

    def check(self, image: PublishedImage, url: str) -> None:
        """See `ImageSource.check`."""
        try:
            served = self._client.fetch(url).content
        except ServiceError as error:
            if error.status not in (403, 404, 500):
                raise
            raise self._refusal(f"does not serve {image.name} ({error.status})", error.status) from error
        if not is_same(served, read_bytes(image.ref)):
            raise self._refusal(f"serves something else than {image.name}", None)

    def _place(self, image: PublishedImage) -> str:
        data = read_bytes(image.ref)
        suffix = shown_as(data)
        relative = f"{_FOLDER}/{image.key[:2]}/{image.key}{suffix or '.png'}"
        path = self._root / relative
        if not _is_there(path, image.key if suffix else None):
            if not suffix:
                write_atomic(path, as_png(data, image.name))
            elif "://" in image.uri or not _link(Path(image.uri), path):
                write_atomic(path, data)
            self.writes += 1
        return f"/data/local-files/?d={relative}"

    def _register(self) -> None:
        """Let the project serve our folder, once."""
        folder = self._root / _FOLDER
        with contextlib.suppress(OSError):  # the server does not take what is no folder, and then there is advice
            folder.mkdir(parents=True, exist_ok=True)
        storages = self._client.get("/api/storages/localfiles", {"project": self._project})
        if any(storage["path"] and Path(storage["path"]) in (folder, *folder.parents) for storage in storages):
            return
        storage = {"project": self._project, "path": str(folder), "title": "saa", "use_blob_urls": True}
        try:
            self._client.post("/api/storages/localfiles", storage | {"regex_filter": "(?!)"})
        except ServiceError as error:
            if error.status != 400:
                raise
            raise self._refusal(f"does not take {folder} as a folder of images", 400) from error
        self.writes += 1

    def _refusal(self, what: str, status: int | None) -> ServiceError:
        advice = (
            f"start it with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
            f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={self._root}, or set label_studio_files to the root that it has; "
            f"label_studio_images=upload needs neither"
        )
        return ServiceError(self._client.url, f"{what}: {advice}", status)


class Upload:
    """Copies that the server keeps, each named after its key, sent in requests of bounded size.

    Args:
        client: The server.
        project: Its project's id.
    """

    def __init__(self, client: Client, project: int) -> None:
        self._client, self._project = client, project
        self.writes = 0

    def publish(self, images: Sequence[PublishedImage]) -> Published:
        """See `ImageSource.publish`. What an interrupted push uploaded is found by its name and used."""
        urls = self._uploaded()
        missing = [image for image in images if image.key not in urls]
        refused: dict[str, Quarantined] = {}
        for batch in batches(_readable(missing, refused), _MOST_FILES, _MOST_BYTES):
            self._send(dict(batch))
        if len(refused) < len(missing):
            urls = self._uploaded()
        lost = [image.name for image in missing if image.key not in urls.keys() | refused.keys()]
        if lost:
            raise ServiceError(self._client.url, f"took the upload of {lost[0]} and does not list it; run again")
        ours = {image.key: urls[image.key] for image in images if image.key in urls}
        return Published(ours, tuple(refused.values()))

    def check(self, image: PublishedImage, url: str) -> None:
        """See `ImageSource.check`."""
        if not is_same(self._client.fetch(url).content, read_bytes(image.ref)):
            reason = f"serves something else than was uploaded for {image.name}; its folder media/upload is damaged"
            raise ServiceError(self._client.url, reason)

    def _uploaded(self) -> dict[str, str]:
        """URLs of this user's uploads to the project, by image key."""
        files = self._client.get(f"/api/projects/{self._project}/file-uploads", {"all": "true"})
        # The first of two, so that every push takes the same; without a size the file is gone from the server's disk.
        return {
            found[1]: f"/data/{file['file']}"
            for file in reversed(files)
            if file["size"] and (found := _UPLOADED.search(file["file"]))
        }

    def _send(self, batch: Mapping[str, bytes]) -> None:
        # A form field each: of several files in one field the server keeps the last and says nothing.
        files = [(name, (name, data, _MIME[name[-4:]])) for name, data in batch.items()]
        path = f"/api/projects/{self._project}/import"
        answer = self._client.post(path, params={"commit_to_project": "false"}, files=files)
        self.writes += 1
        stored = len(answer["file_upload_ids"])
        if stored != len(batch):
            raise ServiceError(self._client.url, f"stored {stored} of {len(batch)} uploaded images; run again")


_MIME = {".jpg": "image/jpeg", ".png": "image/png"}


def _readable(images: Iterable[PublishedImage], refused: dict[str, Quarantined]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of what is to be uploaded; what cannot be read goes to `refused`, by key."""
    for image in images:
        try:
            data = read_bytes(image.ref)
            suffix = shown_as(data)
            yield f"{image.key}{suffix or '.png'}", data if suffix else as_png(data, image.name)
        except ImageError as error:
            refused[image.key] = Quarantined(error.name, error.reason)


def _is_there(path: Path, key: str | None) -> bool:
    """Whether a file was published and is unchanged; without a key it is a conversion, and being there is enough."""
    try:
        # A hard link shares its bytes with the user's file, which may have been changed in place since.
        return path.is_file() if key is None else hashlib.sha256(path.read_bytes()).hexdigest() == key
    except OSError:
        return False


def _link(source: Path, path: Path) -> bool:
    """Whether `path` could be made a hard link to the file: not across file systems, nor to another user's file."""
    temporary = path.with_name(temporary_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.hardlink_to(source.resolve())
        temporary.replace(path)
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return True
