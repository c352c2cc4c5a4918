import json
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from integrations.catalog import Catalog, PredictionRecord, Pushed, ReviewKey, RunImage, RunRecord
from saa_core.errors import StoreError
from saa_core.masks import Rle, encode, to_string
from saa_core.prompts import PromptBundle
from saa_core.reviews import PredictedRegion, RegionReview, Review, ReviewedRegion, compare, evidence

ROOT = Path(__file__).parents[2]
BUNDLE = PromptBundle(product="bottle")
RUN = RunRecord("abc1", "bottle", BUNDLE.id, "batch", {}, "0.1.0")
A, B, UNREAD = "a" * 64, "b" * 64, "c" * 64
NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
TARGET = "label-studio http://127.0.0.1:8080 project 7"


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'catalog.sqlite'}"


def open_catalog(address: str) -> Catalog:
    catalog = Catalog(address)
    catalog.add_bundle(BUNDLE)
    catalog.begin_run(RUN)
    images = [RunImage(f"{key[0]}.png", "labelled", key=key, height=4, width=5) for key in (A, B)]
    catalog.record_images("abc1", [*images, RunImage("c.png", "quarantined", key=UNREAD)])
    return catalog


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    with open_catalog(catalog_url) as opened:
        yield opened


def mask(seed: int) -> Rle:
    return encode(np.random.default_rng(seed).random((4, 5)) < 0.4)


SHOWN = tuple(PredictedRegion(f"r{n}", "defect", f"phrase {n} ü", n / 7, mask(n)) for n in range(3))
LEFT = (
    ReviewedRegion("r0", "defect", mask(0)),
    ReviewedRegion("r1", "crack", mask(5), "a thin 'crack'"),
    ReviewedRegion("new", "defect", mask(6)),
    ReviewedRegion("other", "defect", mask(7), "\u2028"),
)
REVIEW = Review(
    product="bottle",
    image=A,
    source=TARGET,
    id="17",
    state="submitted",
    annotator="expert@example.com",
    updated=NOON,
    verdict="defective",
    words="two of them",
    lead_seconds=12.75,
    run="abc1",
    bundle=BUNDLE.id,
    aided=True,
    regions=compare(SHOWN, LEFT),
)
PLAIN = replace(
    REVIEW, id="18", verdict=None, words="", lead_seconds=None, run=None, bundle=None, aided=False, regions=()
)
PREDICTION = PredictionRecord(TARGET, A, "abc1", BUNDLE.id, "v1", 3, True, 0.25, SHOWN, NOON)


# -------------------------------------------------------------------------------------------------------------- reviews


def test_reviews_come_back_as_they_were_given(catalog: Catalog) -> None:
    assert catalog.add_reviews([REVIEW, PLAIN]) == 2
    assert catalog.reviews("bottle") == (REVIEW, PLAIN)
    assert catalog.reviews("screw") == ()


def test_which_images_have_a_review(catalog: Catalog) -> None:
    assert catalog.reviewed("bottle") == ()
    catalog.add_reviews([replace(REVIEW, image=B, id="19", state="skipped"), REVIEW, PLAIN])
    assert catalog.reviewed("bottle") == tuple(sorted((A, B)))
    assert catalog.reviewed("screw") == ()


masks = st.builds(mask, st.integers(0, 2**32 - 1))
predictions = st.none() | st.builds(
    PredictedRegion, id=st.text(), label=st.text(), phrase=st.text(), score=st.floats(0, 1), mask=masks
)
leftovers = st.none() | st.builds(
    ReviewedRegion, id=st.none() | st.text(), label=st.text(), mask=masks, words=st.text()
)
overlaps = st.none() | st.floats(0, 1)


region_reviews = st.builds(RegionReview, st.just("adjusted"), predictions, leftovers, overlaps)


def untouched(region: RegionReview) -> RegionReview:
    """The same with the mask that was shown."""
    if region.predicted is None or region.reviewed is None:
        return region
    return replace(region, reviewed=replace(region.reviewed, mask=region.predicted.mask))


@pytest.fixture(scope="module")
def large_catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    with open_catalog(url(tmp_path_factory.mktemp("large"))) as opened:
        yield opened


