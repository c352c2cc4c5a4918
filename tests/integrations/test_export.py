"""Exports of a workspace: what is in them, what is not and why, and folders that are whole or empty."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from PIL import ExifTags

from integrations.catalog import RunImage
from integrations.export import FORMATS
from integrations.export_images import ImageStream, portable, survey
from integrations.export_sources import reviews
from integrations.finished_run import run_of
from integrations.splits import Split
from saa_core.errors import ImageError, StoreError
from saa_core.images import load_image
from saa_core.types import BoolMask, ImageRef
from tests.labelled_set import LabelledSet, block, drawn, picture
from tests.plates import BUNDLE, NOON, PRODUCT, said, silent

CRACK, DENT = ("crack", block(1, 1)), ("dent", block(6, 8))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def reviewed(labelled_set: LabelledSet) -> LabelledSet:
    """Six photographs of three lots: 000 and 001 defective, 002 good, 003 undrawn, 004 and 005 not reviewed."""
    a, b, c, d, *_ = labelled_set.add_many(6)
    labelled_set.label({"000.png": [CRACK], "004.png": [CRACK, DENT]})
    undrawn = replace(drawn(d), verdict="defective")
    labelled_set.review(drawn(a, CRACK, DENT), drawn(b, DENT), drawn(c), undrawn)
    return labelled_set


# --------------------------------------------------------------------------------------------------- what is exported


def test_reviews(reviewed: LabelledSet) -> None:
    report = reviewed.export()
    assert sum(report.images.values()) == 3
    assert (report.good, report.regions, report.labels) == (1, 3, ("crack", "dent"))
    assert report.left_out == {"without a finding": 2, "called defective with nothing drawn": 1}
    assert (report.refused, report.notes, report.runs) == ((), (), ("run1",))
    told = {
        line["names"][0]: (line["finding"], line["regions"], line["lot"]) for line in lines(reviewed.folder / "out")
    }
    assert told == {
        "000.png": ("defective", 2, "lot 0"), "001.png": ("defective", 1, "lot 0"), "002.png": ("good", 0, "lot 1"),
    }  # fmt: skip


def test_the_sentence(reviewed: LabelledSet) -> None:
    report = reviewed.export(split=Split(100, 0, 0))
    assert report.sentence() == (
        "3 images (3 train, 0 val, 0 test): 1 good, 2 defective with 3 regions; left out: 2 without a finding, "
        "1 called defective with nothing drawn"
    )


def test_the_newest_review_counts(reviewed: LabelledSet) -> None:
    a = reviewed.refs[0]
    later = said(a, who="bo")
    reviewed.review(later, replace(said(a, who="cy"), state="skipped"))
    assert reviewed.export().good == 2


def test_predictions(reviewed: LabelledSet) -> None:
    report = reviewed.export(what="predictions", split=Split(100, 0, 0))
    assert (sum(report.images.values()), report.good, report.regions) == (6, 4, 3)
    assert report.left_out == {}
    assert report.notes == ("nobody has looked at these images: good is one on which the run found nothing",)
    results = json.loads((reviewed.folder / "out/annotations/results_train.json").read_text())
    assert [result["score"] for result in results] == [0.5, 0.5, 0.5]


def test_predictions_of_a_run(reviewed: LabelledSet) -> None:
    reviewed.label({}, "run2")
    assert reviewed.export(what="predictions").regions == 0
    assert reviewed.export(what="predictions", run="run1", name="old").runs == ("run1",)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_exports_a_workspace(reviewed: LabelledSet, format: str) -> None:
    assert sum(reviewed.export(format).images.values()) == 3
    assert len(lines(reviewed.folder / "out")) == 3


def test_where_all_of_it_comes_from(reviewed: LabelledSet) -> None:
    report = reviewed.export("mvtec")
    said = json.loads((reviewed.folder / "out/provenance.json").read_text())
    assert (said["product"], said["format"], said["what"]) == (PRODUCT, "mvtec", "reviews")
    assert (said["images"], said["good"], said["regions"]) == (dict(report.images), 1, 3)
    (run,) = said["runs"]
    assert (run["id"], run["bundle"], run["models"]) == ("run1", BUNDLE.id, {"generator": "lexical"})
    assert said["split"]["shares"] == "80/10/10"
    assert said["notes"] == list(report.notes)


def test_no_review(labelled_set: LabelledSet) -> None:
    labelled_set.add_many(2)
    labelled_set.label({})
    with pytest.raises(StoreError, match=r"no reviewed image.*--predictions"):
        labelled_set.export()
    assert not (labelled_set.folder / "out").exists()


def test_no_run(labelled_set: LabelledSet) -> None:
    with pytest.raises(StoreError, match="no finished run"):
        labelled_set.export(what="predictions")


def test_a_product_whose_name_is_misspelt(labelled_set: LabelledSet) -> None:
    labelled_set.add_many(1)
    labelled_set.label({})
    with pytest.raises(StoreError, match=r"platte: has no finished run.*; is 'plate' meant\?"):
        run_of(labelled_set.catalog, "platte", None)


def test_nothing_but_undrawn_images(labelled_set: LabelledSet) -> None:
    (ref,) = labelled_set.add_many(1)
    labelled_set.label({})
    labelled_set.review(replace(drawn(ref), verdict="defective"))
    with pytest.raises(StoreError, match="1 are called defective with nothing drawn"):
        labelled_set.export()
    assert files(labelled_set.folder / "out") == []


@pytest.mark.parametrize("regions", [[], [CRACK, ("new", block(1, 1))]])
def test_a_review_that_changes_while_it_is_exported(reviewed: LabelledSet, regions: list[tuple[str, BoolMask]]) -> None:
    a = reviewed.refs[0]
    later = replace(drawn(a, *regions), id="later", updated=NOON + timedelta(days=1), verdict="defective")

    source = reviews(reviewed.catalog, PRODUCT)
    stream = ImageStream(source, survey(source), Split(), lambda image: None, silent)
    reviewed.review(later)
    with pytest.raises(StoreError, match=r"000\.png: its review changed while it was exported; run again"):
        list(stream)


def test_an_image_that_is_reviewed_meanwhile_waits(reviewed: LabelledSet) -> None:
    source = reviews(reviewed.catalog, PRODUCT)
    before = survey(source)
    reviewed.review(drawn(reviewed.refs[4], CRACK))
    late = reviews(reviewed.catalog, PRODUCT)
    stream = ImageStream(late, before, Split(), lambda image: None, silent)
    assert len(list(stream)) == 3
    assert len(list(late.images())) == 5


# -------------------------------------------------------------------------------------------------------------- split


def test_all_images_of_a_lot_are_in_one_part_and_stay_there(labelled_set: LabelledSet) -> None:
    labelled_set.add_many(60, per_lot=3)
    labelled_set.label({})
    labelled_set.export(what="predictions", split=Split(50, 25, 25))
    before = {line["key"]: line["part"] for line in lines(labelled_set.folder / "out")}
    parts = {(line["lot"], line["part"]) for line in lines(labelled_set.folder / "out")}
    assert len(parts) == 20
    assert {part for _, part in parts} == {"train", "val", "test"}
    for number in range(60, 90):
        labelled_set.add(f"{number:03}.png", lot=f"lot {number // 3 - 10}")
    labelled_set.label({}, "run2")
    labelled_set.export(what="predictions", split=Split(50, 25, 25), name="more")
    after = {line["key"]: line["part"] for line in lines(labelled_set.folder / "more")}
    assert len(after) == 90
    assert before.items() <= after.items()


def test_an_image_without_a_lot_is_one_of_its_own(labelled_set: LabelledSet) -> None:
    for number in range(40):
        labelled_set.add(f"{number:03}.png")
    labelled_set.label({})
    report = labelled_set.export(what="predictions", split=Split(50, 25, 25))
    assert min(report.images.values()) > 0


# ------------------------------------------------------------------------------------------------------------- images


def test_images_that_are_gone_or_changed_are_refused_by_name(reviewed: LabelledSet) -> None:
    Path(reviewed.refs[0].uri).unlink()
    Path(reviewed.refs[1].uri).write_bytes(picture(99))
    report = reviewed.export()
    assert [name for name, _ in report.refused] == ["000.png", "001.png"]
    assert sum(report.images.values()) == 1
    assert json.loads((reviewed.folder / "out/provenance.json").read_text())["refused"][0][0] == "000.png"


def test_when_every_image_is_gone_nothing_is_exported(reviewed: LabelledSet) -> None:
    for ref in reviewed.refs:
        Path(ref.uri).unlink()
    with pytest.raises(StoreError, match=r"no image that can be exported; 000\.png: cannot be read"):
        reviewed.export()
    assert files(reviewed.folder / "out") == []


@pytest.mark.parametrize("name", ["../../outside.png", "/tmp/outside.png"])
def test_no_name_leads_out_of_the_folder(labelled_set: LabelledSet, name: str) -> None:
    labelled_set.add("a.png")
    labelled_set.label({})
    labelled_set.add(name)
    labelled_set.refs = labelled_set.refs[1:]
    record_only(labelled_set, labelled_set.refs[0])
    report = labelled_set.export()
    assert [each for each, _ in report.refused] == [name]
    assert sum(report.images.values()) == 1


def record_only(made: LabelledSet, bad: ImageRef) -> None:
    """In the catalog alone: our own outputs would refuse such a name too."""
    good = made.catalog.images_of("run1")[0].ref
    made.catalog.record_images("run1", [RunImage.of(bad, "labelled", height=12, width=16)])
    made.review(drawn(bad), drawn(good))


def test_pictures_are_copies_of_the_photographs(reviewed: LabelledSet) -> None:
    reviewed.export(split=Split(100, 0, 0))
    for ref in reviewed.refs[:3]:
        copy = reviewed.folder / "out/images/train" / ref.names[0]
        assert copy.read_bytes() == Path(ref.uri).read_bytes()
        assert not copy.samefile(ref.uri)


SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "WEBP": ".webp", "BMP": ".bmp"}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [None, 1, 6])
def test_turned_pictures_are_set_upright(kind: str, orientation: int | None) -> None:
    exif = PIL.Image.Exif()
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(buffer, kind, exif=exif)
    data, suffix = portable(buffer.getvalue(), "a")
    if orientation == 6:
        assert suffix == ".png"
        assert PIL.Image.open(io.BytesIO(data)).size == (8, 12)
    else:
        assert (data, suffix) == (
            buffer.getvalue(),
            {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "WEBP": ".webp"}[kind],
        )
    np.testing.assert_array_equal(load_image(data, "a").pixels, load_image(buffer.getvalue(), "a").pixels)


@pytest.mark.parametrize("kind", ["GIF", "PPM"])
def test_what_trainers_do_not_read_becomes_png(kind: str) -> None:
    data, suffix = portable(picture(0, kind), "a")
    assert suffix == ".png"
    np.testing.assert_array_equal(load_image(data, "a").pixels, load_image(picture(0, kind), "a").pixels)


def test_what_is_no_picture() -> None:
    with pytest.raises(ImageError, match="not an image"):
        portable(b"text", "a")


# ------------------------------------------------------------------------------------------------------------- folder


def test_somebodys_files_are_left_alone(reviewed: LabelledSet) -> None:
    mine = reviewed.folder / "out" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(StoreError, match=r"is not empty, it holds 'mine\.txt'"):
        reviewed.export()
    assert files(mine.parent) == ["mine.txt"]


def test_an_export_is_never_overwritten(reviewed: LabelledSet) -> None:
    reviewed.export()
    before = files(reviewed.folder / "out")
    with pytest.raises(StoreError, match="holds an export already"):
        reviewed.export("yolo")
    assert files(reviewed.folder / "out") == before


def test_a_file_is_no_folder(reviewed: LabelledSet) -> None:
    (reviewed.folder / "out").write_text("")
    with pytest.raises(StoreError, match="is a file"):
        reviewed.export()


def test_the_root_of_a_disk_is_empty_though_it_has_a_folder_of_its_own(reviewed: LabelledSet) -> None:
    (reviewed.folder / "out/lost+found").mkdir(parents=True)
    assert sum(reviewed.export().images.values()) == 3


def test_predictions_have_the_labels_that_experts_choose_from(labelled_set: LabelledSet) -> None:
    labelled_set.add_many(1)
    labelled_set.label({"000.png": [("dark scratch", block(1, 1)), ("anomaly", block(6, 6))]})
    assert labelled_set.export(what="predictions").labels == ("dark scratch", "defect")


def test_an_empty_folder_is_as_good_as_none(reviewed: LabelledSet) -> None:
    (reviewed.folder / "out").mkdir()
    assert sum(reviewed.export().images.values()) == 3
    assert [path.name for path in (reviewed.folder / "out").iterdir() if path.name.startswith(".")] == []


INTERRUPTED = """
import os, resource, signal, sys
from pathlib import Path
from integrations.catalog import Catalog
from integrations.export import ExportRequest, export
from integrations.settings import Settings
from saa_core.errors import StoreError

