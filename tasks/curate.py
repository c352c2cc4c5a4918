"""Curate: what is worth a look, told by figures."""

from __future__ import annotations

from pathlib import Path

from integrations.fiftyone import workspace as fiftyone
from integrations.fiftyone.workspace import Curated
from integrations.settings import Settings
from tasks.patience import patient_task
from tasks.progress import advance
from tasks.workbench import descriptor_of


@patient_task("curate-fiftyone")
def curate_fiftyone(product: str, run: str | None, workspace: str) -> Curated:
    """Pull, publish, evaluate, compare, save views, see `integrations.fiftyone.workspace.curate`."""
    settings = Settings.load(workspace=Path(workspace))
    return fiftyone.curate(settings, product, run, descriptor_of(settings, product, run), advance)
