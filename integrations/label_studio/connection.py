"""Which Label Studio is meant, and how it comes to the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from integrations.label_studio.lifecycle import home_in, running
from integrations.settings import ImagesMode, Settings
from integrations.urls import masked_url
from saa_core.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Connection:
    """One server as the settings name it.

    Attributes:
        url: Without a slash at its end.
        token: Legacy token or personal access token.
        images: How the server comes to the images.
        files: Its LOCAL_FILES_DOCUMENT_ROOT as a folder of this machine; set if `images` is "local-files".
    """

    url: str
    token: SecretStr
    images: ImagesMode
    files: Path | None


def connection(settings: Settings) -> Connection:
    """The server that the settings name, else the workspace's own if it runs. Nothing is sent to it.

    Raises:
        SettingsError: There is no server, or its settings do not go together.
        ServiceError: It is not known where the workspace's own server runs.
        StoreError: The token of the workspace's own server cannot be read.
    """
    if settings.label_studio_url is None:
        return _own(settings)
    if settings.label_studio_token is None:
        raise SettingsError(
            "label_studio_token",
            f"is not set, and {masked_url(settings.label_studio_url)} wants one; set SAA_LABEL_STUDIO_TOKEN to the "
            "access token from its page Account & Settings",
        )
    url = settings.label_studio_url.rstrip("/")
    return _with_images(url, settings.label_studio_token, settings, settings.label_studio_files)


def _own(settings: Settings) -> Connection:
    if settings.label_studio_token is not None:
        raise SettingsError("label_studio_url", "is not set, but label_studio_token is; set SAA_LABEL_STUDIO_URL too")
    found = running(home_in(settings.workspace))
    if found is None:
        raise SettingsError(
            "label_studio_url",
            "is not set, and no Label Studio of this workspace runs; start one with `saa services up label-studio`, "
            "or set SAA_LABEL_STUDIO_URL and SAA_LABEL_STUDIO_TOKEN",
        )
    return _with_images(found.url, found.token, settings, found.home.files)


def _with_images(url: str, token: SecretStr, settings: Settings, files: Path | None) -> Connection:
    images = settings.label_studio_images or ("upload" if files is None else "local-files")
    if images == "local-files" and files is None:
        raise SettingsError(
            "label_studio_files",
            "is not set, but label_studio_images is local-files; set SAA_LABEL_STUDIO_FILES to the folder that the "
            "server has as LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT",
        )
    return Connection(url, token, images, files.absolute() if files is not None and images == "local-files" else None)
