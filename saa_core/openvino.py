"""Networks run by OpenVINO: converted once, kept in a cache folder, called with torch tensors; nothing is sent away."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

from saa_core.errors import StoreError
from saa_core.runtime import Compute, prepare

_PRECISION = {"float32": "f32", "bfloat16": "bf16"}

_converting = Lock()


def converted(module: Any, example: Any, key: str, compute: Compute) -> Callable[..., Any]:
    """The module as a function that OpenVINO runs on the processor.

    The first call for a key converts the module and keeps the result in the cache folder; later ones, of any process,
    read it there. A damaged file is written anew.

    Args:
        module: A torch module in float32 on the processor, of one or more tensors whose rows do not depend on each
            other; its linear layers not packed.
        example: Its input, float32 (n, ...), n >= 1, or a tuple of such. All dimensions but the first are fixed by it.
        key: Changes whenever the module's weights or its arithmetic change.
        compute: Its precision, and its cache folder.

    Returns:
        A function of float32 tensors (n, ...), any n, that are run row by row. It gives the float32 tensor (n, ...) of
        the module, or the list of them where the module gives several. Threads may share it; they wait for each other.

    Raises:
        StoreError: If the cache folder cannot be written.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    shapes = [[1, *part.shape[1:]] for part in inputs]
    prepare()
    with _converting:  # torch exports one module at a time
        path = _folder(compute) / f"{_name(key, shapes)}.xml"
        model = _read(path)
        if model is None:
            _save(_convert(module, shapes), path)
            model = _silent().Core().read_model(path)
        return _function(_compile(model, compute))


def _silent() -> Any:
    # Its telemetry is on unless a file in the user's home says no, and the import already sends an event. Without the
    # package it uses a stub of its own.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino
    from openvino.tools.ovc import convert_impl, telemetry_stub, telemetry_utils, utils

    for part in (convert_impl, telemetry_utils, utils):  # where somebody else had imported it before
        part.tm = telemetry_stub
    return openvino


def _folder(compute: Compute) -> Path:
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saa"
    return (compute.cache or usual) / "openvino"


def _name(key: str, shapes: list[list[int]]) -> str:
    return hashlib.sha256(repr((key, _silent().get_version(), shapes)).encode()).hexdigest()


def _read(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return _silent().Core().read_model(path)
    except RuntimeError:  # damaged
        return None


def _convert(module: Any, shapes: list[list[int]]) -> Any:
    import torch

    # Whatever mode the caller is in, no cast gets into the model. By torch.export, which runs on shapes alone:
    # torch.jit.trace keeps every intermediate array.
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        inputs = tuple(torch.zeros(shape) for shape in shapes)
        program = torch.export.export(module.eval(), inputs, strict=False)
        return _silent().convert_model(program, input=shapes)


def _save(model: Any, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent) as folder:
            draft = Path(folder) / path.name
            _silent().save_model(model, draft, compress_to_fp16=False)
            for suffix in (".bin", ".xml"):  # the one that is looked for comes last
                draft.with_suffix(suffix).replace(path.with_suffix(suffix))
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise StoreError(str(path.parent), f"cannot keep a converted model: {reason}") from error


def _compile(model: Any, compute: Compute) -> Any:
    import torch

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _PRECISION[compute.precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    return _silent().Core().compile_model(model, "CPU", settings)


def _function(compiled: Any) -> Callable[..., Any]:
    import torch

    busy = Lock()
    shapes = [tuple(output.shape)[1:] for output in compiled.outputs]

    def run(*inputs: Any) -> Any:
        outputs = [torch.empty((len(inputs[0]), *shape)) for shape in shapes]
        for row in range(len(inputs[0])):
            arrays = [part[row : row + 1].detach().contiguous().numpy() for part in inputs]
            with busy:
                found = compiled(arrays, share_inputs=True, share_outputs=True).to_tuple()
                for output, array in zip(outputs, found, strict=True):
                    output[row] = torch.from_numpy(array[0])
        return outputs[0] if len(outputs) == 1 else outputs

    return run
