"""Scan: which images are there, by content."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from integrations import image_sets
from integrations.image_sets import ImageSet


@task(name="scan-images", cache_policy=NO_CACHE)
def scan_images(source: str, limit: int | None, lot: str | None, workspace: str) -> ImageSet:
    """Every image of a folder, glob, list file or URL, by the hash of its bytes; see `integrations.image_sets.scan`."""
    return image_sets.scan(source, limit=limit, lot=lot, exclude=[Path(workspace)])
