from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from integrations.formats.mvtec import MvtecItem, read_mask, read_mvtec
from saa_core.errors import DatasetError


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("L", (4, 3)).save(path)


def a_class(root: Path) -> Path:
    put(root, "test/good/000.png", "test/hole/000.jpg", "test/hole/001.png")
    put(root, "ground_truth/hole/000_mask.png", "ground_truth/hole/001_mask.png", "train/good/000.png")
    return root


def test_a_class_with_good_and_defective_images(tmp_path: Path) -> None:
    root = a_class(tmp_path / "set" / "bottle")
    (bottle,) = read_mvtec(tmp_path / "set")
    assert (bottle.name, bottle.root) == ("bottle", root)
    assert bottle.items == (
        MvtecItem(root / "test/good/000.png", None, "good"),
        MvtecItem(root / "test/hole/000.jpg", root / "ground_truth/hole/000_mask.png", "hole"),
        MvtecItem(root / "test/hole/001.png", root / "ground_truth/hole/001_mask.png", "hole"),
    )


def test_classes_at_any_depth_are_named_by_their_folders(tmp_path: Path) -> None:
    for name in ("mvtec/screw", "mvtec/bottle", "a/b/c"):
        a_class(tmp_path / name)
    put(tmp_path, ".cache/x/test/good/1.png", "notes/1.png")
    assert [each.name for each in read_mvtec(tmp_path)] == ["a/b/c", "mvtec/bottle", "mvtec/screw"]


def test_the_data_set_may_be_one_class(tmp_path: Path) -> None:
    root = a_class(tmp_path / "bottle")
    assert [each.name for each in read_mvtec(root)] == ["bottle"]


def test_other_files_are_ignored(tmp_path: Path) -> None:
    root = a_class(tmp_path / "bottle")
    for name in ("test/hole/Thumbs.db", "test/readme.txt", "ground_truth/hole/notes.txt", "test/good/.x.png"):
        (root / name).write_text("")
    assert len(read_mvtec(tmp_path)[0].items) == 3


def test_only_some(tmp_path: Path) -> None:
    for name in ("mvtec/screw", "mvtec/bottle", "other/bottle", "other/pill"):
        a_class(tmp_path / name)
    assert [each.name for each in read_mvtec(tmp_path, ["bottle"])] == ["mvtec/bottle", "other/bottle"]
    assert [each.name for each in read_mvtec(tmp_path, ["pill", "mvtec/bottle", "other/pill"])] == [
        "mvtec/bottle", "other/pill",
    ]  # fmt: skip


def test_an_unknown_class_is_told_the_nearest(tmp_path: Path) -> None:
    for name in ("mvtec/screw", "mvtec/bottle"):
        a_class(tmp_path / name)
    with pytest.raises(DatasetError, match="no class 'botle'; the nearest are mvtec/bottle, mvtec/screw"):
        read_mvtec(tmp_path, ["botle"])


@pytest.mark.parametrize(
    ("folder", "reason"), [("missing", "no such folder"), ("empty", "no class found"), ("odd", "no class found")]
)
def test_no_data_set(tmp_path: Path, folder: str, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path, "odd/test/1.png")
    with pytest.raises(DatasetError, match=reason):
        read_mvtec(tmp_path / folder)


def test_images_without_a_mask_are_named(tmp_path: Path) -> None:
    root = a_class(tmp_path / "bottle")
    put(root, *(f"test/cut/{number}.png" for number in range(7)))
    with pytest.raises(DatasetError, match=r"no mask for test/cut/0\.png, .*test/cut/4\.png and 2 more"):
        read_mvtec(tmp_path)


def test_masks_without_an_image_are_named(tmp_path: Path) -> None:
    root = a_class(tmp_path / "bottle")
    put(root, "ground_truth/hole/9_mask.png", "ground_truth/cut/000.png")
    with pytest.raises(DatasetError, match=r"no image for ground_truth/cut/000\.png, ground_truth/hole/9_mask\.png$"):
        read_mvtec(tmp_path)


# --------------------------------------------------------------------------------------------------------------- masks

PIXELS = np.array([[0, 1, 255], [0, 0, 7]], np.uint8)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "I;16"])
def test_masks_of_any_mode(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "mask.png"
    if mode == "I;16":
        PIL.Image.fromarray(PIXELS.astype(np.uint16) * 256).save(path)
    elif mode == "1":
        PIL.Image.fromarray(PIXELS > 0).save(path)
    else:
        PIL.Image.fromarray(PIXELS).convert(mode).save(path)
    mask = read_mask(path, (2, 3))
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, PIXELS > 0)


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    put(tmp_path, "x_mask.png")
    with pytest.raises(DatasetError, match=r"x_mask\.png: the mask has 3 x 4 pixels, its image 4 x 3"):
        read_mask(tmp_path / "x_mask.png", (4, 3))


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\nxxxx"])
def test_a_damaged_mask(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_mask(tmp_path / "x.png")


def test_real_data_sets(shared: Path) -> None:
    classes = read_mvtec(shared / "data" / "dev")
    assert len(classes) == 11
    for each in classes:
        for item in each.items:
            if item.mask:
                with PIL.Image.open(item.image) as image:
                    assert read_mask(item.mask, (image.height, image.width)).any(), item.image
