"""Start a flow in this process, with Prefect's API beside it; a finished run answers for itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from flows.runs import LabelRequest, RunSummary, finished_summary, run_id
from flows.runtime import prepare_prefect, result_of
from integrations.catalog import Catalog
from integrations.image_sets import scan
from integrations.settings import Settings
from saa_core.errors import StoreError
from tasks.progress import advance

_T = TypeVar("_T")

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from flows.refine import Refined
    from integrations.fiftyone.report import PublishReport
    from integrations.fiftyone.workspace import Curated
    from integrations.intake import Intake
    from integrations.label_studio.planning import PushReport
    from integrations.label_studio.pull import PullReport
    from integrations.refinery import RefineRequest

    Ended = State[State[_T]]
    """What Prefect's types make of the state of a flow that returns one itself."""


def start(request: LabelRequest, settings: Settings) -> RunSummary:
    """Label an image set, or say what the finished run of the same content says.

    A repeated command needs no Prefect: its run's id, made of the images' bytes, the bundle and the models, is in the
    catalog as done, and its files are there.

    Raises:
        SaaError: The set, the bundle or the workspace cannot be used.
    """
    started = time.monotonic()
    images = scan(request.source, limit=request.limit, lot=request.lot, exclude=[settings.workspace])
    with Catalog(settings.catalog_url) as catalog:
        run = run_id(request, images, settings.max_pixels)
        summary = finished_summary(request, settings, run, catalog)
        if summary is not None:
            catalog.use_again(run)
    if summary is None:

        def label() -> RunSummary:
            from flows.label import run_label_flow

            return run_label_flow(request)

        summary = _beside_prefect(settings.workspace, label)
    return summary.model_copy(update={"seconds": round(time.monotonic() - started, 3)})


def publish(
    product: str,
    workspace: Path,
    run: str | None = None,
    webhook: str | None = None,
    only: Sequence[str] = (),
) -> PushReport:
    """Push a run to Label Studio by the `publish` flow, see `flows.publish`.

    Raises:
        SaaError: What the flow raised, or that Prefect's API does not answer.
    """
    from integrations.finished_run import run_of
    from integrations.label_studio.connection import connection
    from integrations.label_studio.webhook import check_url

    # What can be known at once is said before Prefect starts, and a URL with a password never becomes its parameter.
    settings = settings_of(workspace)
    connection(settings)
    with Catalog(settings.catalog_url) as catalog:
        run_of(catalog, product, run)
    if webhook is not None:
        check_url(webhook)

    def flow(folder: str) -> Ended[PushReport]:
        from flows.publish import publish_flow

        return publish_flow(product, folder, run, webhook, tuple(only), return_state=True)

    return _run(workspace, flow)


def collect(product: str, workspace: Path) -> PullReport:
    """Pull a product's reviews from Label Studio by the `collect` flow, see `flows.collect`; errors as in `publish`."""
    from integrations.label_studio.connection import connection

    connection(settings_of(workspace))

    def flow(folder: str) -> Ended[PullReport]:
        from flows.collect import collect_flow

        return collect_flow(product, folder, return_state=True)

    return _run(workspace, flow)


def refine(request: RefineRequest, workspace: Path, *, collect: bool = False, publish: bool = False) -> Refined:
    """Refine a product's bundle by the `refine` flow, see `flows.refine`.

    Raises:
        SaaError: As `publish`.
    """
    from integrations.finished_run import run_of
    from integrations.label_studio.connection import connection
    from integrations.refinery import current_bundle

    settings = settings_of(workspace)
    with Catalog(settings.catalog_url) as catalog:
        current_bundle(catalog, request.product)
        if publish and "***" in (source := run_of(catalog, request.product, None).source):
            raise StoreError(source, "holds a secret that was not kept: refine without --push, then label and push")
    if collect or publish:
        connection(settings)

    def flow(folder: str) -> Ended[Refined]:
        from flows.refine import refine_flow

        return refine_flow(request, folder, collect, publish, return_state=True)

    return _run(workspace, flow)


