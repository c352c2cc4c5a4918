"""The report of a refinement as one HTML file: may the new bundle be trusted, and why or why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from jinja2 import Template

from integrations.report import figures, page, pictures, plots, verdict
from integrations.report.changes import bundle_changes, title_of
from integrations.report.verdict import lines
from saa_core.masks import Rle
from saa_core.refinement.outcome import ImageChange, Refinement
from saa_core.types import RGB

__all__ = ["CARDS", "Pictures", "lines", "write_refinement"]

CARDS = 24
"""Most images shown as pictures; the table lists all that changed."""

_BETTER: Final = 8  # of the cards, if there are that many gains; the losses have the rest and come first
_SIDE: Final = 320
_WIDE: Final = 1.8  # images wider than this share of their height are shown one above the other
_MOST_MASKS: Final = 40


class Shown(NamedTuple):
    """What is drawn of one image.

    Attributes:
        pixels: uint8 (H, W, 3) RGB.
        before: Regions that the champion shows, masks of (H, W).
        after: Those of the refined bundle.
        truth: The experts' masks; empty on a good image.
    """

    pixels: RGB
    before: Sequence[Rle]
    after: Sequence[Rle]
    truth: Sequence[Rle]


Pictures = Callable[[ImageChange], tuple[RGB, Sequence[Rle], Sequence[Rle], Sequence[Rle]] | None]
"""Loads what `Shown` holds; None, `SaaError` or `OSError` where the photograph is no longer there."""


def write_refinement(refinement: Refinement, pictures: Pictures, models: Mapping[str, str], out: Path) -> Path:
    """Write ``report.html`` into the folder `out`: one file with styles and pictures inside, nothing fetched or run.

    The worst losses are shown before the best gains, `CARDS` in all; one photograph is in memory at a time. Every image
    that changed is in the table. The file appears whole or not at all.

    Args:
        refinement: With any outcome; what it leaves out, the page leaves out or says so.
        pictures: Called only for images that are shown.
        models: Name of the model in each role, such as {"generator": "lexical"}.
        out: Made if it is missing.

    Returns:
        The file's path.

    Raises:
        StoreError: The file cannot be written.
    """
    content = {"refinement": refinement, "models": models, **_figures(refinement), **_images(refinement, pictures)}
    return page.write_page(_template(), content, out / "report.html")


def _figures(refinement: Refinement) -> dict[str, object]:
    new, rows = refinement.proposed, list(figures.rows(refinement))
    curves = [curve for curve in refinement.curves if curve.values]
    top = plots.top_of(curves)
    return {
        "new": new,
        "cautions": verdict.cautions(refinement),
        "facts": list(figures.facts(refinement)),
        "span": None if refinement.gain is None else plots.span(refinement.gain),
        "rows": rows,
        "groups": figures.groups(rows, refinement.evidence.held_out),
        "changes": [] if new is None else bundle_changes(refinement.champion, new),
        "phrases": sorted(refinement.phrases, key=lambda row: (row.weight == 0, -row.unique, row.text)),
        "plots": [plots.plot(curve, top) for curve in curves],
    }


def _images(refinement: Refinement, load: Pictures) -> dict[str, object]:
    """What changed image by image; the cards are made one by one while the page is written."""
    worse, better = verdict.losses(refinement), verdict.gains(refinement)
    shown_worse, shown_better = _chosen(worse, better)
    return {
        "losses": worse,
        "gains": better,
        "worse": (_card(change, load) for change in shown_worse),
        "better": (_card(change, load) for change in shown_better),
        "hidden": len(worse) - len(shown_worse),
        "changed": sorted(refinement.changes, key=lambda change: (change.after - change.before, change.name)),
    }


def _template() -> Template:
    environment = page.environment("report.css", "refinement.css")
    environment.filters.update(signed=verdict.signed, title=title_of, number=plots.number, percent=_percent)
    environment.globals.update(say=verdict)
    return environment.get_template("refinement.html.j2")


def _percent(value: float | None) -> str:
    return "–" if value is None else verdict.percent(value)


# ----------------------------------------------------------------------------------------------------------- the images


@dataclass(frozen=True, slots=True)
class Side:
    """What one bundle does to an image: how many regions, and their outlines as SVG path data."""

    regions: int
    path: str


@dataclass(frozen=True, slots=True)
class Card:
    """What the template needs to draw one image under both bundles."""

    change: ImageChange
    problem: str = ""
    image: str = ""
    width: int = 1
    height: int = 1
    wide: bool = False
    sides: tuple[Side, ...] = ()
    truth: str = ""
    good: bool = False


def _chosen(worse: list[ImageChange], better: list[ImageChange]) -> tuple[list[ImageChange], list[ImageChange]]:
    """The worst losses and the best gains that are shown."""
    first = worse[: CARDS - min(len(better), _BETTER)]
    return first, better[: CARDS - len(first)]


def _card(change: ImageChange, load: Pictures) -> Card:
    try:
        loaded = load(change)
    except pictures.UNREADABLE as error:
        return Card(change, problem=str(error))
    if loaded is None:
        return Card(change, problem="the photograph is no longer where it was")
    shown = Shown(*loaded)
    height, width = shown.pixels.shape[:2]
    half = max(height, width) / _SIDE / 2  # half a pixel of the small picture, in pixels of the image
    return Card(
        change,
        image=pictures.jpeg_uri(pictures.thumbnail(shown.pixels, _SIDE)),
        width=width,
        height=height,
        wide=width > _WIDE * height,
        sides=tuple(Side(len(masks), _outlines(masks, half)) for masks in (shown.before, shown.after)),
        truth=_outlines(shown.truth, half),
        good=not shown.truth,
    )


def _outlines(masks: Sequence[Rle], tolerance: float) -> str:
    return "".join(pictures.outline(mask, tolerance) for mask in masks[:_MOST_MASKS])
