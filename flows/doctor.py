"""What is installed and works on this machine, each thing checked by using it."""

from __future__ import annotations

import os
import platform
import urllib.request
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from flows.bundles import catalog_to_read
from integrations.settings import Settings
from saa_core.errors import SaaError

State = Literal["ok", "absent", "broken"]

_FOUNDATION = ("torch", "torchvision", "groundingdino-py", "segment-anything", "timm", "transformers")


class Check(NamedTuple):
    """One thing that was looked at; `advice` is empty when there is nothing to do."""

    name: str
    state: State
    detail: str
    advice: str = ""


def checks(settings: Settings) -> list[Check]:
    """Everything the main job needs, then what more could be installed."""
    return [
        Check("python", "ok", f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} processors"),
        _attempt("weight-free models", _label_one, "install the pinned packages again: `make clean demo`"),
        _attempt("workspace", lambda: _workspace(settings.workspace), "choose another folder with --workspace"),
        _attempt("catalog", lambda: _catalog(settings), "see the reason; SAA_CATALOG names another database"),
        _package("prefect", ("prefect",), "install the pinned packages again"),
        _attempt("prefect's API", _prefect_api, "start that server, or unset PREFECT_API_URL: saa then brings its own"),
        _package("label studio client", ("label-studio-sdk",), "install the pinned packages again"),
        _package("fiftyone", ("fiftyone",), "install the pinned packages again"),
        _package("foundation models' packages", _FOUNDATION, "`make setup` installs them"),
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
