"""OpenVINO: the same numbers as torch, one conversion per key, damaged files, and not a word to anyone."""

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from saa_core.errors import StoreError
from saa_core.runtime import Compute, converted, inference


class Net(torch.nn.Module):  # type: ignore[misc]
    """A convolution, attention over its cells, and a linear layer: what the real networks are made of."""

    def __init__(self, seed: int = 0, several: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.patches, self.qkv, self.head = (
            torch.nn.Conv2d(3, 16, 4, 4),
            torch.nn.Linear(16, 48),
            torch.nn.Linear(16, 8),
        )
        self.several = several

    def forward(self, images: Any) -> Any:
        cells = self.patches(images).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(cells).reshape(*cells.shape[:2], 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return [self.head(mixed), cells] if self.several else self.head(mixed)


def images(count: int, side: int = 32) -> Any:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def run(function: Callable[..., Any], *inputs: Any) -> Any:
    with inference(Compute()):
        return function(*inputs)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.suffix: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*.*")}


@pytest.fixture
def compute(tmp_path: Path) -> Compute:
    return Compute(runtime="openvino", cache=tmp_path)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds `Net`, not to be changed."""
    folder = tmp_path_factory.mktemp("kept")
    converted(Net(), images(1), "net", Compute(runtime="openvino", cache=folder))
    return folder


class TestNumbers:
    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_a_tensor_of_any_number_of_rows(self, compute: Compute, count: int) -> None:
        found = run(converted(Net(), images(2), "net", compute), images(count))
        assert (found.shape, found.dtype) == ((count, 64, 8), torch.float32)
        torch.testing.assert_close(found, run(Net(), images(count)), rtol=0, atol=1e-5)

    def test_a_list_where_the_module_gives_one(self, compute: Compute) -> None:
        found = run(converted(Net(several=True), images(1), "net", compute), images(2))
        assert isinstance(found, list)
        torch.testing.assert_close(found, run(Net(several=True), images(2)), rtol=0, atol=1e-5)

    def test_several_inputs(self, compute: Compute) -> None:
        module, inputs = torch.nn.CosineSimilarity(), (images(3), images(3).flip(2))
        found = run(converted(module, inputs, "similarity", compute), *inputs)
        torch.testing.assert_close(found, run(module, *inputs), rtol=0, atol=1e-5)

    def test_inputs_that_are_not_contiguous(self, compute: Compute) -> None:
        turned = images(2).transpose(2, 3)
        found = run(converted(Net(), images(1), "net", compute), turned)
        torch.testing.assert_close(found, run(Net(), turned), rtol=0, atol=1e-5)

    def test_bfloat16_is_near(self, tmp_path: Path) -> None:
        compute = Compute(precision="bfloat16", runtime="openvino", cache=tmp_path)
        found = run(converted(Net(), images(1), "net", compute), images(2))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, run(Net(), images(2)), rtol=0, atol=0.02)

    def test_a_model_that_is_converted_in_reduced_precision_is_exact_in_float32(self, compute: Compute) -> None:
        module = Net()
        with inference(Compute(precision="bfloat16")):
            converted(module, images(1), "net", compute)
        found = run(converted(Net(seed=9), images(1), "net", compute), images(2))
        torch.testing.assert_close(found, run(Net(), images(2)), rtol=0, atol=1e-5)

    def test_threads_may_share_it(self, compute: Compute) -> None:
        function, inputs = converted(Net(), images(1), "net", compute), images(8)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda row: function(inputs[row : row + 1]), range(8)))
        torch.testing.assert_close(torch.cat(found), run(Net(), inputs), rtol=0, atol=1e-5)

    def test_what_it_gave_stays_when_it_is_called_again(self, compute: Compute) -> None:
        function = converted(Net(), images(1), "net", compute)
        first = run(function, images(1))
        kept = first.clone()
        run(function, images(1) + 1)
        assert torch.equal(first, kept)


class TestCache:
    def test_a_key_is_converted_once(self, compute: Compute, tmp_path: Path) -> None:
        first = run(converted(Net(), images(1), "net", compute), images(1))
        before = files(tmp_path)
        assert set(before) == {".xml", ".bin"}
        other = run(converted(Net(seed=9), images(1), "net", compute), images(1))  # the key says that it is the same
        assert torch.equal(other, first)
        assert files(tmp_path) == before

    def test_another_key_or_shape_is_another_model(self, compute: Compute, tmp_path: Path) -> None:
        run(converted(Net(), images(1), "net", compute), images(1))
        found = run(converted(Net(seed=9), images(1), "other", compute), images(1))
        torch.testing.assert_close(found, run(Net(seed=9), images(1)), rtol=0, atol=1e-5)
        wide = run(converted(Net(), images(1, 40), "net", compute), images(1, 40))
        torch.testing.assert_close(wide, run(Net(), images(1, 40)), rtol=0, atol=1e-5)
        assert len(list(tmp_path.rglob("*.xml"))) == 3

    @pytest.mark.parametrize("suffix", [".xml", ".bin"])
    @pytest.mark.parametrize("left", [0, 200, None])
    def test_a_damaged_file_is_written_anew(
        self, kept: Path, compute: Compute, tmp_path: Path, suffix: str, left: int | None
    ) -> None:
        shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
        (weights,) = tmp_path.rglob("*.bin")
        whole, path = weights.read_bytes(), weights.with_suffix(suffix)
        content = path.read_bytes()
        path.unlink()
        if left is not None:
            path.write_bytes(content[:left])
        found = run(converted(Net(), images(1), "net", compute), images(1))
        torch.testing.assert_close(found, run(Net(), images(1)), rtol=0, atol=1e-5)
        assert path.stat().st_size > 200
        assert weights.read_bytes() == whole  # so it does not matter which of two processes wrote which of two files

    def test_it_is_the_users_cache_unless_told_otherwise(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        converted(Net(), images(1), "net", Compute(runtime="openvino"))
        assert len(list((tmp_path / "saa" / "openvino").glob("*.xml"))) == 1

    def test_a_folder_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        blocked = tmp_path / "file"
        blocked.touch()
        with pytest.raises(StoreError, match=r"file.openvino: cannot keep a converted model: [^\n]*$"):
            converted(Net(), images(1), "net", Compute(runtime="openvino", cache=blocked))


class TestSilence:
    """The package sends an event for every import and conversion, unless a file in the user's home says no."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "before", ["", "os.environ['CI'] = 'true'; import openvino; del os.environ['CI']"], ids=["first", "later"]
    )
    def test_no_connection_no_process_and_no_file_at_home(self, before: str, tmp_path: Path) -> None:
        program = f"""
            import os, sys
            def listen(event, detail):
                if event.startswith("socket.") or event == "os.fork":
                    os.write(2, f"{{event}} {{detail}}\\n".encode())
                    raise OSError("not in a test")
            {before}
            import torch
            from pathlib import Path
            from saa_core.runtime import Compute, converted
            sys.addaudithook(listen)
            converted(torch.nn.Linear(4, 4), torch.ones(1, 4), "key", Compute(cache=Path("cache")))(torch.ones(1, 4))
        """
        home = tmp_path / "home"
        home.mkdir()
        asked = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**asked, "HOME": str(home), "PYTHONPATH": path},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert "socket." not in done.stderr
        assert "os.fork" not in done.stderr
        assert [path.name for path in home.rglob("*")] == []
