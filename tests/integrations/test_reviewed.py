"""Reviews joined with runs: what counts, what cannot be used and why, and a hash that no order changes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from integrations.catalog import Catalog, RunImage, RunRecord
from integrations.reviewed import ReviewedProduct, reviewed_product
from saa_core.masks import Rle, encode
from saa_core.prompts import PromptBundle
from saa_core.types import ImageRef
from tests.plates import NOON, PRODUCT, said

BUNDLE = PromptBundle(product=PRODUCT)
MODELS = {"generator": "g1", "refiner": "r1", "features": "f1"}


def box(left: int = 0) -> Rle:
    mask = np.zeros((8, 16), np.bool_)
    mask[2:6, left : left + 4] = True
    return encode(mask)


def image(number: int, lot: str | None = None, folder: str = "") -> ImageRef:
    name = f"{number:03}.png"
    return ImageRef(hashlib.sha256(f"{folder}{name}".encode()).hexdigest(), f"/{folder}{name}", (name,), lot)


IMAGES = [image(number, f"lot {number // 2}") for number in range(6)]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with opened(tmp_path / "catalog.sqlite") as found:
        yield found


def opened(path: Path) -> Catalog:
    return Catalog(f"sqlite:///{path}")


def label(
    catalog: Catalog,
    refs: Sequence[ImageRef] = IMAGES,
    run: str = "run1",
    *,
    models: dict[str, str] = MODELS,
    refused: Sequence[ImageRef] = (),
    done: bool = True,
) -> None:
    catalog.add_bundle(BUNDLE, "library")
    catalog.begin_run(RunRecord(run, PRODUCT, BUNDLE.id, "batch", models, "0"))
    rows = [RunImage.of(ref, "labelled", height=8, width=16) for ref in refs]
    catalog.record_images(run, [*rows, *(RunImage.of(ref, "quarantined", reason="no image") for ref in refused)])
    if done:
        counts = {"labelled": len(refs), "reused": 0, "quarantined": len(refused), "regions": 0, "model_calls": 0}
        catalog.finish_run(run, **counts, seconds=1.0)


def joined(catalog: Catalog) -> ReviewedProduct:
    return reviewed_product(catalog, PRODUCT, MODELS)


def used(product: ReviewedProduct) -> list[str]:
    return sorted(each.ref.names[0] for each in product.images)


def test_a_review_finds_its_image_its_lot_and_the_set_it_was_labelled_in(catalog: Catalog) -> None:
    label(catalog)
    catalog.add_reviews([said(IMAGES[1]), said(IMAGES[2], [box(), box(8)])])
    product = joined(catalog)
    found = {each.ref.names[0]: each for each in product.images}
    assert {name: (each.lot, each.run, each.review.finding) for name, each in found.items()} == {
        "001.png": ("lot 0", "run1", "good"),
        "002.png": ("lot 1", "run1", "defective"),
    }
    assert {ref.key for ref in product.sets["run1"]} == {ref.key for ref in IMAGES}
    assert product.lots == {"lot 0": False, "lot 1": True}
    summary = product.summary({})
    assert (summary.defective, summary.good, summary.regions, summary.lots, summary.hash) == (1, 1, 2, 2, product.hash)


def test_nothing_reviewed(catalog: Catalog) -> None:
    label(catalog)
    product = joined(catalog)
    assert (product.images, product.sets, product.words([]), product.unusable) == ((), {}, {}, ())


def test_an_image_without_a_lot_is_its_own(catalog: Catalog) -> None:
    refs = [image(number) for number in range(3)]
    label(catalog, refs)
    catalog.add_reviews([said(ref) for ref in refs])
    assert set(joined(catalog).lots) == {f"image {ref.key[:16]}" for ref in refs}


def test_the_largest_and_then_the_newest_run_of_the_same_models_counts(catalog: Catalog) -> None:
    catalog_runs = {"b": IMAGES, "a": [*IMAGES[:2], *(image(number) for number in range(20, 24))], "c": IMAGES[2:3]}
    for run, refs in catalog_runs.items():
        label(catalog, refs, run)
    label(catalog, IMAGES, "other", models={**MODELS, "generator": "g2"})
    label(catalog, IMAGES, "unfinished", done=False)
    catalog.add_reviews([said(ref) for ref in IMAGES])
    product = joined(catalog)
    assert {each.ref.names[0]: each.run for each in product.images} == {
        ref.names[0]: "a" if ref in IMAGES[:2] else "b" for ref in IMAGES
    }
    assert {run: len(refs) for run, refs in product.sets.items()} == {"a": 6, "b": 6}


@pytest.mark.parametrize("how", ["other models", "not finished", "quarantined"])
def test_an_image_without_a_run_that_can_be_used_is_named(catalog: Catalog, how: str) -> None:
    lone = image(9)
    label(catalog, IMAGES, refused=[lone] if how == "quarantined" else [])
    if how == "other models":
        label(catalog, [lone], "run2", models={**MODELS, "refiner": "r2"})
    if how == "not finished":
        label(catalog, [lone], "run2", done=False)
    catalog.add_reviews([said(IMAGES[0]), said(lone, [box()])])
    product = joined(catalog)
    assert used(product) == ["000.png"]
    assert product.unusable == (("009.png", "no finished run of these models has it; label it again"),)
    assert product.summary({}).unusable == product.unusable


def test_what_says_nothing_counts_nowhere(catalog: Catalog) -> None:
    label(catalog)
    catalog.add_reviews(
        [
            said(IMAGES[0], verdict="defective"),
            said(IMAGES[1], state="skipped"),
            said(IMAGES[2], [box()], verdict="unsure"),
            said(IMAGES[3], [box()], verdict="good"),
            said(IMAGES[4], [box()]),
        ]
    )
    product = joined(catalog)
    assert used(product) == ["004.png"]
    assert product.undrawn == 1
    assert product.unusable == (("003.png", "it is called good and has regions; look at it again"),)


def test_a_contradiction_that_was_taken_back_is_forgotten(catalog: Catalog) -> None:
    label(catalog)
    first, second = said(IMAGES[0], [box()], verdict="good"), said(IMAGES[1], [box()], verdict="good")
    later = NOON + timedelta(days=1)
    withdrawn, repaired = replace(first, state="withdrawn", updated=later), replace(second, verdict=None, updated=later)
    catalog.add_reviews([first, second, withdrawn, repaired])
    product = joined(catalog)
    assert (used(product), product.unusable) == (["001.png"], ())


def test_of_annotators_who_differ_the_newest_counts_and_both_are_named(catalog: Catalog) -> None:
    label(catalog)
    late = NOON + timedelta(days=1)
    catalog.add_reviews(
        [
            said(IMAGES[0], [box()], who="anna"),
            said(IMAGES[0], who="bert", at=late),
            said(IMAGES[1], [box()], who="anna"),
            said(IMAGES[1], [box(8)], who="bert", at=late),
            said(IMAGES[2], [box()], who="anna"),
            said(IMAGES[2], [box()], who="bert", at=late),
        ]
    )
    product = joined(catalog)
    assert {each.ref.names[0]: each.review.annotator for each in product.images} == dict.fromkeys(used(product), "bert")
    assert product.disputed == (
        ("000.png", "good or defective: anna says defective, bert says good"),
        ("001.png", "where the defect is: their masks have an IoU of 0.00"),
    )
    assert product.summary({}).disputed == product.disputed


def test_words_of_experts_are_counted(catalog: Catalog) -> None:
    label(catalog)
    reviews = [
        said(IMAGES[0], [box()], label="scratch", words="deep scratch"),
        said(IMAGES[1], [box(), box(8)], label="scratch"),
        replace(said(IMAGES[2], [box()], label="dent"), words="by the rim"),
        replace(said(IMAGES[3]), words="fine"),
    ]
    catalog.add_reviews(reviews)
    product = joined(catalog)
    everything = [ref.key for ref in IMAGES]
    assert product.words(everything) == {"scratch": 3, "deep scratch": 1, "dent": 1, "by the rim": 1}
    assert product.words(everything[1:]) == {"scratch": 2, "dent": 1, "by the rim": 1}


def test_images_of_one_name_are_told_apart(catalog: Catalog) -> None:
    """Two days' folders have the same file names."""
    today = image(0, folder="today/")
    label(catalog, IMAGES[:1], "run1")
    label(catalog, [today], "run2")
    catalog.add_reviews([said(IMAGES[0]), replace(said(today), id="another")])
    summary = joined(catalog).summary({today.key: "file is gone"})
    assert (summary.good, summary.unusable) == (1, (("000.png", "file is gone"),))


