"""A workspace's side of the exchange with Label Studio: which server, which run, which pictures, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from integrations.catalog import Catalog, RunRecord
from integrations.environments import held
from integrations.finished_run import Describe, FinishedRun, finished_run, run_of
from integrations.label_studio.client import Client
from integrations.label_studio.connection import Connection, connection
from integrations.label_studio.doorbell import address
from integrations.label_studio.images import ImageSource, image_source
from integrations.label_studio.planning import PushReport, PushRequest
from integrations.label_studio.pull import PullReport, pull
from integrations.label_studio.push import Advance, dry_push, push, remembered_project
from integrations.label_studio.webhook import answers, register, webhook_secret
from integrations.push_items import push_item
from integrations.settings import Settings
from saa_core.errors import ServiceError, StoreError


def push_run(
    settings: Settings,
    product: str,
    run: str | None,
    describe: Describe,
    advance: Advance,
    *,
    only: Sequence[str] = (),
    dry: bool = False,
) -> PushReport:
    """Push a run of the workspace.

    Args:
        settings: Server, token, pictures, share of unaided images.
        product: What the images show.
        run: Id of the run, or the beginning of it; None is the product's latest.
        describe: For the order of review.
        advance: Told of the progress.
        only: Names or keys of the images that may get a new task; none is all.
        dry: Only count what would be done.

    Raises:
        SaaError: No server, no such run, no such image, or as `push`.
    """
    with _connected(settings) as (server, client), Catalog(settings.catalog_url) as catalog:
        request = _request(settings, catalog, run_of(catalog, product, run), describe, only)
        if dry:
            return dry_push(client, catalog, request)
        source = partial(_source, server, client)
        # Two pushes at once would each make what the other is about to make.
        with held(settings.workspace / "push.lock"):
            return push(client, catalog, request, source, advance)


def pull_product(settings: Settings, product: str, advance: Advance) -> PullReport:
    """Pull the reviews of a product into the workspace's catalog.

    Raises:
        SaaError: No server, nothing was pushed to it, or as `pull`.
    """
    with _connected(settings) as (_, client), Catalog(settings.catalog_url) as catalog:
        project = remembered_project(catalog, product, client)
        if project is None:
            advice = f"`saa push label-studio --product {product}` comes first"
            raise ServiceError(client.url, f"nothing of {product!r} was pushed there from this workspace; {advice}")
        return pull(client, catalog, product, project, advance)


def register_doorbell(settings: Settings, product: str, project: int, url: str) -> tuple[bool, str]:
    """Let a product's project ring the doorbell at `url`, see `webhook`.

    Returns:
        Whether anything was written, and what a person should know.
    """
    with _connected(settings) as (_, client):
        written = register(client, project, address(url, product), webhook_secret(settings.workspace))
    note = f"the project rings {url} when an expert saves"
    return written, note if answers(url) else f"{note}, but nothing answers there yet; `saa serve` does"


@contextmanager
def _connected(settings: Settings) -> Iterator[tuple[Connection, Client]]:
    server = connection(settings)
    with Client(server.url, server.token.get_secret_value()) as client:
        yield server, client


def _source(server: Connection, client: Client, project: int) -> ImageSource:
    return image_source(server.images, client, project, server.files)


def _request(
    settings: Settings, catalog: Catalog, record: RunRecord, describe: Describe, only: Sequence[str]
) -> PushRequest:
    run = finished_run(settings, catalog, record)
    chosen = frozenset(_key(run, name) for name in only) if only else None
    order = run.priorities(run.descriptors(describe))
    images = zip(run.images, run.refs, order, strict=True)
    items = [push_item(*image, record.id, run.bundle) for image in images]
    return PushRequest(record.product, record.id, run.models, run.bundle, items, settings.unaided_share, only=chosen)


def _key(run: FinishedRun, name: str) -> str:
    """The key of the image that is called so, or has this key."""
    key = next((ref.key for ref in run.refs if name == ref.key or name in ref.names), None)
    if key is None:
        raise StoreError(name, f"run {run.record.id} has no usable image of this name or key")
    return key
