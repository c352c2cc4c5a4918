"""How models are run: what a machine can do, what is set once, batches, and linear layers through oneDNN."""

import platform
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from saa_core.errors import SettingsError
from saa_core.runtime import Compute, choose, in_batches, inference, pack_linears, prepare, processors


def fresh_process(program: str) -> None:
    """Runs a program in a Python of its own, where a warning is an error."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


class TestCompute:
    @pytest.mark.parametrize(
        ("compute", "tag"),
        [
            (Compute(), ""),
            (Compute("cuda"), ""),
            (Compute(precision="bfloat16"), "-bfloat16"),
            (Compute(runtime="openvino"), "-openvino"),
            (Compute(precision="bfloat16", runtime="openvino", cache=Path("there")), "-bfloat16-openvino"),
        ],
    )
    def test_the_tag_is_what_changes_results(self, compute: Compute, tag: str) -> None:
        assert compute.tag == tag


class TestChoose:
    def test_auto_prefers_an_accelerator(self) -> None:
        there = (torch.cuda.is_available(), torch.backends.mps.is_available())
        expected = {(True, False): "cuda", (False, True): "mps", (False, False): "cpu"}[there]
        assert choose() == Compute(expected)

    def test_what_is_named_is_taken(self, tmp_path: Path) -> None:
        assert choose("cpu", cache=tmp_path) == Compute("cpu", cache=tmp_path)

    def test_a_device_that_is_absent_is_refused_with_those_that_are_there(self) -> None:
        absent = "mps" if torch.cuda.is_available() else "cuda"
        with pytest.raises(SettingsError, match=rf"^--device: this machine has no {absent}: use .*cpu$"):
            choose(absent)

    @pytest.mark.parametrize("precision", ["bfloat16", "float16"])
    def test_a_precision_is_computed_in_or_refused(self, precision: Any) -> None:
        try:
            compute = choose("cpu", precision)
        except SettingsError as error:
            pytest.skip(str(error))
        with inference(compute):
            assert torch.nn.Linear(4, 4)(torch.ones(2, 4)).dtype == getattr(torch, precision)

    def test_without_torch_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(SettingsError, match=r"pip install 'saa-labeling\[foundation\]'"):
            choose()

    def test_without_openvino_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "openvino", None)
        with pytest.raises(SettingsError, match=r"pip install 'saa-labeling\[openvino\]'"):
            choose(runtime="openvino")

    def test_openvino_runs_on_the_processor_only(self) -> None:
        with pytest.raises(SettingsError, match="not on cuda: use --device cpu"):
            choose("cuda", runtime="openvino")


class TestPrepare:
    def test_every_processor_works_however_often_it_is_called(self) -> None:
        threads = [threading.Thread(target=prepare) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.get_num_threads() == processors() >= 1

    def test_importing_is_cheap_and_numpy_stays_quiet(self) -> None:
        fresh_process("""
import sys
from saa_core import runtime
assert "torch" not in sys.modules
import numpy as np
with runtime.inference(runtime.Compute()):
    assert np.finfo(np.float32).tiny > 0
""")

    @pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left as they are")
    def test_large_arrays_get_their_memory_back(self) -> None:
        fresh_process("""
import resource
import torch
from saa_core.runtime import prepare
prepare()

def faults(arrays):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(arrays):
        torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(8)  # the first ones take turns at two or three places
