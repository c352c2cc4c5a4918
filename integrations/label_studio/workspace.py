"""A workspace's side of the exchange with Label Studio: which server, which run, which pictures, in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from integrations.catalog import Catalog, RunImage, RunRecord
from integrations.environments import held
from integrations.label_studio.client import Client
from integrations.label_studio.connection import Connection, connection
from integrations.label_studio.doorbell import address
from integrations.label_studio.images import ImageSource, image_source
from integrations.label_studio.payload import push_item
from integrations.label_studio.planning import PushReport, PushRequest
from integrations.label_studio.pull import PullReport, pull
from integrations.label_studio.push import Advance, dry_push, push, remembered_project
from integrations.label_studio.webhook import answers, register, webhook_secret
from integrations.outputs import ImageRecord, read_records, read_run
from integrations.settings import Settings
from saa_core.errors import ImageError, ServiceError, StoreError
from saa_core.priority import Judged, priorities
from saa_core.prompts import PromptBundle
from saa_core.types import ImageRef

Describe = Callable[[ImageRef], NDArray[np.float32]]
"""An image as one vector, float32 (C,): the mean of its features."""


def push_run(
    settings: Settings, product: str, run: str | None, describe: Describe, advance: Advance, *, dry: bool = False
) -> PushReport:
    """Push a run of the workspace.

    Args:
        settings: Server, token, pictures, share of unaided images.
        product: What the images show.
        run: Id of the run, or the beginning of it; None is the product's latest.
        describe: For the order of review.
        advance: Told of the progress.
        dry: Only count what would be done.

    Raises:
        SaaError: No server, no such run, or as `push`.
    """
    with _connected(settings) as (server, client), Catalog(settings.catalog_url) as catalog:
        request = _request(settings, catalog, run_of(catalog, product, run), describe)
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


def run_of(catalog: Catalog, product: str, run: str | None) -> RunRecord:
    """The finished run that is meant.

    Args:
        catalog: Of the workspace.
        product: What the images show.
        run: Id of the run, or the beginning of it; None is the product's latest finished one.

    Raises:
        StoreError: There is none, it is not finished, or it is of another product.
    """
    found = catalog.run(run) if run else catalog.latest_run(product, state="done")
    if found is None:
        raise StoreError(product, f"has no finished run; `saa label IMAGES --product {product}` makes one")
    if found.product != product:
        raise StoreError(found.id, f"is a run of {found.product!r}, not of {product!r}")
    if found.state != "done":
        raise StoreError(found.id, "is not finished; run its `saa label` again, it goes on where it stopped")
    return found


def _request(settings: Settings, catalog: Catalog, run: RunRecord, describe: Describe) -> PushRequest:
    folder, bundle = settings.runs / run.id, catalog.bundle(run.bundle)
    rows = {row.key: row for row in catalog.images_of(run.id) if row.state != "quarantined"}
    records = list(read_records(folder))
    refs = [_ref(record, rows[record["key"]]) for record in records]
    order = _order(records, bundle, _described(refs, describe)) if refs else ()
    items = [push_item(*each, run.id, bundle) for each in zip(records, refs, order, strict=True)]
    return PushRequest(run.product, run.id, _models(folder), bundle, items, settings.unaided_share)


def _described(refs: Sequence[ImageRef], describe: Describe) -> NDArray[np.float32]:
    """The images as vectors, float32 (n, C); one that cannot be read any more counts as an ordinary one."""
    found: dict[str, NDArray[np.float32]] = {}
    for ref in refs:
        # Where its picture is still needed it is refused later, and the others go on.
        with suppress(ImageError):
            found[ref.key] = describe(ref)
    ordinary: NDArray[np.float32] = np.mean(list(found.values()), axis=0) if found else np.zeros(1, np.float32)
    return np.stack([found.get(ref.key, ordinary) for ref in refs])


def _order(records: Sequence[ImageRecord], bundle: PromptBundle, descriptors: NDArray[np.float32]) -> Sequence[float]:
    judged = [
        Judged(
            key=record["key"],
            score=record["score"],
            confidences=tuple(region["confidence"] for region in record["regions"]),
            phrase_scores=tuple(region["phrase_scores"] for region in record["regions"]),
        )
        for record in records
    ]
    synonyms = [phrase.text for phrase in bundle.language.agnostic]
    found: list[float] = priorities(judged, descriptors, bundle.decision.region_floor, synonyms).tolist()
    return found


def _models(folder: Path) -> str:
    """The models of a run by name: whoever corrects its masks must not take them for those of others."""
    return "+".join(read_run(folder)["models"].values())


def _ref(record: ImageRecord, row: RunImage) -> ImageRef:
    return ImageRef(record["key"], row.uri, tuple(record["names"]), row.lot)
