"""Environments made by the real pip, of packages from a folder instead of a registry."""

from __future__ import annotations

import base64
import hashlib
import resource
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from integrations import environments
from integrations.environments import held, is_held
from saa_core.errors import StoreError


@pytest.fixture
def requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pins of a package with one program, `hello`; pip finds it in a folder and asks nobody else."""
    wheel = make_wheel(tmp_path / "wheels")
    settings = {"CONFIG_FILE": "/dev/null", "FIND_LINKS": str(wheel.parent), "NO_INDEX": "1", "RETRIES": "0"}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    pins = tmp_path / "requirements.txt"
    pins.write_text(f"hello==1.0 \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    return pins


def make_wheel(folder: Path) -> Path:
    folder.mkdir()
    info = "hello-1.0.dist-info"
    files = {
        "hello.py": "def main():\n    print('hello')\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: hello\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nhello = hello:main\n",
    }
    path = folder / "hello-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr(f"{info}/RECORD", "".join(map(record, files, files.values())) + f"{info}/RECORD,,\n")
    return path


def record(name: str, text: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(text)}\n"


def hello(folder: Path) -> str:
    return subprocess.run([folder / "bin" / "hello"], capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_installed_once_by_one_of_two(requirements: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []

    def install(_: int) -> Path:
        return environments.install("hello-1.0", requirements, tmp_path / "s", lambda *step: steps.append(step))

    with ThreadPoolExecutor() as pool:
        folders = set(pool.map(install, range(2)))
    assert len(folders) == 1
    assert hello(folders.pop()) == "hello\n"
    assert steps == [("fetching hello-1.0", 1, 1), ("installing hello-1.0", 0, 1), ("installing hello-1.0", 1, 1)]


KILLED = """
import os, sys
from pathlib import Path
from integrations import environments
environments.install("hello-1.0", Path(sys.argv[1]), Path(sys.argv[2]), lambda *step: os.kill(os.getpid(), 9))
"""


@pytest.mark.slow
def test_one_that_was_killed_is_made_again(requirements: Path, tmp_path: Path) -> None:
    services = tmp_path / "s"
    command = [sys.executable, "-c", KILLED, str(requirements), str(services)]
    assert subprocess.run(command, check=False).returncode == -9
    (left,) = (path for path in services.iterdir() if path.is_dir())
    (left / "left over").touch()
    folder = environments.install("hello-1.0", requirements, services)
    assert folder == left
    assert not (left / "left over").exists()
    assert hello(folder) == "hello\n"


@pytest.mark.slow
def test_no_registry(requirements: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:hunter2@127.0.0.1:9/simple")
    with pytest.raises(StoreError, match=r"hello-1\.0: no package registry was reached") as caught:
        environments.install("hello-1.0", requirements, tmp_path / "s")
    assert "hunter2" not in str(caught.value)


@pytest.mark.slow
def test_another_package_under_the_same_name(requirements: Path, tmp_path: Path) -> None:
    requirements.write_text(f"hello==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(StoreError, match="not the one this version of saa was proven with"):
        environments.install("hello-1.0", requirements, tmp_path / "s")


@pytest.mark.parametrize("size", [1_000, 300_000])
def test_a_full_disk(requirements: Path, tmp_path: Path, size: int) -> None:
    """A limit of the size of files ends a write like a full disk; pip's own files are larger than ours."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(StoreError, match="the disk is full; free some space or choose another folder"):
            environments.install("hello-1.0", requirements, tmp_path / "s")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_folder_that_cannot_be_written(requirements: Path, tmp_path: Path) -> None:
    (tmp_path / "s").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        environments.install("hello-1.0", requirements, tmp_path / "s")


def test_what_pip_says_otherwise_is_passed_on(requirements: Path, tmp_path: Path) -> None:
    requirements.write_text("hello==1.0\n")
    with pytest.raises(StoreError, match=r"could not be installed: ERROR: .*hashes"):
        environments.install("hello-1.0", requirements, tmp_path / "s")


def test_a_lock_lives_as_long_as_whoever_inherits_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not is_held(lock)
    with held(lock) as descriptor:
        assert is_held(lock)
        child = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    assert is_held(lock)
    child.kill()
    child.wait()
    assert not is_held(lock)


def test_a_lock_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    assert not is_held(tmp_path / "file" / "lock")
    with pytest.raises(StoreError, match="cannot be read"):
        is_held(tmp_path / "loop")
    with pytest.raises(StoreError, match="cannot be written"), held(tmp_path / "file" / "lock"):
        pass
