"""What every place that blobs are kept in must do. A test class inherits the suite and gives the fixture `store`."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from integrations.blobs import BlobStore

KEY = "ab12" * 16


class BlobStoreContract:
    @pytest.fixture
    def store(self) -> Iterator[BlobStore]:
        raise NotImplementedError

    def files(self, store: BlobStore) -> list[str]:
        """Every file below the store's root."""
        return sorted(store._files.find(store._root))

    def damage(self, store: BlobStore, content: bytes) -> None:
        (path,) = self.files(store)
        store._files.pipe_file(path, content)

    def test_what_was_never_put_is_absent(self, store: BlobStore) -> None:
        assert store.get("candidates", KEY) is None
        assert not store.has("candidates", KEY)

    @pytest.mark.parametrize("data", [b"", b"SAA1", b"\r\n\0\xff", bytes(range(256)) * 5000])
    def test_what_was_put_comes_back(self, store: BlobStore, data: bytes) -> None:
        store.put("candidates", KEY, data)
        assert store.has("candidates", KEY)
        assert store.get("candidates", KEY) == data

    def test_kinds_do_not_share_keys(self, store: BlobStore) -> None:
        store.put("a", KEY, b"1")
        assert store.get("b", KEY) is None

    def test_one_file_in_a_folder_by_the_first_letters_of_its_key(self, store: BlobStore) -> None:
        store.put("candidates", KEY, b"payload")
        (path,) = self.files(store)
        assert path.endswith(f"/candidates/ab/{KEY}")

    def test_an_existing_key_is_not_rewritten(self, store: BlobStore) -> None:
        store.put("a", KEY, b"first")
        store.put("a", KEY, b"second")
        assert store.get("a", KEY) == b"first"

    @pytest.mark.parametrize("keep", [0, 3, 36, 40])
    def test_a_truncated_blob_is_absent_with_one_warning_and_can_be_put_again(
        self, store: BlobStore, caplog: pytest.LogCaptureFixture, keep: int
    ) -> None:
        store.put("a", KEY, b"payload")
        (path,) = self.files(store)
        self.damage(store, store._files.cat_file(path)[:keep])
        assert store.get("a", KEY) is None
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert KEY in caplog.text
        store.put("a", KEY, b"payload")
        assert store.get("a", KEY) == b"payload"

    def test_a_flipped_bit_is_found(self, store: BlobStore) -> None:
        store.put("a", KEY, b"payload")
        (path,) = self.files(store)
        content = store._files.cat_file(path)
        self.damage(store, content[:-1] + bytes([content[-1] ^ 1]))
        assert store.get("a", KEY) is None

    @pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b"])
    def test_a_name_that_could_lead_elsewhere_is_refused(self, store: BlobStore, name: str) -> None:
        with pytest.raises(ValueError, match="no name for a blob"):
            store.put("a", name, b"")
        with pytest.raises(ValueError, match="no name for a blob"):
            store.get(name, KEY)

    def test_its_files_are_listed_and_deleted(self, store: BlobStore) -> None:
        assert list(store.files()) == []
        store.put("a", KEY, b"1")
        store.put("b", KEY, b"22")
        found = list(store.files())
        assert [(each.kind, each.key, each.bytes, each.is_whole) for each in found] == [
            ("a", KEY, 37, True),
            ("b", KEY, 38, True),
        ]
        assert all(abs(datetime.now(UTC) - each.modified) < timedelta(minutes=10) for each in found)
        store.remove([found[0], found[0]])
        assert [each.kind for each in store.files()] == ["b"]
        assert not store.has("a", KEY)
