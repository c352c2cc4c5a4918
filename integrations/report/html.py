"""The report as one HTML file: styles, script and pictures inside, nothing fetched, nothing sent."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jinja2 import Template
from markupsafe import Markup

from integrations.report import page, pictures
from integrations.report.entries import ReportEntry, RunReport, most_anomalous_first
from integrations.report.pictures import HeatScale
from saa_core.types import RGB, Region

CARDS = 60
"""Most images shown as pictures; the table lists all."""

_LEAST_ANOMALOUS = 8  # of the cards, so that a reader sees what the run takes for good
_SIDE = 320
_WIDE = 1.8  # images wider than this share of their height have picture and map one above the other
_TAG = 10
_MOST_REGIONS = 12
_BINS = 24


def write_report(report: RunReport, entries: Iterable[ReportEntry], out: Path) -> Path:
    """Write ``report.html`` into the folder `out`.

    The most anomalous images and a few of the least are shown as pictures, at most `CARDS` in all; one image is in
    memory at a time. All images are in the table. The file appears whole or not at all.

    Returns:
        The file's path.

    Raises:
        StoreError: The file cannot be written.
    """
    ordered = most_anomalous_first(entries)
    first, least = _shown(ordered)
    shown = [*first, *least]
    scale = pictures.heat_scale(entry for _, entry in shown)
    content = {
        "report": report,
        "summary": _summary(report, ordered),
        "histogram": _histogram(ordered),
        "metrics": list(dict.fromkeys(metric for row in report.figures.values() for metric in row)),
        "scale": scale,
        "first": (_card(rank, entry, scale) for rank, entry in first),
        "least": (_card(rank, entry, scale) for rank, entry in least),
        "shown": {rank for rank, _ in shown},
        "entries": ordered,
        "any_truth": any(entry.truth for _, entry in shown),
    }
    return page.write_page(_template(), content, out / "report.html")


def _template() -> Template:
    environment = page.environment("report.css")
    environment.filters["share"] = _share
    script = (page.HERE / "report.js").read_text("utf-8")
    environment.globals.update(
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )
    return environment.get_template("report.html.j2")


# ------------------------------------------------------------------------------------------------------- the whole run


def _shown(ordered: Sequence[ReportEntry]) -> tuple[list[tuple[int, ReportEntry]], list[tuple[int, ReportEntry]]]:
    """Rank and entry of the cards: the most anomalous, then the least where not all fit."""
    ranked = list(enumerate(ordered, start=1))
    if len(ranked) <= CARDS:
        return ranked, []
    return ranked[: CARDS - _LEAST_ANOMALOUS], ranked[-_LEAST_ANOMALOUS:]


def _summary(report: RunReport, entries: Sequence[ReportEntry]) -> Mapping[str, float]:
    return {
        "images": len(entries),
        "with_regions": sum(bool(entry.regions) for entry in entries),
        "regions": sum(len(entry.regions) for entry in entries),
        "refused": len(report.quarantined),
        "seconds_each": report.seconds / max(len(entries), 1),
    }


@dataclass(frozen=True, slots=True)
class Histogram:
    """Images per score.

    Attributes:
        low: Score at the left end.
        high: Score at the right end.
        bars: For each bin, left to right: images with regions, images without.
        top: Images in the fullest bin, at least 1.
    """

    low: float
    high: float
    bars: tuple[tuple[int, int], ...]
    top: int


def _histogram(entries: Sequence[ReportEntry]) -> Histogram:
    scores = np.array([entry.score for entry in entries], np.float64)
    found = np.array([bool(entry.regions) for entry in entries], np.bool_)
    # Ends on twentieths, so that two runs of a product mostly share them.
    low = np.floor(20 * scores.min(initial=1.0)) / 20 if scores.size else 0.0
    high = max(np.ceil(20 * scores.max(initial=0.0)) / 20, low + 0.05)
    with_regions, without = (np.histogram(scores[kind], _BINS, (low, high))[0] for kind in (found, ~found))
    bars = tuple(zip(with_regions.tolist(), without.tolist(), strict=True))
    return Histogram(float(low), float(high), bars, max(1, *(sum(bar) for bar in bars)))


# ------------------------------------------------------------------------------------------------------------ one card


@dataclass(frozen=True, slots=True)
class Outline:
    """The border of a region over its picture, and where its number stands, all in pixels of the image."""

    number: int
    path: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Card:
    """What the template needs to draw one image."""

    rank: int
    entry: ReportEntry
    regions: tuple[Region, ...]
    width: int = 1
    height: int = 1
    wide: bool = False
    tag: float = 1.0
    image: str = ""
    heat: str = ""
    outlines: tuple[Outline, ...] = field(default=())
    truth: str = ""
    problem: str = ""


def _card(rank: int, entry: ReportEntry, scale: HeatScale) -> Card:
    regions = entry.regions[:_MOST_REGIONS]
    try:
        pixels = entry.image()
        truth = None if entry.truth is None else entry.truth()
    except pictures.UNREADABLE as error:
        return Card(rank, entry, regions, problem=str(error))
    height, width = pixels.shape[:2]
    picture = pictures.thumbnail(pixels, _SIDE)
    unit = max(height, width) / _SIDE  # pixels of the image under one pixel of the full-size picture
    wide = width > _WIDE * height
    tag = unit * (_TAG if wide else 2 * _TAG)  # a wide picture has the card's whole width, others half of it
    return Card(
        rank=rank,
        entry=entry,
        regions=regions,
        width=width,
        height=height,
        wide=wide,
        tag=tag,
        image=pictures.jpeg_uri(picture),
        heat=_heat_uri(picture, entry, scale),
        outlines=tuple(_outlines(regions, width, height, tag, unit / 2)),
        truth="" if truth is None else pictures.outline_of_pixels(truth, unit / 2),
    )


def _heat_uri(picture: RGB, entry: ReportEntry, scale: HeatScale) -> str:
    values = pictures.load_map(entry)
    return "" if values is None else pictures.jpeg_uri(pictures.heat(picture, values, scale))


def _outlines(regions: Sequence[Region], width: int, height: int, tag: float, tolerance: float) -> Iterator[Outline]:
    for number, region in enumerate(regions, start=1):
        left, top, _, bottom = region.box
        # The number stands above its region; where there is no room below it, else inside.
        y = top - 0.3 * tag if top > 1.2 * tag else bottom + tag if bottom + 1.2 * tag < height else top + tag
        x = min(max(left, 0.2 * tag), width - 0.8 * tag)
        yield Outline(number, pictures.outline(region.mask, tolerance), round(x, 1), round(y, 1))


# ------------------------------------------------------------------------------------------------------------- wording


def _share(region: Region) -> str:
    """Share of the image that a region covers."""
    share = region.area / (region.mask.height * region.mask.width)
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"
