"""Images in a store of a kind of its own, `deadly://`, plugged into fsspec by an entry point as any other kind is.

It writes down which process reads which image, and one image ends the process that reads it, as a decoder's crash or
the kernel's out-of-memory killer does. Other processes find the plugin through PYTHONPATH.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

POISON = "poison.png"
_SPARED, _DIARY, _SECONDS = "DEADLY_SPARES", "DEADLY_DIARY", "DEADLY_SECONDS"


class Deadly(LocalFileSystem):  # type: ignore[misc]
    """Local files under `deadly://`; the process in DEADLY_SPARES reads them as they are."""

    protocol = "deadly"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).removeprefix("deadly://"))

    def unstrip_protocol(self, name: str) -> str:
        return f"deadly://{self._strip_protocol(name)}"

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if os.getpid() != int(os.environ[_SPARED]):
            with Path(os.environ[_DIARY]).open("a") as diary:
                diary.write(f"{os.getpid()} {Path(path).name}\n")
            if Path(path).name == POISON:
                os._exit(1)
            time.sleep(float(os.environ[_SECONDS]))
        return super()._open(path, mode, **options)


@dataclass(frozen=True)
class DeadlyStore:
    """Where the diary is; `url` gives a folder as this store shows it."""

    diary: Path

    def url(self, folder: Path) -> str:
        return f"deadly://{folder}"

    def read(self) -> list[tuple[int, str]]:
        """(process, image) of every reading so far, in order."""
        lines = self.diary.read_text().split("\n")[:-1] if self.diary.exists() else []
        return [(int(pid), name) for pid, _, name in (line.partition(" ") for line in lines)]

    def times(self) -> Counter[str]:
        """How often each image was read."""
        return Counter(name for _, name in self.read())


@pytest.fixture
def deadly_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], DeadlyStore]:
    """Plugs the store in for this process and those that it starts; a reading takes them the seconds that are given."""
    plugin = tmp_path / "plugin" / "deadly-1.dist-info"
    plugin.mkdir(parents=True)
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1\n")
    (plugin / "entry_points.txt").write_text(f"[fsspec.specs]\ndeadly = {__name__}:Deadly\n")
    root = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(plugin.parent), str(root)]))
    monkeypatch.syspath_prepend(plugin.parent)  # processes that are spawned get the path of this one
    monkeypatch.setenv(_SPARED, str(os.getpid()))
    monkeypatch.setenv(_DIARY, str(tmp_path / "diary.txt"))
    fsspec.register_implementation("deadly", Deadly, clobber=True)

    def make(seconds: float = 0.0) -> DeadlyStore:
        monkeypatch.setenv(_SECONDS, str(seconds))
        return DeadlyStore(tmp_path / "diary.txt")

    return make