@given(st.lists(region_reviews | region_reviews.map(untouched)))
def test_any_regions_come_back(large_catalog: Catalog, regions: list[RegionReview]) -> None:
    product = uuid.uuid4().hex
    large_catalog.add_reviews([replace(REVIEW, product=product, id=product, regions=tuple(regions))])
    assert [review.regions for review in large_catalog.reviews(product)] == [tuple(regions)]


def test_a_review_is_known_by_its_annotation_time_and_state(catalog: Catalog) -> None:
    versions = [
        REVIEW,
        replace(REVIEW, updated=NOON + timedelta(microseconds=1)),
        replace(REVIEW, state="withdrawn"),
        replace(REVIEW, id="19"),
        replace(REVIEW, source="masks"),
    ]
    assert catalog.add_reviews(versions[:2]) == 2
    assert catalog.add_reviews([*versions, *versions]) == 3
    assert catalog.add_reviews(versions) == 0
    assert set(catalog.reviews("bottle")) == set(versions)


def test_a_review_that_is_there_stays_as_it_is(catalog: Catalog) -> None:
    catalog.add_reviews([REVIEW])
    assert catalog.add_reviews([replace(REVIEW, words="something else", regions=())]) == 0
    assert catalog.reviews("bottle") == (REVIEW,)


def test_one_moment_in_two_time_zones(catalog: Catalog) -> None:
    catalog.add_reviews([REVIEW])
    elsewhere = replace(REVIEW, updated=NOON.astimezone(timezone(timedelta(hours=-9))))
    assert catalog.add_reviews([elsewhere]) == 0


def test_reviews_are_oldest_first_however_they_came(catalog: Catalog) -> None:
    early, late = (replace(REVIEW, updated=NOON + timedelta(days=days)) for days in (-1, 1))
    early = replace(early, source="screen")
    catalog.add_reviews([late])
    catalog.add_reviews([REVIEW, early])
    assert catalog.reviews("bottle") == (early, REVIEW, late)


def test_a_mask_that_was_left_alone_is_kept_once(catalog: Catalog, tmp_path: Path) -> None:
    catalog.add_reviews([replace(REVIEW, regions=compare(SHOWN[:1], LEFT[:1]))])
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as raw:
        ((stored,),) = raw.execute("SELECT regions FROM reviews")
    assert stored.count(json.dumps(to_string(mask(0)))) == 1


@pytest.mark.parametrize("statement", ["UPDATE reviews SET words = 'mine'", "DELETE FROM reviews"])
def test_the_database_itself_keeps_reviews_as_they_are(catalog: Catalog, tmp_path: Path, statement: str) -> None:
    catalog.add_reviews([REVIEW])
    with (
        closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as raw,
        pytest.raises(sqlite3.Error, match="never changed"),
    ):
        raw.execute(statement)
    assert catalog.reviews("bottle") == (REVIEW,)


# --------------------------------------------------------------------------------------------------- reviews and cursor


def test_a_cursor_moves_with_its_reviews(catalog: Catalog) -> None:
    assert catalog.cursor(TARGET) is None
    assert catalog.add_reviews([REVIEW], cursor=(TARGET, "10")) == 1
    assert catalog.add_reviews([], cursor=(TARGET, "11")) == 0
    assert catalog.add_reviews([PLAIN], cursor=("other", "5")) == 1
    assert (catalog.cursor(TARGET), catalog.cursor("other")) == ("11", "5")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (replace(PLAIN, image="z" * 64), "(?i)foreign key"),
        (replace(PLAIN, annotator=None), "(?i)not.null"),  # type: ignore[arg-type]
    ],
)
def test_a_review_that_cannot_be_stored_leaves_all_as_it_was(catalog: Catalog, bad: Review, reason: str) -> None:
    catalog.add_reviews([], cursor=(TARGET, "10"))
    with pytest.raises(StoreError, match=reason):
        catalog.add_reviews([REVIEW, bad], cursor=(TARGET, "11"))
    assert catalog.reviews("bottle") == ()
    assert catalog.cursor(TARGET) == "10"


def test_a_source_of_reviews_that_fails_leaves_all_as_it_was(catalog: Catalog) -> None:
    def reviews() -> Iterator[Review]:
        yield REVIEW
        raise StoreError("screen", "went away")

    with pytest.raises(StoreError, match="went away"):
        catalog.add_reviews(reviews(), cursor=(TARGET, "11"))
    assert (catalog.reviews("bottle"), catalog.cursor(TARGET)) == ((), None)


