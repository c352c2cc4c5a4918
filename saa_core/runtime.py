"""Where and how models run: device, precision, program, memory, batches, and the fast exact paths of a processor."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal, TypeVar

import numpy as np

from saa_core.errors import SettingsError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["float32", "bfloat16", "float16"]
Runtime = Literal["torch", "openvino"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Compute:
    """How models are run.

    Attributes:
        device: Resolved: `cpu`, `cuda` or `mps`.
        precision: Type that matrix products are computed in.
        runtime: Program that runs the large networks.
        cache: Folder of converted models; None is the user's cache folder.
    """

    device: str = "cpu"
    precision: Precision = "float32"
    runtime: Runtime = "torch"
    cache: Path | None = None

    @property
    def tag(self) -> str:
        """What of this changes results, as a part of a model's id: "" for float32 in torch, else like "-bfloat16"."""
        parts = (self.precision, "float32"), (self.runtime, "torch")
        return "".join(f"-{value}" for value, usual in parts if value != usual)


def choose(
    device: DeviceName = "auto",
    precision: Precision = "float32",
    runtime: Runtime = "torch",
    cache: Path | None = None,
) -> Compute:
    """What this machine can do of what is asked for.

    Args:
        device: `auto` is CUDA where there is one, else MPS, else the processor.
        precision: Type that matrix products are computed in.
        runtime: `openvino` runs the large networks of a processor faster than torch does.
        cache: Folder of converted models; None is the user's cache folder.

    Raises:
        SettingsError: If the device is absent, a package is not installed, or the device cannot do the precision.
    """
    if importlib.util.find_spec("torch") is None:
        raise SettingsError("--device", "the models need torch: pip install 'saa-labeling[foundation]'")
    if runtime == "openvino":
        _check_openvino(device, precision)
        return Compute("cpu", precision, runtime, cache)
    present = _devices()
    chosen = present[0] if device == "auto" else device
    if chosen not in present:
        raise SettingsError("--device", f"this machine has no {device}: use {' or '.join(present)}")
    if precision != "float32" and not _computes(chosen, precision):
        raise SettingsError("--precision", f"torch cannot compute in {precision} on {chosen}: use float32")
    return Compute(chosen, precision, runtime, cache)


def _check_openvino(device: DeviceName, precision: Precision) -> None:
    if device not in ("auto", "cpu"):
        raise SettingsError("--runtime", f"openvino runs on the processor, not on {device}: use --device cpu")
    if importlib.util.find_spec("openvino") is None:
        raise SettingsError("--runtime", "openvino is not installed: pip install 'saa-labeling[openvino]'")
    if precision == "float16":
        raise SettingsError("--precision", "few processors compute in float16: use bfloat16 or float32 with openvino")


def _devices() -> list[str]:
    import torch

    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [name for name, there in found.items() if there]


def _computes(device: str, precision: Precision) -> bool:
    import torch

    dtype, image = getattr(torch, precision), torch.ones(1, 1, 8, 8, device=device)
    with warnings.catch_warnings():
        # Where it cannot, one release of torch raises; another warns and computes in float32.
        warnings.simplefilter("ignore", UserWarning)
        try:
            with torch.inference_mode(), torch.autocast(device, dtype):
                return all(y.dtype == dtype for y in (image @ image, torch.nn.functional.conv2d(image, image)))
        except RuntimeError:
            return False


_preparing = Lock()


def prepare() -> None:
    """Set this process up for networks on a processor; once, whoever calls it and how often."""
    with _preparing:
        _prepare()


