"""A workspace's side of the exchange with FiftyOne: which mongod, which run, one writer at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integrations.catalog import Catalog
from integrations.catalog.records import now
from integrations.environments import held
from integrations.fiftyone.curation import compare_bundles, compare_images, evaluate_regions, regions_found
from integrations.fiftyone.environment import connect
from integrations.fiftyone.lifecycle import uri_of
from integrations.fiftyone.media import Media
from integrations.fiftyone.publish import Advance, PublishReport, bundles_in, publish_run
from integrations.fiftyone.pull import pull
from integrations.fiftyone.reviews import publish_reviews
from integrations.fiftyone.schema import arrange, find_dataset, make_dataset
from integrations.fiftyone.shown import note_shown
from integrations.fiftyone.views import save_views
from integrations.finished_run import Describe, finished_run, run_of
from integrations.intake import Intake
from integrations.settings import Settings
from saa_core.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Curated:
    """What `curate` did.

    Attributes:
        intake: What came back from the App.
        published: What was written there.
        regions: Of each bundle, the newest last, true positives, false positives and misses on the reviewed images.
        views: Images of each saved view.
    """

    intake: Intake
    published: PublishReport
    regions: dict[str, dict[str, int]]
    views: dict[str, int]

    @property
    def refused(self) -> list[tuple[str, str]]:
        """(image, reason) of what could not be shown or taken back."""
        return [*self.published.refused, *self.intake.refused]

    def lines(self) -> list[str]:
        """The account, a line each."""
        scores = [f"bundle {key}: {_shares(**counts)}" for key, counts in self.regions.items()]
        views = [f"{name}: {number} images" for name, number in self.views.items()]
        notes = [*self.published.notes, *self.intake.remarks()]
        return [self.published.sentence(), f"from the App: {self.intake.sentence()}", *notes, *scores, *views]


def _shares(tp: int, fp: int, fn: int) -> str:
    shown, real = tp + fp, tp + fn
    return f"{tp} of {shown} regions shown are right, {tp} of {real} real ones are found"


def publish(settings: Settings, product: str, run: str | None, describe: Describe, advance: Advance) -> PublishReport:
    """Bring a finished run, and every review of its product, into FiftyOne.

    Args:
        settings: Workspace, mongod, database.
        product: What the images show; each has a data set of this name.
        run: Id of the run, or the beginning of it; None is the product's latest.
        describe: An image's features as one vector.
        advance: Told of the progress.

    Raises:
        SaaError: No mongod, no such run, a file cannot be written.
    """
    with _writing(settings) as fiftyone, Catalog(settings.catalog_url) as catalog:
        dataset, report = _publish(fiftyone, settings, catalog, product, run, describe, advance)
        report.count("views", _show(fiftyone, dataset))
        return report


def pull_product(settings: Settings, product: str) -> Intake:
    """Store what was said in the App as reviews of the workspace's catalog.

    Raises:
        SaaError: No mongod, nothing was published there, or as `pull`.
    """
    with _writing(settings) as fiftyone, Catalog(settings.catalog_url) as catalog:
        dataset = find_dataset(fiftyone, product)
        if dataset is None:
            raise ServiceError(product, f"is not in FiftyOne; `saa push fiftyone --product {product}` comes first")
        return _pull(fiftyone, dataset, settings, catalog)


def curate(settings: Settings, product: str, run: str | None, describe: Describe, advance: Advance) -> Curated:
    """Pull, publish, evaluate every bundle, compare images, save the views; arguments and errors as for `publish`."""
    with _writing(settings) as fiftyone, Catalog(settings.catalog_url) as catalog:
        found = find_dataset(fiftyone, product)
        intake = Intake() if found is None else _pull(fiftyone, found, settings, catalog)
        dataset, report = _publish(fiftyone, settings, catalog, product, run, describe, advance)
        compare_bundles(dataset, settings, catalog, report)
        advance("comparing", 1, 3)
        evaluate_regions(dataset, report)
        advance("comparing", 2, 3)
        compare_images(dataset, report)
        advance("comparing", 3, 3)
        report.count("views", _show(fiftyone, dataset))
        regions = {fields.key: regions_found(dataset, fields) for fields in bundles_in(dataset)}
        views = {name: len(dataset.load_saved_view(name)) for name in dataset.list_saved_views()}
        return Curated(intake, report, {key: counts for key, counts in regions.items() if counts}, views)


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
    dataset, reviews = make_dataset(fiftyone, product), catalog.count_reviews(product)
    report = publish_run(fiftyone, dataset, finished, finished.descriptors(describe), media, advance)
    publish_reviews(fiftyone, dataset, catalog, media, report)
    note_shown(catalog, settings.fiftyone_database, product, finished.record.id, reviews)
    return dataset, report


def _pull(fiftyone: Any, dataset: Any, settings: Settings, catalog: Catalog) -> Intake:
    intake = pull(dataset, catalog, lambda run: finished_run(settings, catalog, catalog.run(run)), now())
    # At once, whatever comes next: regions that were edited are empty until then.
    publish_reviews(fiftyone, dataset, catalog, _media(settings), PublishReport(dataset.name, ""))
    return intake


def _show(fiftyone: Any, dataset: Any) -> int:
    """How the App shows a data set; returns how many saved views were written."""
    *earlier, current = bundles_in(dataset)
    arrange(fiftyone, dataset, current, earlier)
    return save_views(dataset, current, earlier[-1] if earlier else None)


@contextmanager
def _writing(settings: Settings) -> Iterator[Any]:
    """The package, connected, while no other process of this workspace writes."""
    folder = _folder(settings)
    uri = uri_of(settings)
    # Two that add what is missing would add it twice; the lock ends with its process, however that ends.
    with held(folder / "writer.lock"):
        yield connect(uri, settings.fiftyone_database, folder)


def _media(settings: Settings) -> Media:
    return Media(_folder(settings) / "media")


def _folder(settings: Settings) -> Path:
    return settings.workspace.resolve() / "fiftyone"