def test_a_cursor_that_cannot_be_stored_takes_its_reviews_along(catalog: Catalog) -> None:
    with pytest.raises(StoreError, match=r"(?i)not.null"):
        catalog.add_reviews([REVIEW], cursor=(TARGET, None))  # type: ignore[arg-type]
    assert catalog.reviews("bottle") == ()


@contextmanager
def every_connection(pragma: str) -> Iterator[None]:
    """A state of the file system, as SQLite would find it on each new connection."""

    def on_connect(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(pragma)

    event.listen(Engine, "connect", on_connect)
    try:
        yield
    finally:
        event.remove(Engine, "connect", on_connect)


@pytest.mark.parametrize(
    ("pragma", "reason"),
    [
        ("PRAGMA max_page_count = 1", "database or disk is full; free some space, then run again"),
        ("PRAGMA query_only = ON", "attempt to write a readonly database"),
    ],
)
def test_a_full_or_read_only_disk(catalog: Catalog, tmp_path: Path, pragma: str, reason: str) -> None:
    catalog.add_reviews([REVIEW], cursor=(TARGET, "10"))
    many = [replace(REVIEW, id=str(n + 100), words="x" * 5000) for n in range(20)]
    with every_connection(pragma), Catalog(url(tmp_path)) as full, pytest.raises(StoreError, match=reason):
        full.add_reviews(many, cursor=(TARGET, "11"))
    assert (catalog.reviews("bottle"), catalog.cursor(TARGET)) == ((REVIEW,), "10")
    assert catalog.add_reviews(many, cursor=(TARGET, "11")) == 20


WRITER = """
import sys
from datetime import UTC, datetime
from integrations.catalog import Catalog
from saa_core.reviews import Review

def review(number):
    image, when = "ab"[number % 2] * 64, datetime(2026, 3, 1, tzinfo=UTC)
    said = "submitted", "ann", when, None, "", None, None, None, True, ()
    return Review("bottle", image, "screen", str(number), *said)

with Catalog(sys.argv[1]) as catalog:
    print("ready", flush=True)
    sys.stdin.readline()
    new = 0
    for start in range(0, 100, 10):
        new += catalog.add_reviews(map(review, range(start, start + 10)), cursor=("shared", str(start)))
    print(new)
"""


def test_two_processes_add_the_same_reviews_once(catalog: Catalog, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, url(tmp_path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    writers = [subprocess.Popen(command, **pipes) for _ in range(2)]
    assert [writer.stdout.readline() for writer in writers if writer.stdout] == ["ready\n"] * 2
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    new = [int(writer.communicate(timeout=120)[0]) for writer in writers]
    assert sum(new) == 100
    assert len(catalog.reviews("bottle")) == 100
    assert catalog.cursor("shared") == "90"


def test_evidence_of_stored_reviews(catalog: Catalog) -> None:
    good = replace(PLAIN, image=B)
    later = replace(REVIEW, updated=NOON + timedelta(hours=1), regions=compare(SHOWN, LEFT[:1]))
    catalog.add_reviews([later, good, REVIEW])
    assert evidence(catalog.reviews("bottle")) == {A: later, B: good}


def test_which_versions_are_known(catalog: Catalog) -> None:
    later = replace(REVIEW, state="withdrawn", updated=NOON + timedelta(days=1))
    catalog.add_reviews([later, REVIEW, replace(PLAIN, image=B), replace(REVIEW, source="masks")])
    keys = [
        ReviewKey(A, "17", NOON, "submitted", REVIEW.annotator),
        ReviewKey(B, "18", NOON, "submitted", REVIEW.annotator),
        ReviewKey(A, "17", later.updated, "withdrawn", REVIEW.annotator),
    ]
    assert list(catalog.review_keys(TARGET)) == keys
    assert list(catalog.review_keys(TARGET, images=[A])) == [keys[0], keys[2]]
    assert catalog.review_keys("elsewhere") == ()


# ---------------------------------------------------------------------------------------------------------- predictions


def test_predictions_come_back_as_they_were_given(catalog: Catalog) -> None:
    blind = replace(PREDICTION, image=B, task=5, aided=False, pushed=NOON - timedelta(days=1))
    catalog.record_predictions([PREDICTION, blind])
    assert catalog.predictions(TARGET) == (blind, PREDICTION)
    assert catalog.pushed(TARGET) == (Pushed(B, "v1", 5, False), Pushed(A, "v1", 3, True))
    assert catalog.predictions("elsewhere") == ()


def test_a_prediction_noted_again_is_replaced(catalog: Catalog) -> None:
    other = replace(PREDICTION, version="v2", pushed=NOON + timedelta(days=1))
    catalog.record_predictions([PREDICTION, other])
    better = replace(PREDICTION, task=30, priority=1.0, regions=SHOWN[:1])
    catalog.record_predictions([better])
    assert catalog.predictions(TARGET) == (better, other)


def test_predictions_are_noted_whole_or_not_at_all(catalog: Catalog) -> None:
    with pytest.raises(StoreError, match=r"(?i)foreign key"):
        catalog.record_predictions([PREDICTION, replace(PREDICTION, image="z" * 64)])
    assert catalog.predictions(TARGET) == ()
    catalog.record_predictions([])


# --------------------------------------------------------------------------------------------------- targets and images


def test_a_target_is_remembered_for_each_product_and_server(catalog: Catalog) -> None:
    assert catalog.target("bottle", "label-studio", "http://one") is None
    catalog.remember_target("bottle", "label-studio", "http://one", "7")
    catalog.remember_target("bottle", "label-studio", "http://two", "8")
    catalog.remember_target("screw", "label-studio", "http://one", "9")
    catalog.remember_target("bottle", "label-studio", "http://one", "10")
    asked = [("bottle", "http://one"), ("bottle", "http://two"), ("screw", "http://one"), ("screw", "http://two")]
    assert [catalog.target(product, "label-studio", server) for product, server in asked] == ["10", "8", "9", None]


def test_the_sizes_of_those_that_have_one(catalog: Catalog) -> None:
    assert catalog.sizes([A, B, UNREAD, "z" * 64]) == {A: (4, 5), B: (4, 5)}
    assert catalog.sizes([]) == {}


def test_more_images_than_a_statement_takes(catalog: Catalog) -> None:
    reviews = (REVIEW, replace(PLAIN, image=B, updated=NOON - timedelta(days=1)))
    catalog.add_reviews(reviews)
    catalog.record_predictions([PREDICTION, replace(PREDICTION, image=B, pushed=NOON - timedelta(days=1))])
    many = [A, *(f"{n:064}" for n in range(70_000)), B]
    assert catalog.sizes(many).keys() == {A, B}
    assert [review.image for review in catalog.reviews("bottle", many)] == [B, A]
    assert [key.image for key in catalog.review_keys(TARGET, many)] == [B, A]
    assert [record.image for record in catalog.predictions(TARGET, many)] == [B, A]


@pytest.mark.parametrize("images", [[], [A], [A, B], [UNREAD]])
def test_what_is_known_of_some_images(catalog: Catalog, images: list[str]) -> None:
    catalog.add_reviews([REVIEW, replace(PLAIN, image=B)])
    catalog.record_predictions([PREDICTION, replace(PREDICTION, image=B)])
    found = [image for image in images if image != UNREAD]
    assert [review.image for review in catalog.reviews("bottle", images)] == found
    assert [record.image for record in catalog.predictions(TARGET, images)] == found


Question = Callable[[Catalog], object]


@pytest.mark.parametrize(
    ("table", "ask"),
    [
        ("reviews", lambda catalog: catalog.reviews("bottle")),
        ("predictions", lambda catalog: catalog.predictions(TARGET)),
        ("cursors", lambda catalog: catalog.cursor(TARGET)),
        ("targets", lambda catalog: catalog.target("bottle", "label-studio", "http://one")),
    ],
)
def test_a_catalog_that_loses_its_tables(catalog: Catalog, tmp_path: Path, table: str, ask: Question) -> None:
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as raw:
        raw.execute(f"DROP TABLE {table}")
    with pytest.raises(StoreError, match=f"the catalog cannot be used: no such table: {table}"):
        ask(catalog)