def advance(step, done, total):
    if sys.argv[3] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

settings = Settings.load(workspace=Path(sys.argv[1]))
with Catalog(settings.catalog_url) as catalog:
    try:
        export(catalog, settings, ExportRequest("coco", Path(sys.argv[2]), "plate"), advance)
    except StoreError as error:
        print(error.reason)
"""


def interrupted(made: LabelledSet, how: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", INTERRUPTED, str(made.settings.workspace), str(made.folder / "out"), how]
    return subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on file sizes")
def test_when_there_is_no_room_nothing_is_left(reviewed: LabelledSet) -> None:
    assert "the disk is full" in interrupted(reviewed, "full").stdout
    assert list((reviewed.folder / "out").iterdir()) == []


def test_an_export_that_was_killed_starts_over(reviewed: LabelledSet) -> None:
    out = reviewed.folder / "out"
    assert interrupted(reviewed, "killed").returncode == -signal.SIGKILL
    assert files(out)
    assert all(name.startswith(".saa-export/") for name in files(out))
    reviewed.export()
    reviewed.export(name="undisturbed")
    assert files(out) == files(reviewed.folder / "undisturbed")
    for name in files(out):
        if name != "provenance.json":
            assert (out / name).read_bytes() == (reviewed.folder / "undisturbed" / name).read_bytes()
