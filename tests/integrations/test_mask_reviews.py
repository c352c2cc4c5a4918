import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from integrations.catalog import Catalog, RunImage, RunRecord
from integrations.mask_reviews import MaskReviews, _components, read_masks
from integrations.outputs import RunFolder
from saa_core.errors import DatasetError, StoreError
from saa_core.masks import decode, encode, union
from saa_core.prompts import PromptBundle
from saa_core.reviews import Review, evidence
from saa_core.types import AnomalyResult, BoolMask, ImageRef, Region

BUNDLE = PromptBundle(product="bottle")
RUN = RunRecord("abc1", "bottle", BUNDLE.id, "batch", {}, "0.1.0")
SIZE = (12, 16)
WHEN = 1_770_000_000.25


def block(top: int, left: int, height: int = 3, width: int = 4) -> BoolMask:
    mask = np.zeros(SIZE, np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


def ref(*names: str) -> ImageRef:
    return ImageRef(names[0].encode().hex().ljust(64, "0"), f"/data/{names[0]}", names)


def region(mask: BoolMask) -> Region:
    rle = encode(mask)
    x0, y0, x1, y1 = map(float, rle.box)
    return Region(rle, (x0, y0, x1, y1), "scratch", 1.25, 0.5, {"scratch": 0.5}, 0.75, rle.area, 0)


TWO, NONE, TOUCHING, TWINS = ref("sub/a.jpg"), ref("b.png"), ref("touching.png"), ref("c.jpg", "copy/c.jpg")
SAME_STEM = ref("d.jpg"), ref("d.png")
NESTED = ref("n.bmp"), ref("n.bmp.png")
REGIONS = {TWO: [block(0, 0), block(6, 8)], TOUCHING: [block(0, 0), block(3, 4), block(2, 2)]}
REFS = (TWO, NONE, TOUCHING, TWINS, *SAME_STEM, *NESTED)


@dataclass(frozen=True)
class Place:
    """A workspace with one finished run, and a folder for masks."""

    catalog: Catalog
    runs: Path
    masks: Path

    def put(self, name: str, pixels: np.ndarray[Any, Any] | PIL.Image.Image, **options: Any) -> None:
        path = self.masks / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)
        picture.save(path, **options)
        os.utime(path, (WHEN, WHEN))

    def read(self) -> MaskReviews:
        return read_masks(self.masks, "bottle", self.catalog, self.runs)

    def only(self) -> Review:
        found = self.read()
        assert found.refused == ()
        (review,) = found.reviews
        return review

    def refusal(self) -> str:
        found = self.read()
        assert found.reviews == ()
        ((_, reason),) = found.refused
        return reason


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Catalog(f"sqlite:///{tmp_path / 'catalog.sqlite'}") as catalog:
        catalog.add_bundle(BUNDLE)
        begin(catalog, tmp_path / "runs", "abc1", REGIONS)
        yield Place(catalog, tmp_path / "runs", tmp_path / "drawn")


def begin(catalog: Catalog, runs: Path, run: str, regions: dict[ImageRef, list[BoolMask]]) -> None:
    catalog.begin_run(RunRecord(run, "bottle", BUNDLE.id, "batch", {}, "0.1.0"))
    catalog.record_images(run, [RunImage.of(each, "labelled", height=SIZE[0], width=SIZE[1]) for each in REFS])
    folder = RunFolder(runs / run, [name for each in REFS for name in each.names])
    for each in REFS:
        shown = tuple(region(mask) for mask in regions.get(each, []))
        folder.write(each, AnomalyResult(each.key, BUNDLE.id, np.zeros((3, 4), np.float32), True, 0, shown, {}), SIZE)
    folder.close(REFS, {"id": run})
    catalog.finish_run(run, labelled=5, reused=0, quarantined=0, regions=5, model_calls=0, seconds=1)


def grey(mask: BoolMask, value: int = 255) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return (mask * value).astype(np.uint8)


# -------------------------------------------------------------------------------------------------------------- reviews


def test_a_mask_is_a_review_of_its_image(place: Place) -> None:
    drawn = block(0, 0) | block(9, 12)
    place.put("sub/a.png", grey(drawn))
    review = place.only()
    assert (review.product, review.image, review.source, review.state) == ("bottle", TWO.key, "masks", "submitted")
    assert (review.run, review.bundle, review.aided) == ("abc1", BUNDLE.id, True)
    assert review.updated == datetime.fromtimestamp(WHEN, UTC)
    assert [region.outcome for region in review.regions] == ["accepted", "rejected", "added"]
    np.testing.assert_array_equal(decode(union(review.masks)), drawn)
    shown = review.regions[0].predicted
    assert shown is not None
    assert (shown.phrase, shown.score, shown.label) == ("scratch", 0.5, "defect")