def plan_publish(product: str, workspace: Path, run: str | None = None, only: Sequence[str] = ()) -> PushReport:
    """What `publish` would do; nothing is written, so no flow is run.

    Raises:
        SaaError: As `publish`.
    """
    from integrations.label_studio.workspace import push_run
    from tasks.workbench import descriptor_of

    settings = settings_of(workspace)
    describe = descriptor_of(settings, product, run)
    return push_run(settings, product, run, describe, advance, only=only, dry=True)


def publish_fiftyone(product: str, workspace: Path, run: str | None = None) -> PublishReport:
    """Bring a run and all reviews into FiftyOne by the `publish-fiftyone` flow; errors as in `publish`."""
    _check_fiftyone(product, workspace, run)

    def flow(folder: str) -> Ended[PublishReport]:
        from flows.publish import publish_fiftyone_flow

        return publish_fiftyone_flow(product, folder, run, return_state=True)

    return _run(workspace, flow)


def collect_fiftyone(product: str, workspace: Path) -> Intake:
    """Pull what was said in FiftyOne's App by the `collect-fiftyone` flow; errors as in `publish`."""
    _check_fiftyone(product, workspace, None)

    def flow(folder: str) -> Ended[Intake]:
        from flows.collect import collect_fiftyone_flow

        return collect_fiftyone_flow(product, folder, return_state=True)

    return _run(workspace, flow)


def curate(product: str, workspace: Path, run: str | None = None) -> Curated:
    """Curate a product in FiftyOne by the `curate` flow, see `flows.curate`; errors as in `publish`."""
    _check_fiftyone(product, workspace, run)

    def flow(folder: str) -> Ended[Curated]:
        from flows.curate import curate_flow

        return curate_flow(product, folder, run, return_state=True)

    return _run(workspace, flow)


def _check_fiftyone(product: str, workspace: Path, run: str | None) -> None:
    """What can be known at once is said before Prefect starts."""
    from integrations.fiftyone.lifecycle import uri_of
    from integrations.finished_run import run_of

    settings = settings_of(workspace)
    with Catalog(settings.catalog_url) as catalog:
        run_of(catalog, product, run)
    uri_of(settings)


def collect_masks(folder: Path, product: str, workspace: Path) -> Intake:
    """Take reviews from mask files by the `collect-masks` flow, see `flows.collect`; errors as in `publish`."""
    settings_of(workspace)

    def flow(kept: str) -> Ended[Intake]:
        from flows.collect import collect_masks_flow

        return collect_masks_flow(str(folder.absolute()), product, kept, return_state=True)

    return _run(workspace, flow)


def settings_of(workspace: Path | None) -> Settings:
    """Settings of a workspace that is there: what looks for runs in it does not make one.

    Raises:
        StoreError: It is not there.
    """
    settings = Settings.load(workspace=workspace)
    if not settings.has_catalog:
        advice = "`saa label IMAGES --product P` makes one, --workspace names another"
        raise StoreError(str(settings.workspace), f"is no workspace yet; {advice}")
    return settings


def _run(workspace: Path, flow: Callable[[str], Ended[_T]]) -> _T:
    """Run a flow in this process; it gets the workspace's folder, and is imported when Prefect's environment is set."""
    folder = str(workspace.absolute())
    return _beside_prefect(workspace, lambda: cast(_T, result_of(lambda: flow(folder))))


def _beside_prefect(workspace: Path, run: Callable[[], _T]) -> _T:
    """Run what imports Prefect, with an API beside it."""
    advance("starting Prefect", 0, 1)
    wait_for_api = prepare_prefect(workspace.absolute())
    import prefect  # noqa: F401 - takes as long as the API's start, and goes on beside it

    wait_for_api()
    advance("starting Prefect", 1, 1)
    return run()
