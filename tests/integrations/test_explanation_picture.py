"""The picture of an explanation: outlines by fate, numbers that do not hide each other, a legend that counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from integrations.report.explanation import write_explanation
from integrations.report.lettering import font, wrapped
from saa_core import masks
from saa_core.errors import StoreError
from saa_core.explanation import Explanation, explain
from saa_core.prompts import PromptBundle
from saa_core.types import Candidates

SHOWN, PROPERTY, FLOOR, TOP_K, WHITE = (255, 47, 146), (213, 94, 0), (240, 228, 66), (0, 190, 140), (255, 255, 255)
Box = tuple[int, int, int, int]


def explained(boxes: dict[Box, float], size: tuple[int, int] = (60, 80), **sections: object) -> Explanation:
    """Rectangles with a score each, without saliency."""
    found = Candidates(
        image="a",
        height=size[0],
        width=size[1],
        phrases=("anomaly",),
        boxes=np.array(list(boxes), np.float32).reshape(-1, 4),
        scores=np.array(list(boxes.values()), np.float32).reshape(-1, 1),
        masks=tuple(rectangle(*box, size) for box in boxes),
        quality=np.ones(len(boxes), np.float32),
    )
    content = {"language": {"agnostic": ["anomaly"]}, "saliency": {"gain": 0}, **sections}
    bundle = PromptBundle.from_content({"product": "plate", **content})
    return explain(found, np.full((6, 8), 0.5, np.float32), bundle)


def rectangle(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = (60, 80)) -> masks.Rle:
    return masks.encode_crop(np.ones((y1 - y0, x1 - x0), np.bool_), y0, x0, *size)


def drawn(path: Path, explanation: Explanation, experts: tuple[masks.Rle, ...] = ()) -> NDArray[np.uint8]:
    photograph = np.full((explanation.result.map.shape[0] * 10, explanation.result.map.shape[1] * 10, 3), 90, np.uint8)
    with Image.open(write_explanation(explanation, photograph, path / "why.png", "a/b.png", experts)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture)


def has(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    """Pixels of exactly this colour."""
    return int((picture == np.array(colour, np.uint8)).all(axis=-1).sum())


FATES: dict[Box, float] = {
    (5, 5, 25, 20): 0.9,  # shown
    (40, 5, 60, 20): 0.8,  # one too many
    (5, 30, 25, 45): 0.05,  # little confidence
    (2, 1, 79, 59): 0.7,  # too large
}
LIMITS: dict[str, object] = {
    "property": {"area_max": 0.5},
    "confidence": {"top_k": 1, "suppression": 1.0},
    "decision": {"region_floor": 0.2},
}


def test_every_fate_has_its_colour(tmp_path: Path) -> None:
    picture = drawn(tmp_path, explained(FATES, **LIMITS))
    for colour in (SHOWN, PROPERTY, FLOOR, TOP_K):
        assert has(picture, colour) > 300
    # Without candidates no colour but that of the legend's one entry.
    empty = drawn(tmp_path, explained({}))
    assert 0 < has(empty, SHOWN) < 400
    assert has(empty, PROPERTY) == has(empty, FLOOR) == has(empty, TOP_K) == 0


def test_an_outline_lies_on_the_border_of_its_mask(tmp_path: Path) -> None:
    picture = drawn(tmp_path, explained({(20, 15, 60, 45): 0.9}))
    # The photograph is 720 pixels wide, 9 for each of its own, and begins where the frame's corner is.
    left, top = 20, int(np.flatnonzero((picture[:, 30] == 90).all(axis=-1))[0])
    rows, columns = np.nonzero((picture[top : top + 540, left : left + 720] == SHOWN).all(axis=-1))
    inside = rows > 15 * 9 - 8  # the number stands above
    assert abs(columns[inside].min() - 20 * 9) <= 2
    assert abs(columns[inside].max() - 60 * 9) <= 3
    assert abs(rows.max() - 45 * 9) <= 3


def test_an_experts_masks_are_white_on_both(tmp_path: Path) -> None:
    explanation = explained({(20, 15, 60, 45): 0.9})
    without = drawn(tmp_path, explanation)
    picture = drawn(tmp_path, explanation, (rectangle(5, 5, 15, 50),))
    for start in (20, 20 + 720 + 16):
        part = np.s_[60:500, start : start + 200]
        assert has(picture[part], WHITE) > has(without[part], WHITE) + 200


@pytest.mark.parametrize("size", [(60, 80), (20, 200), (200, 20), (10, 10)])
def test_any_shape_of_photograph(tmp_path: Path, size: tuple[int, int]) -> None:
    explanation = explained({(1, 1, 6, 6): 0.9}, size)
    path = write_explanation(explanation, np.full((*size, 3), 90, np.uint8), tmp_path / "why.png", "a.png")
    with Image.open(path) as picture:
        assert picture.width == (760 if size[0] > 5 * size[1] else 1480 if size[1] > 5 * size[0] else 1496)
        # Wide ones have the map below, others on the right.
        assert picture.height > (2 * 144 if size == (20, 200) else 720 * size[0] / max(size)) + 80
        assert has(np.asarray(picture), SHOWN) > 100


def test_many_candidates_at_one_place_and_a_long_answer(tmp_path: Path) -> None:
    boxes = {(x, y, x + 3, y + 3): 0.9 - x / 100 - y / 1000 for x in range(2, 40, 3) for y in range(2, 50, 6)}
    name = "folder/" * 60 + "photograph.png"
    explanation = explained(boxes)
    write_explanation(explanation, np.full((60, 80, 3), 90, np.uint8), tmp_path / "why.png", name)
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.width < 1600


def test_a_legend_goes_on_in_the_next_row(tmp_path: Path) -> None:
    tall = {(x0, 8 * y0, x1, 8 * y1): score for (x0, y0, x1, y1), score in FATES.items()}
    explanation = explained(tall, (480, 80), **LIMITS)
    write_explanation(explanation, np.full((480, 80, 3), 90, np.uint8), tmp_path / "why.png", "a.png")
    with Image.open(tmp_path / "why.png") as picture:
        last = np.asarray(picture)[-46:]  # the last row of the legend and the margin
    assert has(last, SHOWN) == 0
    assert has(last, PROPERTY) > 200


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        drawn(tmp_path / "file", explained({}))


def test_words_are_wrapped_at_a_width() -> None:
    letters = font(15)
    lines = wrapped("a few short words and one averyveryveryverylongoneindeed", 120, letters)
    assert all(letters.getlength(line) <= 120 for line in lines)
    assert " ".join(lines).startswith("a few short words and one")
    assert lines[-1].endswith("…")
