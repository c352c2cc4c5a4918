"""Collect: what experts said comes back into the catalog."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from integrations.catalog import Catalog
from integrations.fiftyone import workspace as fiftyone
from integrations.intake import Intake
from integrations.label_studio import workspace as label_studio
from integrations.label_studio.pull import PullReport
from integrations.mask_reviews import SOURCE, read_masks
from integrations.settings import Settings
from tasks.patience import patient_task
from tasks.progress import advance


@patient_task("pull-label-studio")
def pull_label_studio(product: str, workspace: str) -> PullReport:
    """Pull a product's reviews from Label Studio, see `integrations.label_studio.pull`."""
    return label_studio.pull_product(Settings.load(workspace=Path(workspace)), product, advance)


@patient_task("pull-fiftyone")
def pull_fiftyone(product: str, workspace: str) -> Intake:
    """Pull what was said in FiftyOne's App, see `integrations.fiftyone.pull`."""
    return fiftyone.pull_product(Settings.load(workspace=Path(workspace)), product)


@task(name="pull-masks", cache_policy=NO_CACHE)
def pull_masks(folder: str, product: str, workspace: str) -> Intake:
    """Take reviews from mask files, see `integrations.mask_reviews`."""
    settings = Settings.load(workspace=Path(workspace))
    with Catalog(settings.catalog_url) as catalog:
        found = read_masks(Path(folder), product, catalog, settings.runs)
        intake = Intake(refused=list(found.refused))
        intake.store(catalog, SOURCE, found.reviews)
        return intake