@functools.cache
def _prepare() -> None:
    import torch

    _keep_memory()
    torch.set_num_threads(processors())
    with suppress(RuntimeError):  # too late: something has run in parallel already
        torch.set_num_interop_threads(1)
    for kind in (np.float16, np.float32, np.float64):
        np.finfo(kind)  # NumPy looks at a type once, and warns if denormals are flushed then
    with _flushed_denormals():
        torch.zeros(1 << 20).add_(1)  # starts torch's threads, which keep the mode that they were started in


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep_memory() -> None:
    # A network allocates and frees the same large arrays again and again. By default glibc gives each back to the
    # system, and the next one costs a page fault per 4 KiB.
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-2, 256 << 20), (-8, 1)):
        mallopt(parameter, value)  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD, M_ARENA_MAX of malloc.h


@contextmanager
def inference(compute: Compute) -> Iterator[None]:
    """Without gradients, in the precision that was chosen, with denormals flushed; prepares the process."""
    import torch

    prepare()
    with torch.inference_mode(), _flushed_denormals():
        if compute.precision == "float32":
            yield
        else:
            with torch.autocast(compute.device, getattr(torch, compute.precision)):
                yield


@contextmanager
def _flushed_denormals() -> Iterator[None]:
    # Numbers below 1e-38 take a processor a hundred times as long. The mode is the thread's: left on, it would change
    # what NumPy computes there.
    import torch

    before = (torch.tensor(1e-20) * 1e-20).item() == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def in_batches(items: Sequence[Item], size: int, run: Callable[[Sequence[Item]], Sequence[Result]]) -> list[Result]:
    """Results of all items in order, computed at most `size` at once.

    Where the accelerator's memory does not hold a batch, it and the later ones are halved.

    Args:
        items: What is to be computed.
        size: Most items at once, at least 1.
        run: Gives one result for each item of a batch.

    Raises:
        SettingsError: If a single item does not fit.
        ValueError: If `size` is below 1, or `run` gives more or fewer results than it was given items.
    """
    if size < 1:
        raise ValueError(f"a batch of {size}")
    results: list[Result] = []
    while len(results) < len(items):
        batch = items[len(results) : len(results) + size]
        found = _attempt(run, batch)
        if found is None:
            size = len(batch) // 2
            _free()
        else:
            results += [result for _, result in zip(batch, found, strict=True)]
    return results


def _attempt(run: Callable[[Sequence[Item]], Sequence[Result]], batch: Sequence[Item]) -> Sequence[Result] | None:
    # A function of its own: when it is left, the error and with it the tensors of its frames are gone, and memory that
    # they held can be freed.
    try:
        return run(batch)
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        if len(batch) == 1:
            advice = "use --device cpu, --precision bfloat16 or a smaller model"
            raise SettingsError("--device", f"its memory does not hold one image: {advice}") from error
    return None


def _out_of_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()


def _free() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def pack_linears(module: Any) -> Any:
    """The same module, whose linear layers now compute through oneDNN with weights laid out for it.

    Only float32 layers on a processor are changed, in place; results agree to about 1e-6 of the largest. The layout is
    a copy of the weights as they are now: load them first. Subclasses of `Linear` are left alone, since those of
    `MultiheadAttention` are only read. Such a module can no longer be converted.
    """
    import torch

    if torch.backends.mkldnn.is_available():
        for layer in module.modules():
            weight = layer.weight if type(layer) is torch.nn.Linear else None
            if weight is not None and (weight.device.type, weight.dtype) == ("cpu", torch.float32):
                layer.forward = _packed(layer)
    return module


def _packed(layer: Any) -> Callable[[Any], Any]:
    import torch

    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())

    def forward(x: Any) -> Any:
        # oneDNN knows neither empty inputs nor autocast.
        if x.dtype != torch.float32 or not x.numel() or torch.is_autocast_enabled("cpu"):
            return torch.nn.functional.linear(x, layer.weight, layer.bias)
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, layer.bias, "none", [], "")

    return forward


def converted(module: Any, example: Any, key: str, compute: Compute) -> Callable[..., Any]:
    """The module run by OpenVINO: see `saa_core.openvino.converted`."""
    from saa_core import openvino

    return openvino.converted(module, example, key, compute)
