"""Every format read back: equal to the bit where it can hold the masks, and with the loss it states elsewhere."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from integrations.formats.coco import write_coco
from integrations.formats.exported import ExportImage, ExportRegion, Part, WriteFormat
from integrations.formats.masks import write_masks
from integrations.formats.mvtec import read_mask, read_mvtec
from integrations.formats.mvtec_writer import write_mvtec
from integrations.formats.names import image_stems, label_folders, leads_out
from integrations.formats.yolo import write_yolo
from saa_core.masks import decode, encode
from saa_core.types import BoolMask
from tests.labelled_set import picture

LABELS = ["crack", "good", "Good", "a/b", "a__b", "combined", "..", "Riß ✂"]
PARTS: tuple[Part, ...] = ("train", "val", "test")

sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))


@st.composite
def images(draw: st.DrawFn, scored: bool = False) -> list[ExportImage]:
    made = []
    for number in range(draw(st.integers(1, 3))):
        height, width = draw(sizes)
        scores = st.floats(0, 1) if scored else st.none()
        masks = arrays(np.bool_, (height, width), elements=st.booleans(), fill=st.nothing()).filter(np.any)
        regions = st.builds(ExportRegion, st.sampled_from(LABELS), masks.map(encode), scores)
        found = tuple(draw(st.lists(regions, max_size=3)))
        part = draw(st.sampled_from(PARTS))
        made.append(ExportImage(f"{number:03}", ".png", b"picture", part, height, width, found))
    return made


def image(*regions: tuple[str, BoolMask], part: Part = "train", score: float | None = None) -> ExportImage:
    made = tuple(ExportRegion(label, encode(mask), score) for label, mask in regions)
    size = regions[0][1].shape if regions else (6, 8)
    return ExportImage("a", ".png", picture(0, size=(size[0], size[1])), part, size[0], size[1], made)


@contextlib.contextmanager
def written(write: WriteFormat, made: list[ExportImage]) -> Iterator[tuple[Path, tuple[str, ...]]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield folder, write(folder, labels_of(made), iter(made))


def labels_of(made: list[ExportImage]) -> list[str]:
    return sorted({region.label for each in made for region in each.regions})


def quietly(call: Callable[..., Any], *values: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return call(*values)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


RING = np.pad(np.zeros((2, 3), np.bool_), 1, constant_values=True)
SHAPES = {
    "one pixel": np.pad([[True]], 2),
    "the whole image": np.ones((5, 7), np.bool_),
    "a hole": np.pad(RING, 1),
    "two parts": np.array([[1, 0, 0, 1], [1, 0, 0, 1]], np.bool_),
    "two parts that touch at a corner": np.array([[1, 1, 0, 0], [0, 0, 1, 1]], np.bool_),
    "a part in the hole of another": np.pad(np.pad(np.pad([[True]], 1), 1, constant_values=True), 1),
    "an upright line": np.pad(np.ones((4, 1), np.bool_), 1),
}


# ---------------------------------------------------------------------------------------------------------------- COCO


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools, of its own arrays
@settings(max_examples=60)
@given(images())
def test_coco_holds_every_mask(made: list[ExportImage]) -> None:
    with written(write_coco, made) as (folder, losses):
        assert losses == ()
        for part in {each.part for each in made}:
            coco = quietly(COCO, folder / "annotations" / f"instances_{part}.json")
            found = {row["file_name"]: row for row in coco.loadImgs(coco.getImgIds())}
            assert set(found) == {each.file for each in made if each.part == part}
            for each in (each for each in made if each.part == part):
                row = found[each.file]
                assert (row["height"], row["width"]) == (each.height, each.width)
                check_annotations(coco, coco.loadAnns(coco.getAnnIds(row["id"])), each)
        assert not list(folder.glob("annotations/results_*"))


def check_annotations(coco: Any, annotations: list[Any], image: ExportImage) -> None:
    assert len(annotations) == len(image.regions)
    for annotation, region in zip(annotations, image.regions, strict=True):
        np.testing.assert_array_equal(coco.annToMask(annotation), decode(region.mask))
        rle = coco.annToRLE(annotation)
        assert annotation["area"] == coco_masks.area(rle) == region.mask.area
        assert annotation["bbox"] == coco_masks.toBbox(rle).tolist()
        assert annotation["iscrowd"] == 0
        assert annotation["id"] > 0
        assert coco.loadCats(annotation["category_id"])[0]["name"] == region.label


@settings(max_examples=30)
@given(images(scored=True))
def test_coco_results_are_the_predictions(made: list[ExportImage]) -> None:
    with written(write_coco, made) as (folder, _):
        for part in {each.part for each in made if each.regions}:
            coco = quietly(COCO, folder / "annotations" / f"instances_{part}.json")
            results = quietly(coco.loadRes, str(folder / "annotations" / f"results_{part}.json"))
            regions = [region for each in made if each.part == part for region in each.regions]
            loaded = results.loadAnns(results.getAnnIds())
            assert [each["score"] for each in loaded] == [region.score for region in regions]
            assert [each["area"] for each in loaded] == [region.mask.area for region in regions]
            evaluation = quietly(COCOeval, coco, results, "segm")
            for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
                quietly(step)
            assert evaluation.stats[0] == pytest.approx(1)  # every prediction is its own truth


def test_coco_without_any_region() -> None:
    with written(write_coco, [image()]) as (folder, _):
        content = json.loads((folder / "annotations/instances_train.json").read_text())
        assert (content["annotations"], content["categories"]) == ([], [])
        assert files(folder) == ["annotations/instances_train.json", "images/train/a.png"]


def test_coco_files_of_a_part_without_images_are_not_there() -> None:
    with written(write_coco, [image(("crack", RING), part="val", score=0.5)]) as (folder, _):
        assert files(folder) == [
            "annotations/instances_val.json", "annotations/results_val.json", "images/val/a.png",
        ]  # fmt: skip


def test_an_error_in_the_middle_leaves_no_coco_file(tmp_path: Path) -> None:
    def broken() -> Iterator[ExportImage]:
        yield image(("crack", RING))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_coco(tmp_path, ["crack"], broken())
    assert files(tmp_path) == ["images/train/a.png"]


# ---------------------------------------------------------------------------------------------------------------- YOLO


def read_yolo(folder: Path, each: ExportImage) -> list[tuple[str, BoolMask]]:
    """As Ultralytics reads and draws: 32-bit coordinates, cut to whole pixels."""
    names = yaml.safe_load((folder / "data.yaml").read_text())["names"]
    rows = [line.split() for line in (folder / "labels" / each.part / f"{each.stem}.txt").read_text().splitlines()]
    found = []
    for number, *values in rows:
        points = np.array(values, np.float32).reshape(-1, 2)
        assert points.min() >= 0
        assert points.max() <= 1
        assert len(points) >= 3
        points *= np.array([each.width, each.height], np.float32)
        canvas = np.zeros((each.height, each.width), np.uint8)
        cv2.fillPoly(canvas, points.astype(np.int32)[None], 1)
        found.append((names[int(number)], canvas.astype(np.bool_)))
    return found


def filled(mask: BoolMask) -> BoolMask:
    """With every hole filled that an 8-connected border encloses."""
    outside = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, numbers = cv2.connectedComponents(outside, connectivity=4)
    return np.asarray(numbers != numbers[0, 0])[1:-1, 1:-1]


def parts(mask: BoolMask) -> int:
    return cv2.connectedComponents(filled(mask).astype(np.uint8), connectivity=8)[0] - 1


@settings(max_examples=100)
@given(images())
def test_yolo_holds_every_mask_but_for_holes(made: list[ExportImage]) -> None:
    with written(write_yolo, made) as (folder, losses):
        overlaps = []
        for each in made:
            rows = read_yolo(folder, each)
            for region in each.regions:
                mask = decode(region.mask)
                own, rows = rows[: parts(mask)], rows[parts(mask) :]
                assert {label for label, _ in own} == {region.label}
                together = np.any([drawn for _, drawn in own], axis=0)
                np.testing.assert_array_equal(together, filled(mask))
                overlaps.append(mask.sum() / together.sum())
            assert not rows
        told = [loss for loss in losses if "holes" in loss]
        assert bool(told) == any(overlap < 1 for overlap in overlaps)
        if told:
            assert f"{np.mean(overlaps):.4f} in the mean, {min(overlaps):.4f} at worst" in told[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_yolo_outlines_have_the_area_of_the_pixels(shape: str) -> None:
    """Whoever takes them for geometry, not for pixels, gets the same within a few hundredths of a pixel a border."""
    mask = SHAPES[shape]
    with written(write_yolo, [image(("crack", mask))]) as (folder, _):
        rows = (folder / "labels/train/a.txt").read_text().splitlines()
        outlines = [np.array(row.split()[1:], np.float32).reshape(-1, 1, 2) for row in rows]
    scale = np.array([mask.shape[1], mask.shape[0]], np.float32)
    area = sum(cv2.contourArea(outline * scale) for outline in outlines)
    assert area == pytest.approx(filled(mask).sum(), rel=0.05)
    for outline in outlines:
        assert np.ptp(outline * scale, axis=0).min() > 0.9  # a line one pixel wide still has a box


def test_yolo_names_a_part_for_validation_though_it_is_empty() -> None:
    with written(write_yolo, [image(("crack", SHAPES["one pixel"]))]) as (folder, losses):
        data = yaml.safe_load((folder / "data.yaml").read_text())
    assert data == {"train": "images/train", "val": "images/train", "names": {0: "crack"}}
    assert losses == ("no image is in val: data.yaml names train, choose another --split",)


def test_yolo_in_a_very_large_image() -> None:
    mask = np.zeros((3, 60_000), np.bool_)
    mask[1, 59_990:] = mask[1, 20_001:20_003] = True
    each = replace(image(("crack", mask)), data=b"")
    with written(write_yolo, [each]) as (folder, losses):
        np.testing.assert_array_equal(np.any([drawn for _, drawn in read_yolo(folder, each)], axis=0), mask)
        assert losses[0] == "1 of 1 regions have several parts, which are separate objects"


def test_yolo_says_what_is_where_and_what_is_lost() -> None:
    good = replace(image(part="val"), stem="b")
    made = [image(("crack", SHAPES["a hole"]), ("dent", SHAPES["a hole"]), score=0.5), good]
    with written(write_yolo, made) as (folder, losses):
        assert yaml.safe_load((folder / "data.yaml").read_text()) == {
            "train": "images/train", "val": "images/val", "names": {0: "crack", 1: "dent"},
        }  # fmt: skip
        assert (folder / "labels/val/b.txt").read_text() == ""
        assert losses == (
            "holes of 2 of 2 regions are filled; IoU of what is written with the regions: 0.7000 in the mean, "
            "0.7000 at worst",
            "the scores of 2 regions are not written",
        )


# --------------------------------------------------------------------------------------------------------------- MVTec


def united(each: ExportImage) -> BoolMask:
    masks = [decode(region.mask) for region in each.regions]
    return np.any(masks, axis=0) if masks else np.zeros((each.height, each.width), np.bool_)


@settings(max_examples=60)
@given(images())
def test_mvtec_is_read_by_our_reader(made: list[ExportImage]) -> None:
    with written(write_mvtec, made) as (folder, _):
        tested = {item.image.stem: item for item in items(folder)}
        trained = {path.stem for path in folder.glob("train/good/*")}
        assert trained == {each.stem for each in made if each.part == "train" and not each.regions}
        assert set(tested) == {each.stem for each in made} - trained
        for each in (each for each in made if each.stem in tested):
            item = tested[each.stem]
            assert (item.defect == "good") == (not each.regions)
            assert (item.defect == "combined") == (len({region.label for region in each.regions}) > 1)
            if item.mask:
                np.testing.assert_array_equal(read_mask(item.mask, (each.height, each.width)), united(each))


def items(folder: Path) -> tuple[Any, ...]:
    return read_mvtec(folder)[0].items if (folder / "test").is_dir() else ()


def test_mvtec_says_what_is_lost() -> None:
    made = [image(("crack", RING), ("dent", RING)), replace(image(("crack", RING), part="val"), stem="b")]
    with written(write_mvtec, made) as (folder, losses):
        assert files(folder) == [
            "ground_truth/combined/a_mask.png", "ground_truth/crack/b_mask.png",
            "test/combined/a.png", "test/crack/b.png",
        ]  # fmt: skip
        assert losses == (
            "the masks of 3 regions are joined to one an image, and scores are not written",
            "1 images have several labels and are in 'combined'",
            "1 defective images of the part train are in test, so their lots may be on both sides",
        )


# --------------------------------------------------------------------------------------------------------------- masks


@settings(max_examples=60)
@given(images())
def test_masks_hold_the_union(made: list[ExportImage]) -> None:
    with written(write_masks, made) as (folder, _):
        folders = label_folders(labels_of(made))
        several = len(folders) > 1
        for each in made:
            path = folder / "masks" / each.part / f"{each.stem}.png"
            np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), united(each) * np.uint8(255))
            for label, name in folders.items():
                own = tuple(region for region in each.regions if region.label == label)
                path = folder / "masks_by_label" / name / each.part / f"{each.stem}.png"
                assert path.is_file() == (several and bool(own))
                if path.is_file():
                    np.testing.assert_array_equal(read_mask(path), united(replace(each, regions=own)))


# --------------------------------------------------------------------------------------------------------------- names


@settings(max_examples=300)
@given(st.dictionaries(st.from_regex(r"[0-9a-f]{8}", fullmatch=True), st.text(min_size=1, max_size=8), max_size=6))
def test_stems_are_safe_and_all_different(names: dict[str, str]) -> None:
    stems = image_stems(names)
    assert set(stems) == set(names)
    assert len({stem.casefold() for stem in stems.values()}) == len(names)
    for stem in stems.values():
        assert stem
        assert stem not in (".", "..")
        assert not set(stem) & set('/\\<>:"|?*\0\n')


@pytest.mark.parametrize(
    ("names", "stems"),
    [
        (["sub/a.png", "b.jpg"], ["sub__a", "b"]),
        (["a.png", "a.jpg"], ["a-0", "a-1"]),
        (["a.png", "A.png"], ["a-0", "A-1"]),
        (["s/a.png", "s__a.png", "c.png"], ["s__a-0", "s__a-1", "c"]),
        (["a.png", "a.jpg", "a-0.png"], ["a-0", "a-1", "a-0-2"]),
        (["a?:b.png"], ["a__b"]),
        ([".png"], ["png"]),
        (["ä" * 300 + "end.png"], ["ä" * 73 + "end"]),
    ],
)
def test_stems(names: list[str], stems: list[str]) -> None:
    found = image_stems({str(number): name for number, name in enumerate(names)})
    assert list(found.values()) == stems


@pytest.mark.parametrize("name", ["/etc/a.png", "../a.png", "a/../../b.png", "..\\a.png", "\\a.png"])
def test_names_that_lead_out(name: str) -> None:
    assert leads_out(name)


@pytest.mark.parametrize("name", ["a.png", "a/b.png", "a..png", "..a/b.png"])
def test_names_that_stay(name: str) -> None:
    assert not leads_out(name)


def test_no_label_has_a_reserved_folder() -> None:
    folders = label_folders(["crack", "Good", "combined"], ["good", "combined"])
    assert folders == {"crack": "crack", "Good": "Good-1", "combined": "combined-2"}
