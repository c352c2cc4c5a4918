"""How a workspace stands, against what a test did in it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from integrations.backlog import note_seen
from integrations.catalog import PredictionRecord, RunRecord
from integrations.fiftyone.shown import note_shown
from integrations.status import ProductStatus, status_of
from tests.labelled_set import LabelledSet, drawn
from tests.plates import BUNDLE, PRODUCT

TARGET = "label-studio http://127.0.0.1:8080 project 7"


def stands(labelled_set: LabelledSet) -> ProductStatus:
    (found,) = status_of(labelled_set.settings).products
    return found


def send(labelled_set: LabelledSet, aided: list[bool]) -> None:
    labelled_set.catalog.remember_target(PRODUCT, "label-studio", "http://127.0.0.1:8080", TARGET)
    labelled_set.catalog.record_predictions(
        PredictionRecord(TARGET, ref.key, "run1", BUNDLE.id, "v", number, shown, 0.5, ())
        for number, (ref, shown) in enumerate(zip(labelled_set.refs, aided, strict=False))
    )


def test_nothing_is_there(labelled_set: LabelledSet) -> None:
    assert (status_of(labelled_set.settings).unfinished, status_of(labelled_set.settings).products) == ((), ())


def test_what_waits_for_experts(labelled_set: LabelledSet) -> None:
    refs = labelled_set.add_many(5)
    labelled_set.label({})
    send(labelled_set, [True, True, False, False])
    labelled_set.review(drawn(refs[0]), drawn(refs[2]))
    found = stands(labelled_set)
    assert (found.images, found.sent, found.to_review, found.unaided) == (5, 4, 2, 1)
    assert found.new_reviews == 2
    assert next(found.advice()).endswith(f"`saa refine --product {PRODUCT}`")
    note_seen(labelled_set.catalog, PRODUCT, 2)
    assert stands(labelled_set).new_reviews == 0


def test_what_the_champion_has_not_decided(labelled_set: LabelledSet) -> None:
    labelled_set.add_many(3)
    labelled_set.label({})
    assert (stands(labelled_set).champion, stands(labelled_set).outdated) == (None, 0)
    champion = BUNDLE.changed(decision={"threshold": 0.5})
    labelled_set.catalog.add_bundle(champion, "proposed")
    labelled_set.catalog.promote(champion.id, reason="a test")
    assert (stands(labelled_set).champion, stands(labelled_set).outdated) == (champion.id, 3)
    labelled_set.catalog.promote(BUNDLE.id, reason="a test")
    assert stands(labelled_set).outdated == 0


def test_whether_fiftyone_is_behind(labelled_set: LabelledSet) -> None:
    (ref,) = labelled_set.add_many(1)
    labelled_set.label({})
    database = labelled_set.settings.fiftyone_database
    assert stands(labelled_set).fiftyone_behind is None
    note_shown(labelled_set.catalog, database, PRODUCT, "run1", 0)
    assert stands(labelled_set).fiftyone_behind is False
    labelled_set.review(drawn(ref))
    assert stands(labelled_set).fiftyone_behind is True
    assert any("saa push fiftyone" in advice for advice in stands(labelled_set).advice())


def test_a_run_that_was_cut_off(labelled_set: LabelledSet) -> None:
    labelled_set.add_many(1)
    labelled_set.label({})
    begun = labelled_set.catalog.begin_run(RunRecord("run2", PRODUCT, BUNDLE.id, "batch", {}, "0"))
    (found,) = status_of(labelled_set.settings).unfinished
    assert (found.run, found.product, found.images, found.since) == ("run2", PRODUCT, 0, begun.created)
    assert stands(labelled_set).run == "run1"


@pytest.mark.parametrize("lost", [True, False])
def test_the_run_speaks_for_itself(labelled_set: LabelledSet, lost: bool) -> None:
    labelled_set.add_many(1)
    labelled_set.label({})
    said = labelled_set.settings.runs / "run1" / "run.json"
    said.unlink() if lost else said.write_text('{"notes": ["Lot 7: other than before."]}')
    assert stands(labelled_set).notes == (() if lost else ("Lot 7: other than before.",))


def test_the_advice_of_a_product_in_order(labelled_set: LabelledSet) -> None:
    labelled_set.add_many(1)
    labelled_set.label({})
    assert list(stands(labelled_set).advice()) == []
    stale = replace(stands(labelled_set), new_reviews=3, outdated=2, fiftyone_behind=True)
    assert [line.split("`")[1].split()[1] for line in stale.advice()] == ["refine", "relabel", "push"]