def test_a_border_that_was_redrawn(place: Place) -> None:
    place.put("sub/a.png", grey(block(0, 0, 3, 5) | block(6, 8)))
    assert [(region.outcome, region.iou) for region in place.only().regions] == [("adjusted", 0.8), ("accepted", 1.0)]


@pytest.mark.parametrize("name", ["b.png", "sub/a.png"])
def test_an_empty_mask_says_good(place: Place, name: str) -> None:
    place.put(name, grey(block(0, 0), 0))
    review = place.only()
    assert review.finding == "good"
    assert {region.outcome for region in review.regions} <= {"rejected"}


def test_the_masks_of_a_run_come_back_accepted(place: Place) -> None:
    found = read_masks(place.runs / "abc1" / "masks", "bottle", place.catalog, place.runs)
    assert found.refused == ()
    assert [review.image for review in found.reviews] == [
        each.key for each in (NONE, TWINS, *SAME_STEM, *NESTED[::-1], TWO, TOUCHING)
    ]  # fmt: skip
    outcomes = {review.image: [region.outcome for region in review.regions] for review in found.reviews}
    assert {key: told for key, told in outcomes.items() if told} == {
        TWO.key: ["accepted"] * 2,
        TOUCHING.key: ["accepted"] * 3,
    }


def test_the_same_masks_again_are_no_new_reviews(place: Place) -> None:
    for name in ("b.png", "c.png", "sub/a.png"):
        place.put(name, grey(block(0, 0), 0))
    first = place.read().reviews
    assert len({review.id for review in first}) == 3
    assert place.catalog.add_reviews(first) == 3
    assert place.catalog.add_reviews(place.read().reviews) == 0
    place.put("b.png", grey(block(0, 0)))
    assert place.catalog.add_reviews(place.read().reviews) == 1


def test_going_back_to_an_earlier_mask_counts(place: Place) -> None:
    for later, value in enumerate((255, 0, 255)):
        place.put("b.png", grey(block(0, 0), value))
        os.utime(place.masks / "b.png", (WHEN + later, WHEN + later))
        place.catalog.add_reviews(place.read().reviews)
    assert [review.finding for review in place.catalog.reviews("bottle")] == ["defective", "good", "defective"]
    assert evidence(place.catalog.reviews("bottle"))[NONE.key].finding == "defective"


def test_the_latest_finished_run_counts(place: Place) -> None:
    begin(place.catalog, place.runs, "later", {})
    place.catalog.begin_run(RunRecord("unfinished", "bottle", BUNDLE.id, "batch", {}, "0.1.0"))
    place.put("sub/a.png", grey(block(0, 0)))
    review = place.only()
    assert review.run == "later"
    assert [region.outcome for region in review.regions] == ["added"]


# ---------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("sub/a.jpg.png", TWO),
        ("sub/a.PNG", TWO),
        ("sub/a.tif", TWO),
        ("a.png", None),
        ("d.png", SAME_STEM[1]),
        ("d.jpg.png", SAME_STEM[0]),
        ("d.png.bmp", SAME_STEM[1]),
        ("d.tif", None),
        ("copy/c.png", TWINS),
        ("n.bmp", NESTED[0]),
        ("n.png", NESTED[0]),
        ("n.bmp.png", NESTED[1]),
    ],
)
def test_a_mask_is_named_as_its_image_or_as_the_run_names_it(place: Place, name: str, image: ImageRef | None) -> None:
    place.put(name, grey(block(0, 0)))
    if image is None:
        assert place.refusal() == "no image of the product's latest run has this name"
    else:
        assert place.only().image == image.key


def test_hidden_and_other_files_are_left_out(place: Place) -> None:
    place.put("b.png", grey(block(0, 0)))
    place.put("._c.png", grey(block(0, 0)))
    place.put(".thumbnails/c.png", grey(block(0, 0)))
    (place.masks / "notes.txt").write_text("Tuesday")
    (place.masks / "c.png").mkdir()
    assert place.only().image == NONE.key


def test_two_different_masks_of_one_image_are_refused(place: Place) -> None:
    place.put("c.png", grey(block(0, 0)))
    place.put("copy/c.png", grey(block(0, 1)))
    place.put("b.png", grey(block(0, 0)))
    found = place.read()
    assert [review.image for review in found.reviews] == [NONE.key]
    assert found.refused == (
        ("c.png", "differs from another mask of the same image: copy/c.png"),
        ("copy/c.png", "differs from another mask of the same image: c.png"),
    )


def test_one_mask_under_both_names_of_its_image_is_one_review(place: Place) -> None:
    place.put("c.png", grey(block(0, 0)))
    place.put("copy/c.bmp", grey(block(0, 0), 1))
    assert place.only().image == TWINS.key


