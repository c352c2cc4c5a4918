import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from integrations.image_sets import ImageSet, read_bytes, scan
from saa_core.errors import DatasetError, ImageError


def put(folder: Path, *names: str, content: bytes | None = None) -> None:
    """Files whose content is their own name, unless given."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() if content is None else content)


def names(images: ImageSet) -> list[tuple[str, ...]]:
    return [ref.names for ref in images.refs]


def reasons(images: ImageSet) -> dict[str, str]:
    return {bad.name: bad.reason for bad in images.quarantined}


# ---------------------------------------------------------------------------------------------------- kinds of source


def test_a_folder_to_any_depth_sorted_by_name(tmp_path: Path) -> None:
    put(tmp_path, "b.png", "a/z.JPG", "a/y/x.tiff", "notes.md", "table.csv", "none", ".hidden.png", ".git/x.png")
    images = scan(str(tmp_path))
    assert names(images) == [("a/y/x.tiff",), ("a/z.JPG",), ("b.png",)]
    assert images.root == str(tmp_path)
    assert images.quarantined == ()
    first = images.refs[0]
    assert first.key == hashlib.sha256(b"a/y/x.tiff").hexdigest()
    assert first.uri == str(tmp_path / "a/y/x.tiff")
    assert read_bytes(first) == b"a/y/x.tiff"


def test_a_relative_folder(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    images = scan(os.path.relpath(tmp_path))
    assert images.root == str(tmp_path)
    assert images.refs[0].uri == str(tmp_path / "a.png")


def test_one_file(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    assert names(scan(str(tmp_path / "b.png"))) == [("b.png",)]


def test_a_glob_keeps_names_below_its_fixed_part(tmp_path: Path) -> None:
    put(tmp_path, "set/a/1.png", "set/b/1.png", "set/b/2.jpg", "set/b/readme.txt", "set/.c/1.png", "other/1.png")
    images = scan(str(tmp_path / "set" / "*" / "*"))
    assert images.root == str(tmp_path / "set")
    assert names(images) == [("a/1.png",), ("b/1.png",), ("b/2.jpg",)]
    assert names(scan(str(tmp_path / "set" / "**" / "1.png"))) == [("a/1.png",), ("b/1.png",)]


def test_a_glob_may_match_folders(tmp_path: Path) -> None:
    put(tmp_path, "a/test/x/1.png", "b/test/2.png", "b/train/3.png")
    assert names(scan(str(tmp_path / "*" / "test"))) == [("a/test/x/1.png",), ("b/test/2.png",)]


def test_a_folder_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    put(tmp_path, "[1]/a.png")
    assert names(scan(str(tmp_path / "[1]"))) == [("a.png",)]


def test_a_list_is_relative_to_itself(tmp_path: Path) -> None:
    put(tmp_path, "lists/a/1.png", "lists/2.png")
    text = "# chosen\n\na/1.png   # the first\n2.png\na/1.png\nmissing.png\n"
    put(tmp_path, "lists/set.txt", content=text.encode())
    images = scan(str(tmp_path / "lists" / "set.txt"))
    assert names(images) == [("2.png",), ("a/1.png",)]
    assert reasons(images) == {"missing.png": "cannot be read: it vanished, or is a link to nothing"}


def test_names_from_a_list_never_lead_out_of_the_root(tmp_path: Path) -> None:
    put(tmp_path, "x/a/1.png", "x/b/2.png")
    put(tmp_path, "lists/set.txt", content=f"../x/a/1.png\n{tmp_path}/x/b/2.png\n".encode())
    images = scan(str(tmp_path / "lists" / "set.txt"))
    assert images.root == str(tmp_path / "x")
    assert names(images) == [("a/1.png",), ("b/2.png",)]


@pytest.mark.parametrize("content", [b"", b"# nothing\n"])
def test_a_list_of_nothing(tmp_path: Path, content: bytes) -> None:
    put(tmp_path, "set.txt", content=content)
    with pytest.raises(DatasetError, match="no image found"):
        scan(str(tmp_path / "set.txt"))


def test_a_list_that_is_no_text(tmp_path: Path) -> None:
    put(tmp_path, "set.txt", content=b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="the list cannot be read"):
        scan(str(tmp_path / "set.txt"))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("missing", "no such folder, file or list"),
        ("empty", "no image found .*jpg"),
        ("notes.md", "no image found"),
        ("*.png", "no image found"),
        ("nonsense://x/y", "cannot be listed"),
        ("memory://nothing/here", "no image found"),
    ],
)
def test_sources_without_an_image(tmp_path: Path, source: str, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path, "notes.md")
    with pytest.raises(DatasetError, match=reason):
        scan(source if "://" in source else str(tmp_path / source))


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    for name in ("set/a/1.png", "set/2.png", "set/.x.png", "set/read.me"):
        filesystem.pipe_file(f"/bucket/{name}", name.encode())
    filesystem.pipe_file("/bucket/set/empty.png", b"")
    yield filesystem
    filesystem.store.clear()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("memory://bucket/set", [("2.png",), ("a/1.png",)]),
        ("memory://bucket/set/", [("2.png",), ("a/1.png",)]),
        ("memory://bucket/set/2.png", [("2.png",)]),
        ("memory://bucket/set/*/*.png", [("a/1.png",)]),
    ],
)
def test_a_url(memory: fsspec.AbstractFileSystem, source: str, found: list[tuple[str, ...]]) -> None:
    images = scan(source)
    assert names(images) == found
    assert images.root.startswith("memory://")
    assert read_bytes(images.refs[-1]).decode().endswith(found[-1][0])


def test_bad_files_behind_a_url_are_quarantined(memory: fsspec.AbstractFileSystem) -> None:
    assert reasons(scan("memory://bucket/set")) == {"empty.png": "empty file"}


def test_what_vanished_behind_a_url(memory: fsspec.AbstractFileSystem) -> None:
    ref = scan("memory://bucket/set/2.png").refs[0]
    memory.rm_file("/bucket/set/2.png")
    with pytest.raises(ImageError, match=r"2\.png"):
        read_bytes(ref)


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    assert scan(f"file://{tmp_path}").root == str(tmp_path)


# ----------------------------------------------------------------------------------------------------- what is left out


def test_the_masks_of_an_mvtec_layout_are_no_product_images(tmp_path: Path) -> None:
    put(tmp_path, "bottle/test/good/1.png", "bottle/test/big/2.png", "bottle/ground_truth/big/2_mask.png")
    expected = [("test/big/2.png",), ("test/good/1.png",)]
    assert names(scan(str(tmp_path / "bottle"))) == expected
    assert [name for (name,) in names(scan(str(tmp_path)))] == [f"bottle/{name}" for (name,) in expected]


def test_a_folder_of_that_name_alone_is_taken(tmp_path: Path) -> None:
    put(tmp_path, "ground_truth/a.png", "photos/ground_truth/b.png")
    assert len(scan(str(tmp_path)).refs) == 2
    assert names(scan(str(tmp_path / "ground_truth"))) == [("a.png",)]


@pytest.mark.parametrize("source", [".", "**/*.png"])
def test_outputs_of_runs_are_not_taken(tmp_path: Path, source: str) -> None:
    put(tmp_path, "a.png", "out/catalog.sqlite", "out/runs/1/maps/a.png", "ws/runs/2/maps/a.png")
    assert names(scan(str(tmp_path / source), exclude=[tmp_path / "ws"])) == [("a.png",)]


def test_a_run_may_be_looked_at_when_asked_for(tmp_path: Path) -> None:
    put(tmp_path, "catalog.sqlite", "runs/1/maps/a.png")
    assert names(scan(str(tmp_path / "runs"))) == [("1/maps/a.png",)]


def test_a_limit(tmp_path: Path) -> None:
    put(tmp_path, "c.png", "a.png", "b.png")
    assert names(scan(str(tmp_path), limit=2)) == [("a.png",), ("b.png",)]


# ------------------------------------------------------------------------------------------------------------- content


def test_the_same_bytes_under_two_names_are_one_image(tmp_path: Path) -> None:
    put(tmp_path, "b/1.png", "a/1.png", content=b"same")
    put(tmp_path, "c.png")
    images = scan(str(tmp_path), lot="L7")
    assert names(images) == [("a/1.png", "b/1.png"), ("c.png",)]
    assert images.refs[0].uri == str(tmp_path / "a/1.png")
    assert {ref.lot for ref in images.refs} == {"L7"}


def test_bad_files_are_quarantined_and_the_rest_goes_on(tmp_path: Path) -> None:
    put(tmp_path, "good.png")
    put(tmp_path, "empty.png", content=b"")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    images = scan(str(tmp_path))
    assert names(images) == [("good.png",)]
    assert reasons(images) == {
        "broken.png": "cannot be read: it vanished, or is a link to nothing",
        "empty.png": "empty file",
        "pipe.png": "not a regular file",
    }


def test_a_set_of_bad_files_only_is_a_set(tmp_path: Path) -> None:
    put(tmp_path, "empty.png", content=b"")
    assert scan(str(tmp_path)).refs == ()


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    put(tmp_path, "good.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(b"x")
    images = scan(str(tmp_path))
    assert names(images) == [("good.png",)]
    assert reasons(images) == {r"caf\udce9.png": "its name is not valid UTF-8; rename it"}


def test_files_and_folders_without_permission(tmp_path: Path) -> None:
    put(tmp_path, "good.png", "secret.png", "locked/a.png")
    (tmp_path / "secret.png").chmod(0)
    (tmp_path / "locked").chmod(0)
    if os.access(tmp_path / "secret.png", os.R_OK):
        pytest.skip("the superuser may read everything")
    images = scan(str(tmp_path))
    (tmp_path / "locked").chmod(0o700)
    assert names(images) == [("good.png",)]
    assert reasons(images) == {
        "locked/": "cannot be read: Permission denied",
        "secret.png": "cannot be read: Permission denied",
    }


def test_linked_folders_are_entered_once(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/a.png", "set/b.png")
    (tmp_path / "set" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "loop").symlink_to(tmp_path / "set")
    assert names(scan(str(tmp_path / "set"))) == [("b.png",), ("link/a.png",)]


def test_bytes_that_changed_since_the_scan(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    ref = scan(str(tmp_path)).refs[0]
    put(tmp_path, "a.png", content=b"other")
    with pytest.raises(ImageError, match=r"a\.png: changed since the set was scanned"):
        read_bytes(ref)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match=r"a\.png: cannot be read"):
        read_bytes(ref)
    (tmp_path / "a.png").mkdir()
    with pytest.raises(ImageError, match=r"a\.png: cannot be read: Is a directory"):
        read_bytes(ref)
