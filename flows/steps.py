"""The steps of an unattended run, each for one product: what a command does, by the same function, in a sentence."""

from __future__ import annotations

from flows import events, start
from flows.bundles import bundle_for_product
from flows.runs import LabelRequest, again
from integrations.backlog import waiting
from integrations.catalog import Catalog
from integrations.environments import held
from integrations.fiftyone.lifecycle import uri_of
from integrations.finished_run import run_of
from integrations.label_studio.connection import connection
from integrations.refinery import RefineRequest, current_bundle
from integrations.settings import Settings
from saa_core.errors import EmptySetError, ServiceError, SettingsError
from saa_core.models import ModelSetup
from tasks.workbench import setup_of


def label(product: str, settings: Settings) -> str:
    """Label what is in the product's watched folder, as its latest run was labelled."""
    with Catalog(settings.catalog_url) as catalog:
        run = catalog.latest_run(product, state="done")
        bundle = current_bundle(catalog, product) if run else bundle_for_product(None, product, None, catalog)
    setup = setup_of(run, settings) if run else ModelSetup(device=settings.device, weights=settings.weights_dir)
    source, workspace = settings.watch[product], str(settings.workspace.absolute())
    request = LabelRequest(source=source, product=product, bundle=bundle, setup=setup, workspace=workspace)
    try:
        return _labelled(request, settings)
    except EmptySetError:
        return "no photograph has arrived yet"


def relabel(product: str, settings: Settings) -> str:
    """Label the photographs of the product's latest run with the bundle that decides now."""
    with Catalog(settings.catalog_url) as catalog:
        request = again(run_of(catalog, product, None), current_bundle(catalog, product), settings)
    return _labelled(request, settings)


def _labelled(request: LabelRequest, settings: Settings) -> str:
    # One at a time: whoever waits finds the other's run done, and has it for nothing.
    with held(settings.workspace / "label.lock"):
        with Catalog(settings.catalog_url) as catalog:
            before = catalog.latest_run(request.product, state="done")
        summary = start.start(request, settings)
    if before is not None and before.id == summary.run:
        return f"nothing new: run {summary.run}"
    events.labelled(request.product, summary.run)
    return f"run {summary.run}: {summary.sentence()}"


def publish(product: str, settings: Settings, run: str | None = None) -> str:
    """Push a run to Label Studio, and let it ring the doorbell."""
    report = start.publish(product, settings.workspace, run, settings.doorbell)
    return f"{report.sentence()}: {report.url}"


def collect(product: str, settings: Settings) -> str:
    """Pull the product's reviews, where anything was pushed."""
    url = connection(settings).url
    with Catalog(settings.catalog_url) as catalog:
        if catalog.target(product, "label-studio", url) is None:
            return "nothing was pushed yet"
    return start.collect(product, settings.workspace).sentence()


def refine(request: RefineRequest, settings: Settings, even_so: bool = False) -> str:
    """Refine a product's bundle where reviews came since the last time, or even so."""
    # The second of two finds that the first has seen all reviews.
    with held(settings.workspace / "refine.lock"):
        with Catalog(settings.catalog_url) as catalog:
            new = waiting(catalog, request.product)
        if not (new or even_so):
            return "no review since the last refinement"
        refined = start.refine(request, settings.workspace)
    return f"{refined.refinement.reasons[0]}: {refined.report}"


def curate(product: str, settings: Settings, run: str | None = None) -> str:
    """Curate the product in FiftyOne."""
    return start.curate(product, settings.workspace, run).lines()[0]


def has_label_studio(settings: Settings) -> bool:
    """Whether there is a Label Studio to push to; one that is set and does not answer counts."""
    try:
        connection(settings)
    except SettingsError:
        return False
    return True


def has_fiftyone(settings: Settings) -> bool:
    """Whether there is a mongod for FiftyOne; one that is set and does not answer counts."""
    try:
        uri_of(settings)
    except ServiceError:
        return False
    return True
