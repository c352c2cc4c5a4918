"""`saa demo`: the main job on a made product, with its figures against the known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.common import JsonOption, answer, print_json, progress


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the images, the workspace and the reports.")] = Path(
        "saa-demo"
    ),
    as_json: JsonOption = False,
) -> None:
    """Make photographs of three surfaces with known defects, label them, and show how well the masks fit.

    Example: `saa demo --out /tmp/demo`

    No weights, no GPU, no network. Takes about a minute.
    """
    from flows.demo import run_demo

    with progress():
        result = run_demo(out.absolute())
    if as_json:
        print_json(result)
        return
    figures = ("max_f1_pixel", "image_auroc", "region_f1")
    for name, row in {**result["classes"], "mean": result["mean"]}.items():
        answer(f"{name:>8}  " + "  ".join(f"{figure.replace('_', ' ')} {row[figure]:.2f}" for figure in figures))
    answer(f"models: {', '.join(result['models'].values())} - weight-free, not GroundingDINO or SAM")
    for path in result["reports"]:
        answer(f"report: {path}")
