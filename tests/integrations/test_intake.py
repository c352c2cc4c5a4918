"""What counts as new, what is counted of it, and what a person is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from integrations.catalog import Catalog, RunImage, RunRecord
from integrations.intake import Intake
from integrations.label_studio.pull import PullReport
from saa_core.errors import StoreError
from saa_core.masks import Rle, encode
from saa_core.prompts import PromptBundle
from saa_core.reviews import PredictedRegion, Review, ReviewedRegion, compare
from saa_core.types import ImageRef

BUNDLE = PromptBundle(product="cap")
REFS = [ImageRef(f"{number}" * 64, f"/data/{number}.png", (f"{number}.png",)) for number in range(3)]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def mask(top: int) -> Rle:
    pixels = np.zeros((12, 16), np.bool_)
    pixels[top : top + 4, 2:8] = True
    return encode(pixels)


SHOWN = (PredictedRegion("a", "scratch", "scratch", 0.9, mask(0)), PredictedRegion("b", "dent", "dent", 0.5, mask(6)))
KEPT = (ReviewedRegion("a", "scratch", mask(0)),)
"""The first region accepted, the second rejected."""

ACCEPTED_ONE = Review(
    product="cap",
    image=REFS[0].key,
    source="ls",
    id="1/1",
    state="submitted",
    annotator="ann",
    updated=NOON,
    verdict=None,
    words="",
    lead_seconds=3.0,
    run="run1",
    bundle=BUNDLE.id,
    aided=True,
    regions=compare(SHOWN, KEPT),
)
SKIPPED = replace(ACCEPTED_ONE, image=REFS[1].key, id="2/2", state="skipped", regions=())
GOOD = replace(ACCEPTED_ONE, image=REFS[2].key, id="3/3", regions=compare(SHOWN, ()))


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(f"sqlite:///{tmp_path / 'catalog.sqlite'}") as made:
        made.add_bundle(BUNDLE)
        made.begin_run(RunRecord("run1", "cap", BUNDLE.id, "batch", {}, "0"))
        made.record_images("run1", [RunImage.of(ref, "labelled", height=12, width=16) for ref in REFS])
        yield made


def taken(catalog: Catalog, *reviews: Review) -> Intake:
    intake = Intake()
    intake.store(catalog, "ls", reviews)
    return intake


def test_what_is_new_is_counted_and_kept(catalog: Catalog) -> None:
    found = taken(catalog, ACCEPTED_ONE, SKIPPED, GOOD)
    assert found.states == {"submitted": 2, "skipped": 1}
    assert found.findings == {"defective": 1, "good": 1}
    assert found.outcomes == {"accepted": 1, "rejected": 3}
    assert found.sentence() == (
        "3 new reviews: 1 skipped, 2 submitted; images: 1 good, 1 defective, 0 undecided; "
        "regions: 1 accepted, 3 rejected"
    )
    assert found.remarks() == []
    assert sorted(catalog.reviews("cap"), key=lambda review: review.id) == [ACCEPTED_ONE, SKIPPED, GOOD]


def test_the_same_again_is_nothing_new(catalog: Catalog) -> None:
    taken(catalog, ACCEPTED_ONE, SKIPPED)
    again = taken(catalog, SKIPPED, ACCEPTED_ONE)
    assert again == Intake()
    assert again.sentence() == "nothing new"
    assert taken(catalog).sentence() == "nothing new"


@pytest.mark.parametrize(
    "changed",
    [
        {"updated": NOON + timedelta(seconds=1)},
        {"id": "1/2"},
        {"state": "withdrawn", "regions": ()},
    ],
)
def test_another_version_or_annotation_is_new(catalog: Catalog, changed: dict[str, object]) -> None:
    taken(catalog, ACCEPTED_ONE)
    assert taken(catalog, ACCEPTED_ONE, replace(ACCEPTED_ONE, **changed)).states.total() == 1  # type: ignore[arg-type]
    assert len(catalog.reviews("cap")) == 2


def test_the_same_id_in_another_source_is_another_review(catalog: Catalog) -> None:
    taken(catalog, ACCEPTED_ONE)
    elsewhere = Intake()
    elsewhere.store(catalog, "masks", [replace(ACCEPTED_ONE, source="masks")])
    assert elsewhere.states == {"submitted": 1}


def test_what_says_nothing_of_its_image_is_counted_as_that(catalog: Catalog) -> None:
    unsure = replace(ACCEPTED_ONE, verdict="unsure")
    contradictory = replace(GOOD, verdict="good", regions=compare(SHOWN, KEPT))
    assert taken(catalog, unsure, contradictory).findings == {"nothing": 2}


def test_of_images_that_were_shown_bare_no_region_counts_as_rejected(catalog: Catalog) -> None:
    found = taken(catalog, replace(ACCEPTED_ONE, aided=False), replace(SKIPPED, aided=False), GOOD)
    assert found.unaided == 1
    assert found.outcomes == {"rejected": 2}
    assert found.remarks() == ["1 images were reviewed without having been shown masks, on purpose"]
    assert "regions: none" in taken(catalog, replace(GOOD, id="3/4", aided=False)).sentence()


def test_disagreement_is_found_between_what_is_new_and_what_was_there(catalog: Catalog) -> None:
    assert taken(catalog, ACCEPTED_ONE, GOOD).disagreements == ()
    other = replace(GOOD, image=REFS[0].key, id="1/7", annotator="bob", updated=NOON + timedelta(hours=1))
    found = taken(catalog, other)
    (disagreement,) = found.disagreements
    assert (disagreement.image, disagreement.annotators) == ("0.png", ("ann", "bob"))
    assert found.remarks() == ["annotators differ on 0.png: good or defective: ann says defective, bob says good"]
    assert taken(catalog, other).disagreements == ()  # told once


def test_pages_add_up(catalog: Catalog) -> None:
    intake = Intake(refused=[("x.png", "damaged")])
    for review in (ACCEPTED_ONE, SKIPPED, GOOD):
        intake.store(catalog, "ls", [review])
    assert intake.states == {"submitted": 2, "skipped": 1}
    assert intake.outcomes == {"accepted": 1, "rejected": 3}


def test_all_or_nothing(catalog: Catalog) -> None:
    intake = Intake()
    with pytest.raises(StoreError):
        intake.store(catalog, "ls", [ACCEPTED_ONE, replace(GOOD, image="f" * 64)])
    assert catalog.reviews("cap") == ()
    assert intake == Intake()


def test_as_a_dictionary_it_is_json(catalog: Catalog) -> None:
    report = PullReport(project=7, refused=[("task/annotation 9/9", "cannot be read")], vanished=["0" * 64])
    report.store(catalog, "ls", [ACCEPTED_ONE, replace(GOOD, image=REFS[0].key, id="1/7", annotator="bob")])
    assert json.loads(json.dumps(report.as_dict())) == {
        "states": {"submitted": 2},
        "findings": {"defective": 1, "good": 1},
        "outcomes": {"accepted": 1, "rejected": 3},
        "unaided": 0,
        "contradictory": [],
        "refused": [["task/annotation 9/9", "cannot be read"]],
        "disagreements": [
            {
                "image": "0.png",
                "annotators": ["ann", "bob"],
                "reason": "good or defective: ann says defective, bob says good",
            }
        ],
        "project": 7,
        "vanished": ["0" * 64],
        "ignored": 0,
        "foreign": 0,
    }
