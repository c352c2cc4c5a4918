"""What is installed and works on this machine, each thing checked by using it."""

from __future__ import annotations

import os
import platform
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from flows.bundles import catalog_to_read
from integrations.fiftyone.environment import check_answers
from integrations.fiftyone.mongod import find as find_mongod
from integrations.label_studio.client import Client
from integrations.label_studio.connection import connection
from integrations.label_studio.lifecycle import home_in, running
from integrations.label_studio.push import remembered_project
from integrations.label_studio.served import serves_images
from integrations.settings import Settings
from integrations.urls import masked_url
from integrations.weights import download
from saa_core.checkpoints import Checkpoint, find, require, torch_hub_cache, verify
from saa_core.errors import CheckpointError, SaaError, ServiceError
from saa_core.models import ModelSetup, checkpoints_of
from saa_core.runtime import choose
from tasks.progress import advance

State = Literal["ok", "absent", "broken"]

_FOUNDATION = ("torch", "torchvision", "groundingdino-py", "segment-anything", "timm", "transformers")


WEIGHTS = "weights: "
"""Checks of files that the main job does without."""
_SECONDS = 10.0
"""Patience with a server."""

_SERVER_ADVICE = "see the reason; SAA_LABEL_STUDIO_URL and SAA_LABEL_STUDIO_TOKEN name the server"


class Check(NamedTuple):
    """One thing that was looked at; `advice` is empty when there is nothing to do."""

    name: str
    state: State
    detail: str
    advice: str = ""


def checks(settings: Settings, setup: ModelSetup) -> list[Check]:
    """Everything the main job needs, then what more could be installed.

    Args:
        settings: Of the workspace.
        setup: The foundation models whose files are looked for.
    """
    return [
        Check("python", "ok", f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} processors"),
        _attempt("weight-free models", _label_one, "install the pinned packages again: `make clean demo`"),
        _attempt("workspace", lambda: _workspace(settings.workspace), "choose another folder with --workspace"),
        _attempt("catalog", lambda: _catalog(settings), "see the reason; SAA_CATALOG names another database"),
        _package("prefect", ("prefect",), "install the pinned packages again"),
        _attempt("prefect's API", _prefect_api, "start that server, or unset PREFECT_API_URL: saa then brings its own"),
        _package("label studio client", ("label-studio-sdk",), "install the pinned packages again"),
        _label_studio(settings),
        _package("fiftyone", ("fiftyone",), "install the pinned packages again"),
        _mongod(settings),
        _package("foundation models' packages", _FOUNDATION, "`pip install 'saa-labeling[foundation]'`"),
        _package("openvino", ("openvino",), "`pip install 'saa-labeling[openvino]'`, for --runtime openvino"),
        _device(setup),
        *_weights(setup),
    ]


def _attempt(name: str, work: Callable[[], str], advice: str) -> Check:
    try:
        return Check(name, "ok", work())
    except (SaaError, OSError, ImportError) as error:
        return Check(name, "broken", str(error), advice)


def _label_one() -> str:
    from saa_core.models import build

    method = build()
    features = method.features(np.zeros((64, 64, 3), np.uint8))
    return f"{', '.join(method.models.values())} ran on a blank image, features {features.shape}"


def _device(setup: ModelSetup) -> Check:
    try:
        return Check("device for networks", "ok", choose(setup.device).device)
    except SaaError as error:
        return Check("device for networks", "absent", str(error), "SAA_DEVICE or --device names another")


def _weights(setup: ModelSetup) -> Iterator[Check]:
    """A check for each file; its content is looked at, since half a download is worse than none."""
    folder = setup.weights or torch_hub_cache()
    for checkpoint in checkpoints_of(setup):
        name, size = f"{WEIGHTS}{checkpoint.label}", f"{(checkpoint.size or 0) / 1e6:.1f} MB"
        try:
            path = find(checkpoint, setup.weights)
        except CheckpointError:
            detail = f"{checkpoint.url} ({size}, {checkpoint.licence})"
            yield Check(name, "absent", detail, f"`saa doctor --download`, or put it into {folder}")
            continue
        yield _attempt(name, partial(_whole, checkpoint, path), "delete it, and get it again")


