"""How a workspace stands, as far as its catalog can tell: what runs, what waits for experts, what is stale.

No model and no image is looked at, so it is told in a moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from integrations.backlog import waiting
from integrations.catalog import Catalog, RunRecord
from integrations.fiftyone.shown import is_behind
from integrations.outputs import read_run
from integrations.settings import Settings
from saa_core.errors import StoreError


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A run that was begun and not finished: at work, or cut off."""

    run: str
    product: str
    since: datetime
    images: int


@dataclass(frozen=True, slots=True)
class ProductStatus:
    """How a product stands.

    Attributes:
        product: Its name.
        champion: Id of the bundle that decides; None before the first promotion.
        run: Id of the latest finished run.
        finished: When that was finished, UTC.
        images: Usable images of all finished runs, each once.
        sent: Of these, how many were sent out for review.
        to_review: Of these, how many nobody has reviewed.
        unaided: Of those to review, how many are shown without our masks.
        new_reviews: Reviews that no refinement has seen.
        outdated: Images that the champion has decided in no run.
        fiftyone_behind: Whether FiftyOne lacks the run or reviews; None if it was never given the product.
        notes: What the run says of itself, drift among it.
    """

    product: str
    champion: str | None
    run: str
    finished: datetime | None
    images: int
    sent: int
    to_review: int
    unaided: int
    new_reviews: int
    outdated: int
    fiftyone_behind: bool | None
    notes: tuple[str, ...]

    def advice(self) -> Iterator[str]:
        """What to do about what is stale, a sentence each."""
        if self.new_reviews:
            yield f"{self.new_reviews} reviews that no refinement has seen: `saa refine --product {self.product}`"
        if self.outdated:
            yield f"{self.outdated} images not yet decided by the champion: `saa relabel --product {self.product}`"
        if self.fiftyone_behind:
            yield f"FiftyOne lacks what is new: `saa push fiftyone --product {self.product}`"


@dataclass(frozen=True, slots=True)
class WorkspaceStatus:
    """How a workspace stands: unfinished runs, oldest first, and products with a finished run, by name."""

    unfinished: tuple[Unfinished, ...]
    products: tuple[ProductStatus, ...]


def status_of(settings: Settings) -> WorkspaceStatus:
    """How a workspace stands.

    Raises:
        StoreError: Its catalog cannot be used.
    """
    with Catalog(settings.catalog_url) as catalog:
        cut = [Unfinished(r.id, r.product, r.created, catalog.count_images(r.id)) for r in catalog.unfinished_runs()]
        latest = [catalog.latest_run(product, state="done") for product in catalog.products()]
        return WorkspaceStatus(tuple(cut), tuple(_product(catalog, settings, run) for run in latest if run))


def _product(catalog: Catalog, settings: Settings, latest: RunRecord) -> ProductStatus:
    product, champion = latest.product, catalog.champion(latest.product)
    images, sent = catalog.count_usable(product), catalog.sent(product)
    to_review = sent.keys() - set(catalog.reviewed(product))
    return ProductStatus(
        product=product,
        champion=champion.id if champion else None,
        run=latest.id,
        finished=latest.finished,
        images=images,
        sent=len(sent),
        to_review=len(to_review),
        unaided=sum(not sent[key] for key in to_review),
        new_reviews=waiting(catalog, product),
        outdated=images - catalog.count_usable(product, champion.id) if champion else 0,
        fiftyone_behind=is_behind(catalog, settings.fiftyone_database, product, latest.id),
        notes=_notes(settings, latest),
    )


def _notes(settings: Settings, run: RunRecord) -> tuple[str, ...]:
    with suppress(StoreError):  # the folder is gone: the catalog still has the rest to tell
        return tuple(read_run(settings.runs / run.id).get("notes", ()))
    return ()