assert faults(8) < 1000  # 64 MiB are 16384 pages, and each of the eight would pay for them
""")


def denormals() -> int:
    """How many of many products below the smallest normal number are kept, whichever thread computes them."""
    products = torch.full((1 << 20,), 1e-20) * 1e-20
    return int((products.view(torch.int32) != 0).sum())


class TestInference:
    def test_no_gradients(self) -> None:
        with inference(Compute()):
            assert torch.nn.Linear(4, 4)(torch.ones(2, 4)).is_inference()
        assert not torch.is_inference_mode_enabled()

    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_the_precision_is_that_of_the_products(self, precision: Any) -> None:
        with inference(Compute(precision=precision)):
            assert torch.nn.Linear(4, 4)(torch.ones(2, 4)).dtype == getattr(torch, precision)
        assert torch.nn.Linear(4, 4)(torch.ones(2, 4)).dtype == torch.float32

    def test_denormals_are_flushed_inside_by_all_threads_and_kept_outside(self) -> None:
        counts: list[int] = []

        def work() -> None:
            with inference(Compute()):
                with inference(Compute()):
                    counts.append(denormals())
                counts.append(denormals())
            counts.append(int((torch.tensor(1e-20) * 1e-20).item() > 0))

        thread = threading.Thread(target=work)  # torch starts other threads for each that calls it
        thread.start()
        thread.join()
        assert counts == [0, 0, 1]


class Memory:
    """Doubles numbers, and has room for `most` at once."""

    def __init__(self, most: int, error: Exception | None = None) -> None:
        self.most = most
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.sizes: list[int] = []

    def __call__(self, batch: Sequence[int]) -> list[int]:
        self.sizes.append(len(batch))
        if len(batch) > self.most:
            raise self.error
        return [2 * item for item in batch]


class TestInBatches:
    @pytest.mark.parametrize(("count", "size", "sizes"), [(0, 3, []), (2, 3, [2]), (7, 3, [3, 3, 1]), (4, 1, [1] * 4)])
    def test_in_order_and_at_most_so_many(self, count: int, size: int, sizes: list[int]) -> None:
        run = Memory(100)
        assert in_batches(range(count), size, run) == [2 * item for item in range(count)]
        assert run.sizes == sizes

    @pytest.mark.parametrize("error", [None, RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")])
    def test_a_full_memory_halves_the_batch_and_loses_nothing(self, error: Exception | None) -> None:
        run = Memory(3, error)
        assert in_batches(range(11), 8, run) == [2 * item for item in range(11)]
        assert run.sizes == [8, 4, 2, 2, 2, 2, 2, 1]

    def test_one_item_that_does_not_fit_is_an_error_with_advice(self) -> None:
        run = Memory(0)
        with pytest.raises(SettingsError, match=r"^--device: its memory does not hold one image: use --device cpu"):
            in_batches(range(5), 4, run)
        assert run.sizes == [4, 2, 1]

    def test_other_errors_pass(self) -> None:
        run = Memory(1, RuntimeError("shapes do not match"))
        with pytest.raises(RuntimeError, match="shapes do not match"):
            in_batches(range(5), 4, run)
        assert run.sizes == [4]

    def test_nothing_of_the_batch_that_failed_is_alive_when_it_goes_on(self) -> None:
        held: list[weakref.ref[Any]] = []

        def run(batch: Sequence[int]) -> list[int]:
            assert all(reference() is None for reference in held)
            activations = torch.zeros(3)
            held.append(weakref.ref(activations))
            if len(batch) > 1:
                raise torch.OutOfMemoryError("out of memory")
            return list(batch)

        assert in_batches(range(4), 4, run) == list(range(4))
        assert len(held) == 6

    @pytest.mark.parametrize("size", [0, -1])
    def test_a_batch_holds_something(self, size: int) -> None:
        with pytest.raises(ValueError, match=f"a batch of {size}"):
            in_batches(range(3), size, Memory(9))

    def test_one_result_for_each_item(self) -> None:
        with pytest.raises(ValueError, match="zip"):
            in_batches(range(3), 3, lambda batch: batch[1:])


onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def linear(inputs: int, outputs: int, **settings: Any) -> Any:
    torch.manual_seed(0)
    return torch.nn.Linear(inputs, outputs, **settings).requires_grad_(False)


def operators(module: Any, *inputs: Any) -> set[str]:
    with inference(Compute()), torch.autograd.profiler.profile() as profile:
        module(*inputs)
    return {event.name for event in profile.function_events}


class TestPackLinears:
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("shape", [(48,), (1, 48), (300, 48), (2, 5, 48), (2, 3, 4, 5, 48), (0, 48), (2, 0, 48)])
    def test_the_same_numbers(self, shape: tuple[int, ...], bias: bool) -> None:
        layer, inputs = linear(48, 65, bias=bias), torch.randn(shape, generator=torch.Generator().manual_seed(1))
        with inference(Compute()):
            expected = layer(inputs)
            assert pack_linears(layer) is layer
            torch.testing.assert_close(layer(inputs), expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("view", ["transposed", "strided", "expanded"])
    def test_inputs_that_are_not_contiguous(self, view: str) -> None:
        dense = torch.randn(30, 20, 48, generator=torch.Generator().manual_seed(1))
        inputs = {
            "transposed": dense.transpose(0, 1),
            "strided": dense[::2, 1::3],
            "expanded": dense[:1].expand(9, -1, -1),
        }[view]
        layer = linear(48, 7)
        with inference(Compute()):
            expected = layer(inputs)
            torch.testing.assert_close(pack_linears(layer)(inputs), expected, rtol=1e-5, atol=1e-5)

    @onednn
    def test_layers_inside_compute_through_onednn_wherever_they_are(self) -> None:
        module = torch.nn.Sequential(linear(8, 8), torch.nn.Sequential(torch.nn.GELU(), linear(8, 4)))
        inputs = torch.ones(3, 8)
        assert "mkldnn::_linear_pointwise" not in operators(module, inputs)
        found = operators(pack_linears(module), inputs)
        assert "mkldnn::_linear_pointwise" in found
        assert "aten::addmm" not in found

    def test_attention_and_a_whole_transformer_layer(self) -> None:
        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
        inputs = torch.randn(2, 10, 32)
        expected = layer(inputs).detach()  # with gradients: without, torch takes a path of its own
        torch.testing.assert_close(pack_linears(layer)(inputs), expected, rtol=1e-5, atol=1e-5)

    def test_under_autocast_it_is_the_plain_layer(self) -> None:
        layer, inputs = linear(48, 64), torch.randn(5, 48)
        with inference(Compute(precision="bfloat16")):
            expected = layer(inputs)
            assert torch.equal(pack_linears(layer)(inputs), expected)

    def test_other_types_are_left_alone(self) -> None:
        layer, inputs = linear(48, 64).double(), torch.randn(5, 48, dtype=torch.float64)
        expected = layer(inputs)
        assert torch.equal(pack_linears(layer)(inputs), expected)

    def test_packing_twice_is_packing_once(self) -> None:
        layer, inputs = linear(48, 64), torch.randn(5, 48)
        with inference(Compute()):
            once = pack_linears(layer)(inputs)
            assert torch.equal(pack_linears(layer)(inputs), once)
