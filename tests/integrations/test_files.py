import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from integrations.files import atomic, write_atomic
from integrations.urls import masked_url
from saa_core.errors import StoreError

WRITE_PAST_THE_LIMIT = """
import resource, sys
from pathlib import Path
from integrations.files import write_atomic
from saa_core.errors import StoreError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(Path(sys.argv[1]), bytes(5000))
except StoreError as error:
    print(error.reason)
"""


def test_folders_are_made_and_files_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.bin"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_filled_piece_by_piece_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a" / "c.bin"
    with atomic(path) as file:
        file.write(b"one ")
        assert not path.exists()
        file.write(b"two")
    assert path.read_bytes() == b"one two"
    with contextlib.suppress(ValueError), atomic(path) as file:
        file.write(b"three")
        raise ValueError
    assert path.read_bytes() == b"one two"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(StoreError, match="cannot be written"):
        write_atomic(tmp_path / "x", b"")
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_a_file_as_the_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        write_atomic(tmp_path / "x" / "y", b"")


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on file sizes")
def test_when_there_is_no_room_the_old_file_stays_and_no_part_is_left(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    command = [sys.executable, "-c", WRITE_PAST_THE_LIMIT, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert "free some space" in done.stdout
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/data/blobs", "/data/blobs"),
        ("s3://bucket/a", "s3://bucket/a"),
        ("postgresql://u:p@ss/w@host:5432/db", "postgresql://u:***@ss/w@host:5432/db"),
        ("postgresql+psycopg://u:p%40ss@host/db", "postgresql+psycopg://u:***@host/db"),
        ("sftp://u@host/x", "sftp://u@host/x"),
        ("https://host/x?v=1&access_token=abc&z=2", "https://host/x?v=1&access_token=***&z=2"),
    ],
)
def test_masked_url(url: str, shown: str) -> None:
    assert masked_url(url) == shown
