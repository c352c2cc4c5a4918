"""New phrases on real candidates: who enters, what is asked of which images, what is left behind and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from integrations.evidence_store import EvidenceStore
from integrations.phrase_race import KEPT, MOST, Race, race, with_phrases
from integrations.reviewed import ReviewedProduct
from saa_core.prompts import PromptBundle
from saa_core.refinement.phrases import Proposal
from saa_core.types import ImageRef
from tests.plates import PRODUCT, Plates, photograph, said, silent, truth

pytestmark = pytest.mark.usefixtures("one_thread")

POOR = PromptBundle.from_content({"product": PRODUCT, "language": {"agnostic": ["bright spot"]}})


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plates]:
    """Six plates, labelled with a phrase that finds no scratch, and what an expert wrote of them."""
    folder = tmp_path_factory.mktemp("race")
    found = Plates.at(folder / "w")
    refs = photograph(folder / "photographs", 6)
    found.label(refs, bundle=POOR)
    found.catalog.add_reviews([said(ref, truth(ref), words="dark scratch, line") for ref in refs])
    yield found
    found.catalog.close()


@pytest.fixture(scope="module")
def raced(held: Plates) -> Race:
    return run(held)


def run(held: Plates, product: ReviewedProduct | None = None, seen: set[str] | None = None) -> Race:
    joined = product or held.reviewed()
    keys = {image.ref.key for image in joined.images} if seen is None else seen
    return race(held.catalog, EvidenceStore(held.store, silent), joined, POOR, keys, 0)


def refs_of(held: Plates) -> list[ImageRef]:
    return [image.ref for image in held.reviewed().images]


def test_an_experts_words_win_and_come_with_their_reason(raced: Race) -> None:
    assert raced.wider is not None
    assert "expert wrote it" in raced.sources["dark scratch"]
    new = set(raced.wider.bundle.texts) - set(POOR.texts)
    assert new == set(raced.sources)
    assert len(new) <= KEPT
    weights = {phrase.text: phrase.weight for phrase in raced.wider.bundle.phrases}
    assert {weights[text] for text in new} == {0.0}


def test_the_wider_evidence_is_of_all_images(held: Plates, raced: Race) -> None:
    assert raced.wider is not None
    (found,) = raced.wider.sets
    assert {image.image for image in found.images} == {ref.key for ref in refs_of(held)}
    assert {image.rows.scores.shape[1] for image in found.images} == {len(raced.wider.bundle.texts)}


def test_what_was_left_behind_is_told(raced: Race) -> None:
    assert raced.dropped
    assert all(not trial.taken and trial.objective is None for trial in raced.dropped)
    assert all(" on " in trial.why and trial.why.endswith((" images", "did better")) for trial in raced.dropped)
    said = " ".join(trial.what for trial in raced.dropped)
    assert not any(f"use {text!r}" in said for text in raced.sources)


def test_general_words_run_too(raced: Race) -> None:
    entered = len(raced.dropped) + len(raced.sources)
    assert 2 <= entered <= 2 * MOST
    assert "general" in " ".join([*(trial.what for trial in raced.dropped), *raced.sources.values()])


def test_the_same_again_asks_no_model(held: Plates, raced: Race) -> None:
    held.store = held.opened()
    again = run(held)
    assert (again.sources, again.dropped) == (raced.sources, raced.dropped)
    assert held.store.method.calls == 0


def test_without_a_defect_that_the_search_may_see_nothing_runs(held: Plates) -> None:
    held.store = held.opened()
    good = {image.ref.key for image in held.reviewed().images if not image.review.masks}
    assert run(held, seen=good) == Race(None, {}, ())
    assert held.store.method.calls == 0


def test_words_do_not_depend_on_the_order_of_reviews(held: Plates, raced: Race) -> None:
    product = held.reviewed()
    turned = replace(product, images=product.images[::-1])
    assert run(held, turned).sources == raced.sources


def test_photographs_that_are_gone_stop_no_race(held: Plates, raced: Race, tmp_path: Path) -> None:
    product = held.reviewed()
    away = {image.ref.key: str(tmp_path / "nowhere.png") for image in product.images if image.review.masks}
    images = tuple(replace(image, ref=moved(image.ref, away)) for image in product.images)
    sets = {run: tuple(moved(ref, away) for ref in refs) for run, refs in product.sets.items()}
    images = tuple(replace(image, review=replace(image.review, words="deep furrow")) for image in images)
    found = run(held, replace(product, images=images, sets=sets))
    assert found.wider is None
    assert any("deep furrow" in trial.what and "gains nothing" in trial.why for trial in found.dropped)


def moved(ref: ImageRef, away: dict[str, str]) -> ImageRef:
    return replace(ref, uri=away.get(ref.key, ref.uri))


def test_new_phrases_do_not_speak_yet() -> None:
    general, specific = Proposal("flaw", "always tried", "general", 0), Proposal("dent", "an expert", "expert", 2)
    bundle = with_phrases(POOR, [general, specific], "cup")
    assert (bundle.product, bundle.texts) == ("cup", ("bright spot", "flaw", "dent"))
    assert [phrase.weight for phrase in bundle.phrases] == [1.0, 0.0, 0.0]
    assert [phrase.text for phrase in bundle.language.specific] == ["dent"]
