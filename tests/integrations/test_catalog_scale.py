"""Every question that a command asks of the catalog, asked of one with 100,000 images."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert

from integrations.catalog import Catalog, RunRecord
from integrations.catalog.models import Base, Image, ImageName, PredictionRow, ReviewRow, Run, RunImageRow, Target
from integrations.catalog.tables import Row
from saa_core.prompts import PromptBundle

PRODUCTS, RUNS, IMAGES = 20, 10, 500
"""Of the catalog, of a product, of a run: 100,000 images, a tenth of them reviewed."""
BUNDLE = PromptBundle(product="product 7")
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
LIMIT = 0.05
RUN, PRODUCT, TARGET = "run-7-3", "product 7", "target 7"
KEYS = [f"7-3-{number:03}".rjust(64, "0") for number in range(IMAGES)]


def rows() -> Iterator[tuple[type[Base], list[Row]]]:
    """A table and rows of it, run by run."""
    for product in range(PRODUCTS):
        name, target = f"product {product}", f"target {product}"
        yield Target, [{"product": name, "service": "label-studio", "server": "http://s", "target": target}]
        for run in range(RUNS):
            identity, at = f"run-{product}-{run}", NOON + timedelta(days=run)
            keys = [f"{product}-{run}-{number:03}".rjust(64, "0") for number in range(IMAGES)]
            names = [f"{run}/{number:03}.png" for number in range(IMAGES)]
            counts = dict.fromkeys(("labelled", "reused", "quarantined", "regions", "model_calls", "seconds"), 1)
            about = {"profile": "batch", "models": {}, "setup": {}, "code": "1", "source": "images", "state": "done"}
            ids = {"id": identity, "product": name, "bundle_id": BUNDLE.id, "created": at, "finished": at}
            yield Run, [{**ids, **about, **counts}]
            yield Image, [{"key": key, "height": 256, "width": 256, "bytes": 9} for key in keys]
            each = list(zip(keys, names, strict=True))
            place = {"product": name, "lot": f"lot {run}", "uri": "/data/x.png"}
            yield ImageName, [{**place, "name": file, "image_key": key} for key, file in each]
            said = {"run_id": identity, "state": "labelled", "reason": "", "score": 0.5, "regions": 1}
            yield RunImageRow, [{**said, "name": file, "image_key": key, "names": [file]} for key, file in each]
            sent = {"target": target, "version": "v1", "run": identity, "bundle": BUNDLE.id, "task": 1, "aided": True}
            sent |= {"priority": 0.5, "regions": [], "pushed": at}
            yield PredictionRow, [{**sent, "image_key": key} for key in keys]
            review = {"source": target, "updated": at, "state": "submitted", "product": name, "annotator": "anna"}
            review |= {"verdict": "good", "words": "", "lead_seconds": 9.0, "aided": True, "regions": []}
            yield ReviewRow, [{**review, "id": f"{run}-{key}", "image_key": key} for key in keys[:: IMAGES // 50]]


@pytest.fixture
def large(catalog_url: str) -> Iterator[Catalog]:
    with Catalog(catalog_url) as catalog:
        catalog.add_bundle(BUNDLE)
        with catalog._writing() as session:
            for table, some in rows():
                session.execute(insert(table), some)
        yield catalog


QUESTIONS: dict[str, Callable[[Catalog], object]] = {
    "run": lambda catalog: catalog.run(RUN),
    "find_run": lambda catalog: catalog.find_run(RUN),
    "latest_run": lambda catalog: catalog.latest_run(PRODUCT, state="done"),
    "products": lambda catalog: catalog.products(),
    "runs": lambda catalog: catalog.runs(PRODUCT),
    "images_of": lambda catalog: catalog.images_of(RUN),
    "runs_of": lambda catalog: catalog.runs_of(PRODUCT, KEYS),
    "keys_by_run": lambda catalog: catalog.keys_by_run(PRODUCT),
    "refs": lambda catalog: catalog.refs(PRODUCT, KEYS),
    "lots": lambda catalog: catalog.lots(PRODUCT, KEYS),
    "sizes": lambda catalog: catalog.sizes(KEYS),
    "names": lambda catalog: catalog.names(PRODUCT, KEYS),
    "target": lambda catalog: catalog.target(PRODUCT, "label-studio", "http://s"),
    "pushed": lambda catalog: catalog.pushed(TARGET),
    "predictions": lambda catalog: catalog.predictions(TARGET, KEYS),
    "sent": lambda catalog: catalog.sent(PRODUCT),
    "review_keys": lambda catalog: catalog.review_keys(TARGET, KEYS),
    "reviews": lambda catalog: catalog.reviews(PRODUCT),
    "count_reviews": lambda catalog: catalog.count_reviews(PRODUCT),
    "reviewed": lambda catalog: catalog.reviewed(PRODUCT),
    "annotators": lambda catalog: catalog.annotators(PRODUCT, KEYS),
    "image_states": lambda catalog: catalog.image_states(),
    "run_totals": lambda catalog: catalog.run_totals(),
    "unfinished_runs": lambda catalog: catalog.unfinished_runs(),
    "count_images": lambda catalog: catalog.count_images(RUN),
    "champion": lambda catalog: catalog.champion(PRODUCT),
    "bundle": lambda catalog: catalog.bundle(BUNDLE.id),
    "promotions": lambda catalog: catalog.promotions(PRODUCT),
    "holdout": lambda catalog: catalog.holdout(PRODUCT),
}


LARGE = ("images", "image_names", "run_images", "predictions", "reviews")


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_question_reads_a_large_table_from_end_to_end(tmp_path: Path, question: str) -> None:
    with Catalog(f"sqlite:///{tmp_path / 'catalog.sqlite'}") as catalog:
        catalog.add_bundle(BUNDLE)
        catalog.begin_run(RunRecord(RUN, PRODUCT, BUNDLE.id, "batch", {}, "1"))
        asked: list[tuple[str, Any]] = []
        event.listen(catalog._engine, "before_cursor_execute", lambda *told: asked.append((told[2], told[3])))
        QUESTIONS[question](catalog)
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as raw:
        selects = [each for each in asked if each[0].startswith("SELECT")]
        steps = [row[3] for each in selects for row in raw.execute(f"EXPLAIN QUERY PLAN {each[0]}", each[1])]
    assert steps
    assert not [step for step in steps if step.startswith(tuple(f"SCAN {table}" for table in LARGE))]


@pytest.mark.slow
def test_no_question_takes_long(large: Catalog) -> None:
    took = {}
    for name, ask in QUESTIONS.items():
        ask(large)
        took[name] = min(seconds(ask, large) for _ in range(10))
    assert {name: round(value, 3) for name, value in took.items() if value > LIMIT} == {}


def seconds(ask: Callable[[Catalog], object], catalog: Catalog) -> float:
    # SQLite works in this process, where other load on the machine can be told apart; PostgreSQL does not.
    clock = time.process_time if "sqlite" in repr(catalog) else time.perf_counter
    started = clock()
    ask(catalog)
    return clock() - started
