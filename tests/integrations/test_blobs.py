import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from integrations.blobs import BlobFile, BlobStore
from saa_core.errors import StoreError
from tests.contracts.blob_store import KEY, BlobStoreContract


class TestFolder(BlobStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> BlobStore:
        return BlobStore(str(tmp_path / "blobs"))


class TestMemory(BlobStoreContract):
    @pytest.fixture
    def store(self) -> Iterator[BlobStore]:
        yield BlobStore("memory://contract")
        fsspec.filesystem("memory").store.clear()


class TestS3(BlobStoreContract):
    @pytest.fixture
    def store(self, s3_bucket: str) -> BlobStore:
        return BlobStore(f"{s3_bucket}/saa")


class FullFolder(LocalFileSystem):  # type: ignore[misc]
    """A disk with room for half of what it is given."""

    cachable = False

    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:
        super().pipe_file(path, value[: len(value) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullObjectStore(MemoryFileSystem):  # type: ignore[misc]
    cachable = False
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs: list[str] = [""]  # noqa: RUF012

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value[: len(value) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Unreadable(MemoryFileSystem):  # type: ignore[misc]
    cachable = False

    def cat_file(self, path: str, **kwargs: Any) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize("filesystem", [FullFolder(), FullObjectStore()])
def test_a_full_disk_says_what_to_do_and_leaves_nothing(tmp_path: Path, filesystem: Any) -> None:
    root = str(tmp_path / "blobs")
    store = BlobStore(root, filesystem)
    with pytest.raises(StoreError, match="disk is full; free some space"):
        store.put("a", KEY, b"payload" * 100)
    assert filesystem.find(root) == []
    assert not store.has("a", KEY)


def test_what_is_there_but_cannot_be_read_is_an_error() -> None:
    with pytest.raises(StoreError, match="Permission denied"):
        BlobStore("x", Unreadable()).get("a", KEY)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file.*cannot be written"):
        BlobStore(str(tmp_path / "file")).put("a", KEY, b"")


def test_a_bucket_that_is_not_there(s3_bucket: str) -> None:
    store = BlobStore(f"{s3_bucket}-not/saa")
    assert store.get("a", KEY) is None
    with pytest.raises(StoreError, match="cannot be written"):
        store.put("a", KEY, b"")


NOBODY = "AWS_ENDPOINT_URL", "http://127.0.0.1:9"
STRANGER = "AWS_SECRET_ACCESS_KEY", "no"


@pytest.mark.parametrize(
    ("variable", "value", "call"), [(*NOBODY, "get"), *((*STRANGER, call) for call in ("put", "get", "has"))]
)
def test_a_server_that_does_not_answer_or_refuses(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, call: str
) -> None:
    monkeypatch.setenv(variable, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    store = BlobStore(s3_bucket)
    ask: dict[str, Callable[[], object]] = {
        "put": lambda: store.put("a", KEY, b""),
        "get": lambda: store.get("a", KEY),
        "has": lambda: store.has("a", KEY),
    }
    with pytest.raises(StoreError, match="s3://"):
        ask[call]()


@pytest.mark.parametrize("url", ["nonsense://x", "sqlite3+x://y"])
def test_an_unknown_protocol(url: str) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        BlobStore(url)


def test_errors_do_not_show_passwords() -> None:
    with pytest.raises(StoreError) as caught:
        BlobStore("nonsense://me:hunter2@host/x?token=abc")
    assert "hunter2" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_writers_of_one_key_do_not_disturb_each_other(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4000
    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(BlobStore(str(tmp_path)).put, "a", KEY, data) for _ in range(32)]:
            future.result()
    assert BlobStore(str(tmp_path)).get("a", KEY) == data
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [KEY]


class Stubborn(MemoryFileSystem):  # type: ignore[misc]
    """Neither lists nor deletes."""

    cachable = False

    def exists(self, path: str, **kwargs: Any) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def rm_file(self, path: str) -> None:
        raise RuntimeError("access denied")


def test_a_store_that_cannot_be_listed_or_cleaned_says_so() -> None:
    store = BlobStore("x", Stubborn())
    with pytest.raises(StoreError, match="cannot be listed: Permission denied"):
        list(store.files())
    with pytest.raises(StoreError, match=r"\(a/k\): cannot be used: access denied"):
        store.remove([BlobFile("a", "k", "x/a/k/k", 1, datetime.now(UTC))])
