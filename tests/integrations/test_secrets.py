import os
import stat
from pathlib import Path

import pytest

from integrations.secrets import secret
from saa_core.errors import StoreError


def make() -> str:
    return os.urandom(20).hex()


def test_made_once_for_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "token"
    before = os.umask(0)
    try:
        first = secret(path, make)
    finally:
        os.umask(before)
    assert secret(path, make) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["token"]


def test_the_first_of_two_makers_wins(tmp_path: Path) -> None:
    path = tmp_path / "token"

    def while_another_makes_one() -> str:
        secret(path, lambda: "the other's")
        return "mine"

    assert secret(path, while_another_makes_one) == "the other's"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_one_that_others_can_read_is_refused_and_not_shown(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    value = secret(path, make)
    path.chmod(mode)
    with pytest.raises(StoreError, match=f"chmod 600 {path}") as caught:
        secret(path, make)
    assert value not in str(caught.value)


def test_an_empty_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    with pytest.raises(StoreError, match="holds no secret; delete it"):
        secret(path, make)


def test_one_that_cannot_be_made_or_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        secret(tmp_path / "file" / "token", make)
    (tmp_path / "folder").mkdir(mode=0o700)
    with pytest.raises(StoreError, match="cannot be read"):
        secret(tmp_path / "folder", make)