def _whole(checkpoint: Checkpoint, path: Path) -> str:
    return f"{path}, SHA-256 {verify(checkpoint, path)[:12]}..."


def fetch(settings: Settings, setup: ModelSetup) -> list[Path]:
    """Download the files of some models that are not on this machine; returns where they are now.

    Raises:
        SaaError: The setting `offline` forbids it, the source does not answer, or gives another file.
    """
    folder, found = setup.weights or torch_hub_cache(), []
    if settings.offline:
        try:
            require(checkpoints_of(setup), setup.weights)
        except CheckpointError as error:
            raise CheckpointError(error.name, f"SAA_OFFLINE forbids connections; {error.reason}") from error
    for checkpoint in checkpoints_of(setup):
        try:
            path = find(checkpoint, setup.weights)
            verify(checkpoint, path)
        except CheckpointError:
            path = download(checkpoint, folder, advance, offline=settings.offline)
        found.append(path)
    return found


def _workspace(folder: Path) -> str:
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise PermissionError(f"{place} is not a folder that can be written")
    return f"{folder.absolute()} {'is there' if folder.exists() else 'will be made'}"


def _catalog(settings: Settings) -> str:
    if settings.catalog is None and not settings.workspace.exists():
        return "will be made with the workspace"
    with catalog_to_read(settings) as catalog:
        return f"{catalog!r} answers, {len(catalog.bundles())} bundles"


def _prefect_api() -> str:
    url = os.environ.get("PREFECT_API_URL")
    if url is None:
        return "saa brings its own for as long as a command lasts"
    with urllib.request.urlopen(f"{url}/health", timeout=5):
        return f"{url} answers"


def _label_studio(settings: Settings) -> Check:
    name = "label studio server"
    try:
        if not (settings.label_studio_url or settings.label_studio_token or running(home_in(settings.workspace))):
            advice = "`saa services up label-studio`, or set SAA_LABEL_STUDIO_URL and SAA_LABEL_STUDIO_TOKEN"
            own = "that of this workspace is stopped" if home_in(settings.workspace).data.exists() else "none is set up"
            return Check(name, "absent", own, advice)
    except SaaError as error:
        return Check(name, "broken", str(error), _SERVER_ADVICE)
    return _attempt(name, lambda: _label_studio_answers(settings), _SERVER_ADVICE)


def _label_studio_answers(settings: Settings) -> str:
    found = connection(settings)
    with Client(found.url, found.token.get_secret_value(), timeout=_SECONDS) as client:
        user, release = client.whoami()["email"], client.get("/api/version")["release"]
        return f"Label Studio {release} at {client.url} accepts us as {user}; {_images_are_served(client, settings)}"


def _images_are_served(client: Client, settings: Settings) -> str:
    with catalog_to_read(settings) as catalog:
        run = catalog.latest_run(state="done")
        project = remembered_project(catalog, run.product, client) if run else None
    return "nothing was pushed yet" if project is None else serves_images(client, project)


def _mongod(settings: Settings) -> Check:
    name = "mongod, FiftyOne's database"
    if settings.fiftyone_uri is not None:
        return _attempt(name, partial(_mongod_answers, settings.fiftyone_uri), "see the reason")
    try:
        found = find_mongod(settings)
    except ServiceError as error:
        state: State = "absent" if settings.mongod is None else "broken"
        return Check(name, state, error.reason, "`saa services install mongod`")
    return Check(name, "ok", f"{found.path}, version {found.version}")


def _mongod_answers(uri: str) -> str:
    check_answers(uri)
    return f"{masked_url(uri)} answers"


def _package(name: str, packages: tuple[str, ...], advice: str) -> Check:
    found, missing = [], []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        return Check(name, "absent", f"not installed: {', '.join(missing)}", advice)
    return Check(name, "ok", ", ".join(found))
