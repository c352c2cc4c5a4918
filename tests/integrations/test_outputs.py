from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrations.outputs import RunFolder, read_records, read_run, verify
from saa_core.errors import StoreError
from saa_core.masks import decode, encode, from_coco
from saa_core.prompts import Decision
from saa_core.types import AnomalyResult, BoolMask, ImageRef, Region

SIZE = (6, 8)


def block(top: int, left: int) -> BoolMask:
    mask = np.zeros(SIZE, np.bool_)
    mask[top : top + 2, left : left + 3] = True
    return mask


def region(mask: BoolMask, score: float = 1.25) -> Region:
    rle = encode(mask)
    x0, y0, x1, y1 = map(float, rle.box)
    scores = {"scratch": 0.5, "hole": 0.1}
    return Region(rle, (x0, y0, x1, y1), "scratch", score, 0.5, scores, 0.75, rle.area, 0)


def result(ref: ImageRef, *regions: Region, heat: float = 0.5) -> AnomalyResult:
    return AnomalyResult(ref.key, "bundle1", np.full((3, 4), heat, np.float32), True, 0.3, regions, {})


def ref(*names: str) -> ImageRef:
    return ImageRef(names[0].encode().hex().ljust(64, "0"), f"/data/{names[0]}", names)


def pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)  # type: ignore[return-value]


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


A, B = ref("sub/a.jpg"), ref("b.png", "copy/c.png")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run", [*A.names, *B.names])


@pytest.fixture
def done(folder: RunFolder) -> RunFolder:
    folder.write(A, result(A, region(block(0, 0)), region(block(1, 2))), SIZE)
    folder.write(B, result(B), SIZE)
    folder.close([A, B], {"id": "r1", "product": "Flügel"})
    return folder


def test_every_file_of_a_run(done: RunFolder) -> None:
    assert files(done.folder) == [
        "maps/b.png", "maps/copy/c.png", "maps/sub/a.png",
        "masks/b.png", "masks/copy/c.png", "masks/sub/a.png",
        "regions.jsonl", "regions/b.json", "regions/sub/a.json", "run.json",
    ]  # fmt: skip


def test_a_mask_is_the_union_of_the_regions(done: RunFolder) -> None:
    expected = (block(0, 0) | block(1, 2)) * np.uint8(255)
    np.testing.assert_array_equal(pixels(done.mask_file("sub/a.jpg")), expected)
    np.testing.assert_array_equal(pixels(done.mask_file("b.png")), np.zeros(SIZE, np.uint8))


def test_a_map_is_grey_at_the_size_of_the_image(folder: RunFolder) -> None:
    heat = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    folder.write(A, AnomalyResult(A.key, "b", heat, True, 0.0, (), {}), SIZE)
    written = pixels(folder.map_file("sub/a.jpg"))
    expected = cv2.resize(heat, (8, 6), interpolation=cv2.INTER_LINEAR) * 255
    assert written.dtype == np.uint8
    np.testing.assert_allclose(written, expected, atol=0.5)


@pytest.mark.parametrize(("heat", "grey"), [(0.0, 0), (1.0, 255), (1.5, 255), (-0.5, 0), (0.5, 128)])
def test_grey_levels(folder: RunFolder, heat: float, grey: int) -> None:
    folder.write(A, result(A, heat=heat), SIZE)
    assert set(pixels(folder.map_file("sub/a.jpg")).ravel()) == {grey}


def test_a_map_that_exceeds_one_keeps_its_order(folder: RunFolder) -> None:
    heat = np.array([[0, 1, 3]], np.float32)
    folder.write(A, AnomalyResult(A.key, "b", heat, False, 0.0, (), {}), (1, 3))
    assert pixels(folder.map_file("sub/a.jpg")).tolist() == [[0, 128, 191]]


def test_both_names_of_an_image_have_its_files(done: RunFolder) -> None:
    assert done.map_file("b.png").read_bytes() == done.map_file("copy/c.png").read_bytes()
    assert done.mask_file("b.png").read_bytes() == done.mask_file("copy/c.png").read_bytes()


def test_records_come_back(done: RunFolder) -> None:
    first, second = read_records(done.folder)
    assert (first["key"], first["names"], first["size"], first["score"]) == (A.key, ["sub/a.jpg"], [6, 8], 0.3)
    assert (first["maps"], first["masks"]) == (["maps/sub/a.png"], ["masks/sub/a.png"])
    assert second["names"] == ["b.png", "copy/c.png"]
    assert second["regions"] == []
    one = first["regions"][1]
    np.testing.assert_array_equal(decode(from_coco(one["segmentation"])), block(1, 2))
    assert one["box"] == [2.0, 1.0, 5.0, 3.0]
    assert one["phrase_scores"] == {"scratch": 0.5, "hole": 0.1}
    assert (one["label"], one["score"], one["confidence"]) == ("scratch", 1.25, 0.5)
    assert (one["saliency"], one["area"]) == (0.75, 6)
    assert read_run(done.folder) == {"id": "r1", "product": "Flügel"}


