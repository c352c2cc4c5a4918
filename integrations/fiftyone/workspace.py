"""A workspace's side of the exchange with FiftyOne: which mongod, which run, one writer at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integrations.catalog import Catalog
from integrations.environments import held
from integrations.fiftyone.appearance import arrange, prepare_drawing
from integrations.fiftyone.bundles import bundles_in
from integrations.fiftyone.curation import compare_bundles, compare_images, evaluate_regions, regions_found
from integrations.fiftyone.environment import connect
from integrations.fiftyone.lifecycle import uri_of
from integrations.fiftyone.media import Media
from integrations.fiftyone.publish import Advance, publish_run
from integrations.fiftyone.pull import pull
from integrations.fiftyone.report import PublishReport
from integrations.fiftyone.reviews import publish_reviews
from integrations.fiftyone.schema import find_dataset, make_dataset, notes_of
from integrations.fiftyone.shown import note_shown
from integrations.fiftyone.views import save_views
from integrations.finished_run import Describe, finished_run, run_of
from integrations.intake import Intake
from integrations.labels import labels_of
from integrations.settings import Settings
from saa_core.errors import ServiceError
from saa_core.reviews import evidence


@dataclass(frozen=True, slots=True)
class Curated:
    """What `curate` did.

    Attributes:
        published: What came from the App, and what was written there.
        regions: Of each bundle, the newest last, true positives, false positives and misses on the reviewed images.
        views: Images of each saved view.
    """

    published: PublishReport
    regions: dict[str, dict[str, int]]
    views: dict[str, int]

    def lines(self) -> list[str]:
        """The account, a line each."""
        scores = [f"bundle {key}: {_shares(**counts)}" for key, counts in self.regions.items()]
        views = [f"{name}: {number} images" for name, number in self.views.items()]
        return [*self.published.lines(), *scores, *views]


def _shares(tp: int, fp: int, fn: int) -> str:
    shown, real = tp + fp, tp + fn
    return f"{tp} of {shown} regions shown are right, {tp} of {real} real ones are found"


def publish(settings: Settings, product: str, run: str | None, describe: Describe, advance: Advance) -> PublishReport:
    """Pull what was said in the App, then bring a finished run and every review of its product there.

    Args:
        settings: Workspace, mongod, database.
        product: What the images show; each has a data set of this name.
        run: Id of the run, or the beginning of it; None is the product's latest.
        describe: An image's features as one vector.
        advance: Told of the progress.

    Raises:
        SaaError: No mongod, no such run, a file cannot be written.
    """
    with _writing(settings, product) as fiftyone, Catalog(settings.catalog_url) as catalog:
        dataset, report = _publish(fiftyone, settings, catalog, product, run, describe, advance)
        _show(fiftyone, dataset, catalog, report)
        return report


def pull_product(settings: Settings, product: str) -> Intake:
    """Store what was said in the App as reviews of the workspace's catalog.

    Raises:
        SaaError: No mongod, nothing was published there, or as `pull`.
    """
    with _writing(settings, product) as fiftyone, Catalog(settings.catalog_url) as catalog:
        if find_dataset(fiftyone, product) is None:
            raise ServiceError(product, f"is not in FiftyOne; `saa push fiftyone --product {product}` comes first")
        dataset = make_dataset(fiftyone, product)
        intake = _pull(dataset, settings, catalog)
        publish_reviews(fiftyone, dataset, catalog, _media(settings), PublishReport(product, ""))
        return intake


def curate(settings: Settings, product: str, run: str | None, describe: Describe, advance: Advance) -> Curated:
    """Publish, evaluate every bundle, compare images, save the views; arguments and errors as for `publish`."""
    with _writing(settings, product) as fiftyone, Catalog(settings.catalog_url) as catalog:
        dataset, report = _publish(fiftyone, settings, catalog, product, run, describe, advance)
        compare_bundles(dataset, settings, catalog, report)
        advance("comparing", 1, 3)
        evaluate_regions(dataset, report)
        advance("comparing", 2, 3)
        compare_images(dataset, report)
        advance("comparing", 3, 3)
        names = _show(fiftyone, dataset, catalog, report)
        regions = {fields.key: regions_found(dataset, fields) for fields in bundles_in(dataset)}
        views = {name: len(dataset.load_saved_view(name)) for name in names}
        return Curated(report, {key: counts for key, counts in regions.items() if counts}, views)


def _publish(
    fiftyone: Any,
    settings: Settings,
    catalog: Catalog,
    product: str,
    run: str | None,
    describe: Describe,
    advance: Advance,
) -> tuple[Any, PublishReport]:
    finished, media = finished_run(settings, catalog, run_of(catalog, product, run)), _media(settings)
    descriptors = finished.descriptors(describe)
    dataset = make_dataset(fiftyone, product)
    intake = _pull(dataset, settings, catalog)
    reviews = catalog.count_reviews(product)
    hidden = _blind(catalog, product)
    report = publish_run(fiftyone, dataset, finished, descriptors, media, intake, hidden, advance)
    publish_reviews(fiftyone, dataset, catalog, media, report)
    note_shown(catalog, settings.fiftyone_database, product, finished.record.id, reviews)
    return dataset, report


def _blind(catalog: Catalog, product: str) -> set[str]:
    """Images that experts got without masks, until a review of them counts."""
    alone = {key for key, aided in catalog.sent(product).items() if not aided}
    return alone - evidence(catalog.reviews(product, alone)).keys()


def _pull(dataset: Any, settings: Settings, catalog: Catalog) -> Intake:
    return pull(dataset, catalog, lambda run: finished_run(settings, catalog, catalog.run(run)))


def _show(fiftyone: Any, dataset: Any, catalog: Catalog, report: PublishReport) -> list[str]:
    """How the App shows a data set; returns the names of our saved views."""
    *earlier, current = bundles_in(dataset)
    bundle = catalog.bundle(notes_of(dataset)["bundles"][-1]["bundle"])
    decision = bundle.decision
    arrange(fiftyone, dataset, current, earlier)
    prepare_drawing(dataset, labels_of(bundle))
    threshold = decision.region_floor if decision.accept is None else decision.accept
    return save_views(dataset, current, earlier[-1] if earlier else None, threshold, report)


@contextmanager
def _writing(settings: Settings, product: str) -> Iterator[Any]:
    """The package, connected, while no other process of this workspace writes to the product's data set."""
    folder = _folder(settings)
    uri = uri_of(settings)
    # Two that add what is missing would add it twice; the lock ends with its process, however that ends.
    with held(folder / "locks" / hashlib.sha256(product.encode()).hexdigest()[:24]):
        yield connect(uri, settings.fiftyone_database, folder)


def _media(settings: Settings) -> Media:
    return Media(_folder(settings) / "media")


def _folder(settings: Settings) -> Path:
    return settings.workspace.resolve() / "fiftyone"
