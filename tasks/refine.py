"""Refine: reviews become a better bundle, which decides from then on if the guard lets it pass."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from integrations import backlog, refinery
from integrations.catalog import Catalog
from integrations.refinery import RefineRequest
from integrations.settings import Settings
from saa_core.refinement.outcome import Refinement
from tasks.progress import advance
from tasks.workbench import store_for


@task(name="count-reviews", cache_policy=NO_CACHE)
def count_reviews(product: str, workspace: str) -> int:
    """How many reviews of a product there are."""
    with Catalog(Settings.load(workspace=Path(workspace)).catalog_url) as catalog:
        return catalog.count_reviews(product)


@task(name="search-bundle", cache_policy=NO_CACHE)
def search_bundle(request: RefineRequest, workspace: str) -> Refinement:
    """Gather the evidence, search, and ask the guard, see `integrations.refinery.refine_product`."""
    settings, product = Settings.load(workspace=Path(workspace)), request.product
    with Catalog(settings.catalog_url) as catalog:
        store = store_for(product, catalog, settings, refinery.current_bundle(catalog, product))
        return refinery.refine_product(catalog, store, request, advance)


@task(name="settle-refinement", cache_policy=NO_CACHE)
def settle_refinement(refinement: Refinement, workspace: str) -> Refinement:
    """Decide what becomes of what was found, see `integrations.refinery.settle`."""
    settings = Settings.load(workspace=Path(workspace))
    with Catalog(settings.catalog_url) as catalog:
        return refinery.settle(catalog, settings, refinement)


@task(name="report-refinement", cache_policy=NO_CACHE)
def report_refinement(refinement: Refinement, workspace: str) -> str:
    """Write the refinement's report; returns its path."""
    settings = Settings.load(workspace=Path(workspace))
    with Catalog(settings.catalog_url) as catalog:
        store = store_for(refinement.product, catalog, settings, refinement.champion)
        return str(refinery.report_refinement(catalog, store, settings, refinement))


@task(name="conclude-refinement", cache_policy=NO_CACHE)
def conclude_refinement(refinement: Refinement, reviews: int, workspace: str) -> None:
    """Note what was found and promote it where that is the outcome, see `integrations.refinery.conclude`.

    Args:
        refinement: What was found.
        reviews: How many there were when the search began.
        workspace: Where everything is.
    """
    with Catalog(Settings.load(workspace=Path(workspace)).catalog_url) as catalog:
        refinery.conclude(catalog, refinement)
        backlog.note_seen(catalog, refinement.product, reviews)