def test_the_same_run_writes_the_same_bytes(done: RunFolder, tmp_path: Path) -> None:
    again = RunFolder(tmp_path / "again", [*B.names, *A.names])
    again.write(B, result(B), SIZE)
    again.write(A, result(A, region(block(0, 0)), region(block(1, 2))), SIZE)
    again.close([A, B], {"id": "r1", "product": "Flügel"})
    for name in files(done.folder):
        assert (again.folder / name).read_bytes() == (done.folder / name).read_bytes(), name


def test_a_region_says_whether_it_needs_review(folder: RunFolder) -> None:
    regions = [replace(region(block(0, 0)), confidence=confidence) for confidence in (0.9, 0.8, 0.7999, 0.1)]
    proved = Decision(accept=0.8, calibration=((0.2, 0.5), (0.8, 0.97531246)))
    folder.write(A, result(A, *regions), SIZE, proved)
    folder.write(B, result(B, *regions), SIZE)
    folder.close([A, B], {})
    first, second = read_records(folder.folder)
    assert [each["needs_review"] for each in first["regions"]] == [False, False, True, True]
    assert [each["precision"] for each in first["regions"]] == [0.975312, 0.975312, 0.5, 0.5]
    assert [(each["needs_review"], each["precision"]) for each in second["regions"]] == [(True, None)] * 4


def test_regions_of_an_older_run_all_need_review(done: RunFolder) -> None:
    path = done.folder / "regions.jsonl"
    newer = path.read_text()
    older = newer.replace('"precision":null,"needs_review":true,', "")
    assert len(older) < len(newer)
    as_written = list(read_records(done.folder))
    path.write_text(older)
    assert list(read_records(done.folder)) == as_written


# ---------------------------------------------------------------------------------------------------------- file names


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (["a.png"], ["a.png"]),
        (["a.b.jpg"], ["a.b.png"]),
        (["a.png", "b/a.png"], ["a.png", "b/a.png"]),
        (["a.png", "a.jpg"], ["a.png.png", "a.jpg.png"]),
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg.png", "a.png.png", "a.jpg.png.png"]),
        (["a.jpg", "a.png", "a.jpg.png", "b.png"], ["a.jpg.png", "a.png.png", "a.jpg.png.png", "b.png"]),
    ],
)
def test_file_names(names: list[str], called: list[str]) -> None:
    folder = RunFolder(Path("run"), names)
    assert [folder.map_file(name).as_posix() for name in names] == [f"run/maps/{each}" for each in called]
    assert [folder.mask_file(name).as_posix() for name in names] == [f"run/masks/{each}" for each in called]


@given(st.sets(st.from_regex(r"[ab](\.(jpg|png)){1,4}", fullmatch=True)))
def test_no_two_names_share_a_file(names: set[str]) -> None:
    folder = RunFolder(Path("run"), names)
    assert len({folder.map_file(name) for name in names}) == len(names)


# --------------------------------------------------------------------------------------------------- crash and recovery


def test_an_image_is_written_once_all_its_files_are(folder: RunFolder) -> None:
    assert not folder.is_written(B)
    folder.write(B, result(B), SIZE)
    assert folder.is_written(B)
    assert not folder.is_written(A)
    folder.mask_file("copy/c.png").unlink()
    assert not folder.is_written(B)


def test_a_record_of_other_bytes_does_not_count(folder: RunFolder) -> None:
    folder.write(B, result(B), SIZE)
    assert not folder.is_written(ImageRef("f" * 64, B.uri, B.names))


@pytest.mark.parametrize("content", [b"", b"{", b"[]"])
def test_a_damaged_record_does_not_count(folder: RunFolder, content: bytes) -> None:
    folder.write(B, result(B), SIZE)
    (folder.folder / "regions" / "b.json").write_bytes(content)
    assert not folder.is_written(B)


def test_a_run_cannot_be_closed_before_every_image_is_written(folder: RunFolder) -> None:
    folder.write(A, result(A), SIZE)
    with pytest.raises(StoreError, match=r"b\.json"):
        folder.close([A, B], {})
    assert not verify(folder.folder)
    assert not (folder.folder / "run.json").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        RunFolder(tmp_path / "run", A.names).write(A, result(A), SIZE)


def test_a_whole_run_is_verified(done: RunFolder) -> None:
    assert verify(done.folder)


@pytest.mark.parametrize("name", ["maps/sub/a.png", "masks/copy/c.png", "regions.jsonl", "run.json"])
def test_a_missing_file_is_noticed(done: RunFolder, name: str) -> None:
    (done.folder / name).unlink()
    assert not verify(done.folder)


def test_a_damaged_collection_is_noticed(done: RunFolder) -> None:
    path = done.folder / "regions.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert not verify(done.folder)
    with pytest.raises(StoreError, match=r"regions\.jsonl: cannot be read"):
        list(read_records(done.folder))


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    assert not verify(tmp_path)
    with pytest.raises(StoreError, match=r"run\.json"):
        read_run(tmp_path)
