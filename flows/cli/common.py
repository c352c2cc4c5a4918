"""What every verb shares: options, the two output streams, progress, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tasks.progress import watched_by

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
ModelsOption = Annotated[Models, typer.Option("--models", help="weight-free needs no weights and no GPU.")]
ProfileOption = Annotated[
    ProfileName | None,
    typer.Option(
        "--profile",
        help="batch: the other images of the set are the context. paper: the published equations. "
        "reference: the authors' released program. [default: the bundle's own, batch unless it says otherwise]",
    ),
]


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
