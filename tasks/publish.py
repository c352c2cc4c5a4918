"""Publish: a run's images and regions go to where people look at them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from integrations.fiftyone import workspace as fiftyone
from integrations.fiftyone.report import PublishReport
from integrations.label_studio import workspace as label_studio
from integrations.label_studio.planning import PushReport
from integrations.settings import Settings
from tasks.patience import patient_task
from tasks.progress import advance
from tasks.workbench import descriptor_of


@patient_task("push-label-studio")
def push_label_studio(product: str, run: str | None, workspace: str, only: Sequence[str] = ()) -> PushReport:
    """Push a run to Label Studio, see `integrations.label_studio.push`."""
    settings = Settings.load(workspace=Path(workspace))
    describe = descriptor_of(settings, product, run)
    return label_studio.push_run(settings, product, run, describe, advance, only=only)


@patient_task("push-fiftyone")
def push_fiftyone(product: str, run: str | None, workspace: str) -> PublishReport:
    """Bring a run and all reviews into FiftyOne, see `integrations.fiftyone.publish`."""
    settings = Settings.load(workspace=Path(workspace))
    return fiftyone.publish(settings, product, run, descriptor_of(settings, product, run), advance)


@patient_task("register-webhook")
def register_webhook(product: str, project: int, url: str, workspace: str) -> tuple[bool, str]:
    """Let Label Studio ring a doorbell; returns whether anything had to be written, and what to know of it."""
    return label_studio.register_doorbell(Settings.load(workspace=Path(workspace)), product, project, url)
