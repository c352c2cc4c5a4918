"""What Prometheus reads, by its own parser, against the catalog."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from integrations.catalog import Catalog, RunRecord
from integrations.metrics import WorkspaceMetrics
from saa_core.errors import StoreError
from saa_core.masks import encode
from saa_core.reviews import PredictedRegion, Review, ReviewedRegion, compare
from saa_core.types import ImageRef
from tests.labelled_set import LabelledSet, block, drawn
from tests.plates import BUNDLE, PRODUCT

Read = dict[str, dict[tuple[str, ...], float]]


def read(metrics: WorkspaceMetrics) -> Read:
    """Values by the values of their labels, the product first."""
    order = ("product", "state", "finding", "outcome", "bundle")
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        each.name: {tuple(s.labels[name] for name in order if name in s.labels): s.value for s in each.samples}
        for each in families
    }


@pytest.fixture
def metrics(labelled_set: LabelledSet) -> WorkspaceMetrics:
    return WorkspaceMetrics(lambda: Catalog(labelled_set.settings.catalog_url))


def judged(ref: ImageRef, *, accepted: int, rejected: int, aided: bool = True) -> Review:
    """A review of regions shown, of which some were left and one was drawn."""
    shown = [
        PredictedRegion(str(number), "scratch", "scratch", 0.5, encode(block(number, 0)))
        for number in range(accepted + rejected)
    ]
    left = [ReviewedRegion(region.id, region.label, region.mask, "") for region in shown[:accepted]]
    added = ReviewedRegion(None, "dent", encode(block(8, 8)), "")
    return replace(drawn(ref), regions=compare(shown, [*left, added]), aided=aided)


def test_of_an_empty_catalog(metrics: WorkspaceMetrics) -> None:
    found = read(metrics)
    assert "saa_images" in found
    assert not any(found.values())


def test_runs_and_images(labelled_set: LabelledSet, metrics: WorkspaceMetrics) -> None:
    labelled_set.add_many(3)
    labelled_set.label({})
    labelled_set.label({}, "run2")
    labelled_set.catalog.begin_run(RunRecord("run3", PRODUCT, BUNDLE.id, "batch", {}, "0"))
    found = read(metrics)
    assert found["saa_runs"] == {(PRODUCT, "done"): 2, (PRODUCT, "unfinished"): 1}
    assert found["saa_images"] == {(PRODUCT, "labelled"): 6}
    assert found["saa_run_seconds"] == {(PRODUCT,): 2}
    assert found["saa_run_model_calls"] == {(PRODUCT,): 0}
    assert 0 <= found["saa_last_run_age_seconds"][PRODUCT,] < 60
    labelled_set.catalog.use_again("run1")  # a look that found nothing new
    assert read(metrics)["saa_last_run_age_seconds"][PRODUCT,] >= found["saa_last_run_age_seconds"][PRODUCT,]
    assert found["saa_known_images"] == {(PRODUCT,): 3}


def test_reviews_and_the_champion(labelled_set: LabelledSet, metrics: WorkspaceMetrics) -> None:
    refs = labelled_set.add_many(4)
    labelled_set.label({})
    assert read(metrics)["saa_accept_rate"] == {}
    labelled_set.review(judged(refs[0], accepted=2, rejected=1), judged(refs[1], accepted=1, rejected=0, aided=False))
    labelled_set.review(drawn(refs[2]))
    labelled_set.catalog.promote(BUNDLE.id, reason="a test")
    found = read(metrics)
    assert found["saa_reviewed_images"] == {(PRODUCT, "defective"): 2, (PRODUCT, "good"): 1}
    outcomes = {(PRODUCT, "accepted"): 2, (PRODUCT, "rejected"): 1, (PRODUCT, "added"): 1}
    assert found["saa_reviewed_regions"] == outcomes
    assert found["saa_accept_rate"] == {(PRODUCT,): pytest.approx(2 / 3)}
    assert found["saa_champion_info"] == {(PRODUCT, BUNDLE.id): 1}


def test_reviews_that_came_since_are_counted(labelled_set: LabelledSet, metrics: WorkspaceMetrics) -> None:
    refs = labelled_set.add_many(2)
    labelled_set.label({})
    for number, ref in enumerate(refs, start=1):
        labelled_set.review(drawn(ref))
        assert read(metrics)["saa_reviewed_images"] == {(PRODUCT, "good"): number}


def test_names_of_any_kind(labelled_set: LabelledSet) -> None:
    product = 'cap "blue"\\\nnew'
    labelled_set.catalog.begin_run(RunRecord("run9", product, BUNDLE.id, "batch", {}, "0"))
    metrics = WorkspaceMetrics(lambda: Catalog(labelled_set.settings.catalog_url))
    assert read(metrics)["saa_runs"] == {(product, "unfinished"): 1}


def test_a_catalog_that_cannot_be_used() -> None:
    with pytest.raises(StoreError):
        WorkspaceMetrics(lambda: Catalog("sqlite:////dev/null/none")).text()
