"""What the report is told: the run, and one entry for each image that has a result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from saa_core.types import RGB, FloatMap, Region


@dataclass(frozen=True, slots=True, eq=False)
class ReportEntry:
    """One image with its result.

    Pixels come through loaders, which are called only for images that are shown, one image at a time; a report over
    any number of images thus needs the memory of one. A loader that raises `SaaError` or `OSError`, since the file is
    gone by now, gives a card that says so.

    Attributes:
        name: What the user calls the image; any text.
        score: Image score in [0, 1].
        image: Loads uint8 (H, W, 3) RGB.
        map: Loads the anomaly map, float32 (h, w), which may be coarser than the image.
        regions: Best first; masks of the image's size.
        truth: Loads the known mask, bool (H, W).
    """

    name: str
    score: float
    image: Callable[[], RGB]
    map: Callable[[], FloatMap] | None = None
    regions: tuple[Region, ...] = ()
    truth: Callable[[], NDArray[np.bool_]] | None = None


@dataclass(frozen=True, slots=True)
class RunReport:
    """What is said of the run as a whole; the images that have a result are counted from the entries.

    Attributes:
        title: Heading of the page.
        run: Id of the run.
        product: Name of the product.
        bundle: Id of the prompt bundle that decided.
        phrases: The bundle's phrases.
        profile: `batch`, `paper` or `reference`.
        models: Name of the model in each role, such as {"generator": "lexical"}.
        weight_free: Whether the models need no weights; the page then says that no GroundingDINO or SAM took part.
        model_calls: Calls of a generator, refiner or feature extractor in this run.
        seconds: Wall time of the run.
        reused: Entries whose candidates came from an earlier run.
        accept: Confidence from which the bundle's regions need no review; None: all of them do.
        accepted: Regions that reach it.
        quarantined: Name and reason of each image that could not be used.
        unknown_words: Words of the phrases that the generator could not use.
        notes: Sentences the reader should know.
        figures: Metric and value by class, in the order to show; None where a metric is not defined.
        finished: When the run ended.
    """

    title: str
    run: str
    product: str
    bundle: str
    phrases: tuple[str, ...]
    profile: str
    models: Mapping[str, str]
    weight_free: bool
    model_calls: int
    seconds: float
    reused: int = 0
    accept: float | None = None
    accepted: int = 0
    quarantined: tuple[tuple[str, str], ...] = ()
    unknown_words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    figures: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    finished: datetime | None = None


def most_anomalous_first(entries: Iterable[ReportEntry]) -> list[ReportEntry]:
    """Entries by falling score; equal scores by name, so that the order does not hang on the order of arrival."""
    return sorted(entries, key=lambda entry: (-entry.score, entry.name))
