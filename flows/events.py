"""What the loop tells the site's Prefect server, so that the next step can start; every event of saa is made here.

    saa.run.labelled      an unattended run is done: it is published and curated
    saa.reviews.stored    experts' reviews came in: with `enough`, the product is refined
    saa.bundle.promoted   another bundle decides: the photographs are labelled again
    saa.drift.alarmed     lots look unlike those before the promotion: nothing of ours listens, a site's automation may

Each is of the resource saa.product.NAME and says the product in its payload. One that is lost is made good by the
nightly run.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from integrations.backlog import is_enough, waiting
from integrations.catalog import Catalog
from integrations.settings import Settings

LABELLED = "saa.run.labelled"
REVIEWED = "saa.reviews.stored"
PROMOTED = "saa.bundle.promoted"
DRIFTED = "saa.drift.alarmed"
ENOUGH = "saa.enough"
"""Label of `REVIEWED`: "true" when it is time to refine."""

_PATIENCE = 3.0
"""Seconds that a person waits at most for a server that takes a connection and says nothing."""


def heard() -> bool:
    """Whether the server answers, and at once; without one an event waits for seconds and is lost."""
    impatient = {PREFECT_API_REQUEST_TIMEOUT: _PATIENCE, PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(impatient), get_client(sync_client=True) as client:
        return client.api_healthcheck() is None


def labelled(product: str, run: str) -> None:
    """A run of an unattended deployment is done."""
    _emit(LABELLED, product, run=run)


def reviewed(product: str, new: int, workspace: str) -> None:
    """Reviews were stored, if any were; with enough of them a refinement is asked for, once."""
    if not new:
        return
    settings = Settings.load(workspace=workspace)
    with Catalog(settings.catalog_url) as catalog:
        backlog = waiting(catalog, product)
    enough = is_enough(backlog, new, settings.refine_after)
    _emit(REVIEWED, product, {ENOUGH: str(enough).lower()}, new=new, waiting=backlog)


def promoted(product: str, bundle: str) -> None:
    """Another bundle decides for a product."""
    _emit(PROMOTED, product, bundle=bundle)


def drifted(product: str, run: str, sentences: list[str]) -> None:
    """A run found lots that have drifted."""
    _emit(DRIFTED, product, run=run, sentences=sentences)


def _emit(event: str, product: str, labels: dict[str, str] | None = None, **payload: Any) -> None:
    resource = {"prefect.resource.id": f"saa.product.{quote(product, safe='')}", "prefect.resource.name": product}
    emit_event(event, resource=resource | (labels or {}), payload={"product": product, **payload})
