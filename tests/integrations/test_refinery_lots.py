"""Lots, runs and records around a refinement, where something is only known later."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flows.start import refine
from integrations.catalog import Catalog, RunRecord
from integrations.refinery import RefineRequest
from saa_core.errors import BundleError, StoreError
from saa_core.types import ImageRef
from tests.plates import BUNDLE, PRODUCT, Labelled, Plates, perfect


@pytest.fixture
def refs(labelled: Labelled) -> list[ImageRef]:
    return list(labelled.refs)


def test_a_lot_that_is_named_later_is_what_its_images_were(plates: Plates, refs: list[ImageRef]) -> None:
    plates.label([replace(ref, lot=None) for ref in refs], "alone", product="loose")
    reviews = [replace(review, product="loose", id=f"loose {review.id}") for review in perfect(refs)]
    plates.catalog.add_reviews(reviews)
    request = {"product": "loose"}
    plates.refine(**request)
    before = plates.catalog.holdout("loose")
    assert set(before) == {f"image {ref.key[:16]}" for ref in refs}
    assert any(before.values())
    plates.label(refs, "named", product="loose")
    plates.refine(**request)
    after = plates.catalog.holdout("loose")
    for lot in {ref.lot for ref in refs if ref.lot}:
        searched = [not before[f"image {ref.key[:16]}"] for ref in refs if ref.lot == lot]
        assert after[lot] is not any(searched), "what a search saw once is never held out"


def test_a_record_without_its_promotion_is_not_left_behind(plates: Plates, refs: list[ImageRef]) -> None:
    plates.catalog.add_reviews(perfect(refs))
    found = plates.refine(risk=True)
    assert found.outcome == "promoted"
    assert found.proposed is not None
    rival = BUNDLE.changed(origin="a rival")
    plates.catalog.add_bundle(rival)
    plates.catalog.promote(rival.id, reason="faster")
    with pytest.raises(BundleError, match="promoted meanwhile"):
        plates.conclude(found)
    assert plates.catalog.refinements(PRODUCT) == ()
    champion = plates.catalog.champion(PRODUCT)
    assert champion is not None
    assert champion.id == rival.id


def test_a_run_that_is_asked_for_again_is_the_latest(tmp_path: Path) -> None:
    with Catalog(f"sqlite:///{tmp_path / 'catalog.sqlite'}") as catalog:
        catalog.add_bundle(BUNDLE)
        counts = {"labelled": 0, "reused": 0, "quarantined": 0, "regions": 0, "model_calls": 0}
        for run in ("first", "second", "unfinished"):
            catalog.begin_run(RunRecord(run, PRODUCT, BUNDLE.id, "batch", {}, "0"))
            if run != "unfinished":
                catalog.finish_run(run, **counts, seconds=1.0)
        catalog.use_again("first")
        catalog.use_again("unfinished")
        latest = catalog.latest_run(PRODUCT, state="done")
        assert latest is not None
        assert latest.id == "first"
        assert catalog.run("unfinished").finished is None


def test_a_source_whose_secret_is_gone_is_not_labelled_again(plates: Plates) -> None:
    run = RunRecord("remote", PRODUCT, BUNDLE.id, "batch", {}, "0", source="ftp://user:***@host/photos")
    plates.catalog.begin_run(run)
    counts = {"labelled": 0, "reused": 0, "quarantined": 0, "regions": 0, "model_calls": 0}
    plates.catalog.finish_run("remote", **counts, seconds=1.0)
    with pytest.raises(StoreError, match=r"secret that was not kept: refine without --push"):
        refine(RefineRequest(product=PRODUCT), plates.settings.workspace, publish=True)
