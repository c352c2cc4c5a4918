"""What Prometheus is told of a workspace, counted in its catalog whenever it asks.

Every figure is a gauge: a run that is made again replaces what it said before, so that sums may fall.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from integrations.catalog import Catalog
from integrations.catalog.records import now
from saa_core.reviews import Review, evidence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `WorkspaceMetrics.text` gives."""

_Values = Mapping[Any, float]


class Said(NamedTuple):
    """What the reviews of a product that count say: images by finding, and regions shown or added by outcome."""

    images: Counter[str]
    regions: Counter[str]

    @classmethod
    def of(cls, reviews: Iterable[Review]) -> Said:
        """Regions count where experts were shown ours; what they drew without them tells nothing of these."""
        counted = evidence(reviews).values()
        images = Counter(str(review.finding) for review in counted)
        return cls(images, Counter(region.outcome for review in counted if review.aided for region in review.regions))

    @property
    def accept_rate(self) -> float | None:
        """Share of the regions shown that experts left as they were, in [0, 1]; None where none was shown."""
        shown = sum(self.regions.values()) - self.regions["added"]
        return self.regions["accepted"] / shown if shown else None


class WorkspaceMetrics(Collector):
    """The gauges of a workspace.

    Args:
        opened: Opens the catalog.
    """

    def __init__(self, opened: Callable[[], Catalog]) -> None:
        self._opened = opened
        self._said: dict[str, tuple[int, Said]] = {}

    def text(self) -> bytes:
        """All gauges in Prometheus' text format.

        Raises:
            StoreError: The catalog cannot be used.
        """
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """None: whoever registers this need not collect it first."""
        return ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Count now."""
        with self._opened() as catalog:
            yield from self._runs(catalog)
            yield from self._reviews(catalog)

    def _runs(self, catalog: Catalog) -> Iterator[GaugeMetricFamily]:
        totals, running = catalog.run_totals(), Counter(run.product for run in catalog.unfinished_runs())
        runs = {(product, "done"): total.runs for product, total in totals.items()}
        runs |= {(product, "unfinished"): number for product, number in running.items()}
        yield _gauge("runs", "Runs; unfinished ones are at work or were cut off.", ("product", "state"), runs)
        states = catalog.image_states()
        yield _gauge("images", "Images of each run, summed; reused ones asked no model.", ("product", "state"), states)
        for name, said in (
            ("regions", "Regions found by the finished runs."),
            ("model_calls", "Model calls of the finished runs."),
            ("seconds", "Seconds that the finished runs took."),
        ):
            values = {(product,): float(getattr(total, name)) for product, total in totals.items()}
            yield _gauge(f"run_{name}", said, ("product",), values)
        ages = {(product,): (now() - total.last).total_seconds() for product, total in totals.items()}
        yield _gauge("last_run_age_seconds", "Seconds since the newest run was begun.", ("product",), ages)
        known = {(product,): catalog.count_usable(product) for product in totals}
        yield _gauge("known_images", "Usable images of the finished runs, each once.", ("product",), known)

    def _reviews(self, catalog: Catalog) -> Iterator[GaugeMetricFamily]:
        products = catalog.products()
        said = {product: self._said_of(catalog, product) for product in products}
        images = {(product, finding): n for product, each in said.items() for finding, n in each.images.items()}
        yield _gauge("reviewed_images", "Images whose review counts.", ("product", "finding"), images)
        regions = {(product, outcome): n for product, each in said.items() for outcome, n in each.regions.items()}
        yield _gauge("reviewed_regions", "Regions shown to experts, and added ones.", ("product", "outcome"), regions)
        rates = {(product,): each.accept_rate for product, each in said.items()}
        known = {product: rate for product, rate in rates.items() if rate is not None}
        yield _gauge("accept_rate", "Share of the regions shown that experts left as they were.", ("product",), known)
        champions = {product: catalog.champion(product) for product in products}
        decides = {(product, bundle.id): 1 for product, bundle in champions.items() if bundle}
        yield _gauge("champion_info", "The bundle that decides.", ("product", "bundle"), decides)

    def _said_of(self, catalog: Catalog, product: str) -> Said:
        # Reviews are only ever added, and there may be many: they are read again when their number has changed.
        number = catalog.count_reviews(product)
        known = self._said.get(product)
        if known is None or known[0] != number:
            self._said[product] = known = number, Said.of(catalog.reviews(product))
        return known[1]


def _gauge(name: str, says: str, labels: tuple[str, ...], values: _Values) -> GaugeMetricFamily:
    """A gauge; `values` are by the tuple of the labels' values."""
    family = GaugeMetricFamily(f"saa_{name}", says, labels=labels)
    for labelled, value in values.items():
        family.add_metric(labelled, value)
    return family
