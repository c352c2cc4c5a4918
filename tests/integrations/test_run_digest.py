"""What of a run is shown at a glance."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from integrations.finished_run import finished_run
from integrations.run_digest import review_first, thumbnail
from saa_core.errors import StoreError
from tests.labelled_set import LabelledSet, block


def test_the_images_whose_review_tells_most(labelled_set: LabelledSet) -> None:
    labelled_set.add_many(4)
    labelled_set.label({"001.png": [("scratch", block(2, 2)), ("dent", block(7, 7))]})
    run = finished_run(labelled_set.settings, labelled_set.catalog, labelled_set.catalog.run("run1"))
    rows = review_first(run)
    assert sorted(row["image"] for row in rows) == ["000.png", "001.png", "002.png", "003.png"]
    assert [row["priority"] for row in rows] == sorted((row["priority"] for row in rows), reverse=True)
    (found,) = (row for row in rows if row["image"] == "001.png")
    assert (found["regions"], found["to review"], found["labels"]) == (2, 2, "dent, scratch")
    assert review_first(run, most=1) == rows[:1]


def test_of_a_run_without_images(labelled_set: LabelledSet) -> None:
    labelled_set.label({})
    run = finished_run(labelled_set.settings, labelled_set.catalog, labelled_set.catalog.run("run1"))
    assert review_first(run) == []


@pytest.mark.parametrize(("size", "shown"), [((1200, 3000), (192, 480)), ((30, 20), (30, 20))])
def test_a_thumbnail_is_small(tmp_path: Path, size: tuple[int, int], shown: tuple[int, int]) -> None:
    sheet = tmp_path / "sheet.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(sheet)
    uri = thumbnail(sheet)
    kind, _, coded = uri.partition(";base64,")
    assert kind == "data:image/jpeg"
    assert len(coded) < 100_000
    with Image.open(io.BytesIO(base64.b64decode(coded))) as picture:
        assert picture.size == shown[::-1]


def test_a_sheet_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="`saa report` writes it again"):
        thumbnail(tmp_path / "sheet.png")
