"""What every verb shares: options, the two output streams, progress, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tasks.progress import watched_by

if TYPE_CHECKING:
    from integrations.settings import Settings
    from saa_core.models import ModelSetup

console = Console(stderr=True)
"""Progress, warnings and errors; the answer itself goes to stdout."""


_SHOWN = 10


class Exit(IntEnum):
    """Exit codes of every verb."""

    DONE = 0
    FAILED = 1
    PARTLY = 2
    INTERRUPTED = 130


class Models(StrEnum):
    """Sets of models that can run the method."""

    WEIGHT_FREE = "weight-free"
    FOUNDATION = "foundation"


class Captions(StrEnum):
    """How phrases are put to the detector."""

    SEPARATE = "separate"
    JOINT = "joint"


class Device(StrEnum):
    """Where networks run."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class PrecisionName(StrEnum):
    """Precision of networks."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class RuntimeName(StrEnum):
    """What runs networks on a CPU."""

    TORCH = "torch"
    OPENVINO = "openvino"


class Runner(StrEnum):
    """Where the batches of a run are worked on."""

    THREADS = "threads"
    PROCESS = "process"
    DASK = "dask"
    RAY = "ray"


class ProfileName(StrEnum):
    """Profiles of the method."""

    BATCH = "batch"
    PAPER = "paper"
    REFERENCE = "reference"


class PromptName(StrEnum):
    """The four prompts of SAA++."""

    LANGUAGE = "language"
    PROPERTY = "property"
    SALIENCY = "saliency"
    CONFIDENCE = "confidence"


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")]
WorkspaceOption = Annotated[
    Path | None,
    typer.Option("--workspace", help="Folder for runs, catalog and stored candidates. [default: ./saa-workspace]"),
]
BundleOption = Annotated[
    str | None,
    typer.Option("--bundle", help="Prompts: a bundle's id, a YAML file, or a library name such as mvtec/bottle."),
]
ProductOption = Annotated[str, typer.Option("--product", help="What the photographs show, as `saa label` was told.")]
_NETWORKS = "Networks"
_KNOWN = {
    "detector": "is none of swint and swinb, alone or as swint:FILE",
    "sam": "is none of vit_b, vit_l and vit_h, alone or as vit_b:FILE",
}
ModelsOption = Annotated[
    Models,
    typer.Option(
        "--models",
        help="weight-free needs no weights and no GPU; foundation is GroundingDINO, SAM and a CNN, see `saa doctor`.",
    ),
]
FeaturesOption = Annotated[
    str | None,
    typer.Option(
        "--features",
        rich_help_panel=_NETWORKS,
        help="Backbone of the features, any CNN of timm's, or NAME:FILE for a state dict of yours, with any --models. "
        "[default: wide_resnet50_2 for foundation, filter-bank for weight-free]",
    ),
]
DetectorOption = Annotated[
    str,
    typer.Option(
        "--detector",
        rich_help_panel=_NETWORKS,
        help="GroundingDINO of foundation: swint or swinb, or swint:FILE for weights of yours.",
    ),
]
SamOption = Annotated[
    str,
    typer.Option(
        "--sam",
        rich_help_panel=_NETWORKS,
        help="SAM of foundation: vit_b, vit_l or vit_h, or vit_b:FILE for weights of yours.",
    ),
]
CaptionsOption = Annotated[
    Captions,
    typer.Option(
        "--captions",
        rich_help_panel=_NETWORKS,
        help="separate: a caption for each phrase, as in the released program. joint: one caption for all, faster; "
        "phrases then see one another, so scores differ.",
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option("--weights-dir", rich_help_panel=_NETWORKS, help="Folder of the checkpoints. [SAA_WEIGHTS_DIR]"),
]
DeviceOption = Annotated[
    Device | None,
    typer.Option("--device", rich_help_panel=_NETWORKS, help="Where networks run. [default: auto, or SAA_DEVICE]"),
]
PrecisionOption = Annotated[
    PrecisionName,
    typer.Option("--precision", rich_help_panel=_NETWORKS, help="Less than float32 is faster and slightly different."),
]
RuntimeOption = Annotated[
    RuntimeName,
    typer.Option("--runtime", rich_help_panel=_NETWORKS, help="openvino: SAM's encoder and the CNN, faster on a CPU."),
]
_WORKERS = "Workers"
RunnerOption = Annotated[
    Runner | None,
    typer.Option(
        "--runner",
        rich_help_panel=_WORKERS,
        help="Where batches are worked on: in threads, in processes of this machine, by Dask or by Ray. A process that "
        "an image kills costs that image alone. [default: threads, or SAA_RUNNER]",
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        rich_help_panel=_WORKERS,
        help="HOST:PORT of a Dask scheduler or a Ray client server of yours; without one a cluster is started here for "
        "the run. [SAA_ADDRESS]",
    ),
]
TileOption = Annotated[
    int | None,
    typer.Option("--tile", min=128, help="Look at larger images in tiles of so many pixels a side too, e.g. 1024."),
]
OverlapOption = Annotated[
    float, typer.Option("--overlap", min=0.0, max=0.5, help="Share of a tile that its neighbour shows too.")
]
ProfileOption = Annotated[
    ProfileName | None,
    typer.Option(
        "--profile",
        help="batch: the other images of the set are the context. paper: the published equations. "
        "reference: the authors' released program. [default: the bundle's own, batch unless it says otherwise]",
    ),
]


def model_setup(
    settings: Settings,
    *,
    models: Models,
    features: str | None,
    detector: str,
    sam: str,
    captions: Captions,
    weights_dir: Path | None,
    device: Device | None,
    precision: PrecisionName,
    runtime: RuntimeName,
    tile: int | None,
    overlap: float,
) -> ModelSetup:
    """The models that the options and the settings name."""
    from saa_core.checkpoints import ensure_offline

    if settings.offline:
        ensure_offline()
    return named_setup(
        models=models.value,
        features=features,
        detector=detector,
        sam=sam,
        captions=captions.value,
        weights=weights_dir or settings.weights_dir,
        device=device.value if device else settings.device,
        precision=precision.value,
        runtime=runtime.value,
        tile=tile,
        overlap=overlap,
    )


def named_setup(**values: Any) -> ModelSetup:
    """A set of models by the values of options.

    Raises:
        SettingsError: One of them is none that the option takes.
    """
    from pydantic import ValidationError

    from saa_core.errors import SettingsError
    from saa_core.models import ModelSetup

    try:
        return ModelSetup(**values)
    except ValidationError as error:
        problem = error.errors()[0]
        raise SettingsError(
            f"--{problem['loc'][0]} {problem['input']}", _KNOWN.get(str(problem["loc"][0]), problem["msg"])
        ) from None


def models_line(models: Mapping[str, str]) -> str:
    """Which models spoke; nobody may take the stand-ins for what they stand in for."""
    stand_in, own = "lexical" in models.values(), "filter-bank" in models.values()
    note = f" - {'weight-free, ' if own else ''}not GroundingDINO or SAM" if stand_in else ""
    return f"models: {', '.join(models.values())}{note}"


def print_json(content: Mapping[str, Any]) -> None:
    """One JSON object on stdout. NaN is not JSON: figures that are not defined are null."""
    json.dump(content, sys.stdout, indent=2, allow_nan=False, ensure_ascii=False)
    sys.stdout.write("\n")


def say(text: str, style: str | None = None) -> None:
    """A line for the person, on stderr; brackets in file names are text, not markup."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def say_refused(word: str, refused: Sequence[tuple[str, str]]) -> None:
    """What was set aside and why, the first of it."""
    for name, reason in refused[:_SHOWN]:
        say(f"{word}: {name}: {reason}", style="yellow")
    if len(refused) > _SHOWN:
        say(f"... and {len(refused) - _SHOWN} more", style="yellow")


def answer(*parts: Any) -> None:
    """A line or a table of the answer, on stdout, for whoever did not ask for JSON."""
    Console().print(*parts, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress() -> Iterator[None]:
    """Show the progress of the work inside: bars on a terminal, a line per step elsewhere."""
    if not console.is_terminal:
        with watched_by(_line_watcher()):
            yield
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def watch(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done)

        with watched_by(watch):
            yield


def _line_watcher() -> Any:
    def watch(step: str, done: int, total: int) -> None:
        say(f"{step}: {done}/{total}")

    return watch