# ------------------------------------------------------------------------------------------------------------ the hash


def test_the_hash_knows_no_order(tmp_path: Path) -> None:
    reviews = [said(ref, [box(2 * number)][: number % 2]) for number, ref in enumerate(IMAGES)]
    hashes = set()
    for number in range(4):
        shuffled = random.Random(number).sample(reviews, len(reviews))
        with opened(tmp_path / f"{number}.sqlite") as catalog:
            label(catalog, random.Random(number).sample(IMAGES, len(IMAGES)), f"run {number}")
            for review in shuffled:
                catalog.add_reviews([review])
            hashes.add(joined(catalog).hash)
    assert len(hashes) == 1


def test_the_hash_knows_what_was_said_of_what(tmp_path: Path) -> None:
    review, later = said(IMAGES[0]), NOON + timedelta(days=1)
    elsewhere = replace(IMAGES[0], lot="another lot")
    cases = [
        (IMAGES, [review]),
        (IMAGES, [said(IMAGES[1])]),
        (IMAGES, [review, said(IMAGES[1])]),
        (IMAGES, [review, replace(review, updated=later)]),
        (IMAGES[:3], [review]),
        ([elsewhere, *IMAGES[1:]], [review]),
    ]
    hashes = []
    for number, (refs, reviews) in enumerate(cases):
        with opened(tmp_path / f"{number}.sqlite") as catalog:
            label(catalog, refs)
            catalog.add_reviews(reviews)
            hashes.append(joined(catalog).hash)
    assert len(set(hashes)) == len(cases)
    assert {len(each) for each in hashes} == {16}
