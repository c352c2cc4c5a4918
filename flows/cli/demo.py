"""`saa demo`: the whole loop on a made product, with its figures against the known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.common import JsonOption, answer, models_line, print_json, progress

_FIGURES = ("f1_pixel", "region_f1", "max_f1_pixel", "image_auroc")


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the images, the workspace and the reports.")] = Path(
        "saa-demo"
    ),
    as_json: JsonOption = False,
) -> None:
    """Label photographs with known defects, let a simulated expert correct them, refine, and label new ones better.

    Example: `saa demo --out /tmp/demo`

    No weights, no GPU, no network, no expert. Takes about a minute.
    """
    from flows.demo import run_demo

    with progress():
        result = run_demo(out.absolute())
    if as_json:
        print_json(result)
        return
    answer(
        "Monday's photographs, labelled with general words and the published numbers, corrected by a simulated expert:"
    )
    for surface, found in result["refinements"].items():
        said = result["reviews"][surface]
        answer(
            f"{surface:>8}  {said['good']} good, {said['defective']} defective; {found['outcome']}: {found['reason']}"
        )
    answer("Tuesday's photographs, which nobody corrected, before -> after:")
    before, after, default = (_rows(result[side]) for side in ("before", "after", "default"))
    for surface in before:
        answer(f"{surface:>8}  " + "  ".join(_change(figure, before[surface], after[surface]) for figure in _FIGURES))
    answer(" default  " + "  ".join(f"{_spaced(figure)} {default['mean'][figure]:.2f}" for figure in _FIGURES))
    answer(models_line(result["models"]))
    for path in [found["report"] for found in result["refinements"].values()] + result["reports"]:
        answer(f"report: {path}")


def _rows(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {**figures["classes"], "mean": figures["mean"]}


def _change(figure: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    return f"{_spaced(figure)} {before[figure]:.2f} -> {after[figure]:.2f}"


def _spaced(figure: str) -> str:
    return figure.replace("_", " ")