# --------------------------------------------------------------------------------------------------------------- pixels

MASK = block(2, 3) | block(8, 8, 1, 1)
DEEP = MASK.astype(np.uint16)
DEEP[8, 8] = 65535
BLUE = np.stack([0 * MASK, 0 * MASK, MASK], axis=2).astype(np.uint8)


def palette() -> PIL.Image.Image:
    picture = PIL.Image.fromarray(grey(MASK, 1), "P")
    picture.putpalette([0, 0, 0, 128, 0, 0])
    return picture


@pytest.mark.parametrize(
    "picture",
    [
        PIL.Image.fromarray(grey(MASK)),
        PIL.Image.fromarray(grey(MASK, 1)),
        PIL.Image.fromarray(MASK),
        PIL.Image.fromarray(DEEP),
        PIL.Image.fromarray(BLUE),
        PIL.Image.fromarray(np.dstack([BLUE, np.full(SIZE, 255, np.uint8)])),
        palette(),
    ],
    ids=["grey", "grey 1", "bits", "16 bits", "darkest blue", "opaque", "palette"],
)
def test_whatever_is_not_black_is_defective(place: Place, picture: PIL.Image.Image) -> None:
    place.put("b.png", picture)
    np.testing.assert_array_equal(decode(union(place.only().masks)), MASK)


def test_a_mask_is_turned_as_it_is_displayed(place: Place) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    place.put("b.png", np.rot90(grey(MASK)), exif=exif)
    np.testing.assert_array_equal(decode(union(place.only().masks)), MASK)


TRANSPARENT = np.dstack([np.zeros((*SIZE, 3), np.uint8), grey(MASK)])


@pytest.mark.parametrize(
    ("name", "pixels", "reason"),
    [
        ("b.png", np.zeros((16, 12), np.uint8), "the mask has 16 x 12 pixels, its image 12 x 16"),
        ("b.png", np.zeros((6, 8), np.uint8), "the mask has 6 x 8 pixels, its image 12 x 16"),
        ("b.jpg", grey(MASK), "JPEG smears what is drawn"),
        ("b.png", TRANSPARENT, "transparent in parts"),
        ("b.webp", grey(MASK), r"not a mask of a known format \(PNG, TIFF, BMP, PPM, GIF\)"),
        ("e.png", grey(MASK), "no image of the product's latest run has this name"),
    ],
)
def test_a_mask_that_cannot_be_used_is_refused_alone(
    place: Place, name: str, pixels: np.ndarray[Any, Any], reason: str
) -> None:
    place.put("sub/a.png", grey(block(0, 0)))
    place.put(name, pixels)
    found = place.read()
    assert [review.image for review in found.reviews] == [TWO.key]
    ((refused, told),) = found.refused
    assert refused == name
    assert re.search(reason, told)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a mask of a known format"),
        (b"\x89PNG\r\n\x1a\n and nothing more", "not a mask of a known format"),
        (cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, SIZE))[1].tobytes()[:-40], "truncated"),
    ],
)
def test_a_damaged_mask(place: Place, data: bytes, reason: str) -> None:
    place.masks.mkdir()
    (place.masks / "b.png").write_bytes(data)
    assert reason in place.refusal()


def test_a_link_that_leads_nowhere_is_no_mask(place: Place) -> None:
    place.masks.mkdir()
    (place.masks / "b.png").symlink_to(place.masks / "nowhere")
    with pytest.raises(DatasetError, match="no mask found"):
        place.read()


@given(arrays(np.bool_, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_components(mask: BoolMask) -> None:
    found = [decode(component) for component in _components(mask)]
    expected = flooded(mask)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def flooded(mask: BoolMask) -> list[BoolMask]:
    """8-connected components, pixel by pixel."""
    left = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    components = []
    while left:
        component, front = np.zeros_like(mask), [min(left)]
        left.discard(front[0])
        while front:
            row, column = front.pop()
            component[row, column] = True
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            front += near
        components.append(component)
    return components


# -------------------------------------------------------------------------------------------------------------- nothing


def test_no_folder_and_no_mask(place: Place) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        place.read()
    place.masks.mkdir()
    with pytest.raises(DatasetError, match="no mask found"):
        place.read()


def test_no_finished_run(place: Place) -> None:
    place.put("b.png", grey(MASK))
    with pytest.raises(StoreError, match="screw: has no finished run"):
        read_masks(place.masks, "screw", place.catalog, place.runs)


def test_a_run_whose_files_are_gone(place: Place) -> None:
    place.put("b.png", grey(MASK))
    (place.runs / "abc1" / "regions.jsonl").unlink()
    with pytest.raises(StoreError, match=r"regions\.jsonl: cannot be read"):
        place.read()
