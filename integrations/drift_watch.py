"""Whether the lots since a promotion still look like those before it, from what their runs left.

The reference are the lots that were labelled first before the champion was promoted; each of the newest `LOTS` lots
since is compared with it. Of the runs of these models alone:

    regions     as the champion itself decided, in the newest such run of an image: another bundle's confidences are
                no measure. Where the earlier lots were not labelled again with the champion, these tests are silent.
    reviews     of whatever masks experts were shown: a champion that is accepted less than what it replaced is what
                the chart is for. Images that they drew on without our masks do not count.
    features    as stored; no file is read, no model is asked.

An image without a lot counts for the run that it was first labelled in. Of a large lot some images speak for all; they
are chosen by their keys, which are hashes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np

from integrations.candidate_store import CandidateStore
from integrations.catalog import Catalog, RunRecord
from integrations.outputs import ImageRecord, read_records
from integrations.settings import Settings
from saa_core.errors import StoreError
from saa_core.refinement.drift import LEAST, Alarm, Sample, drift
from saa_core.reviews import Review, evidence

LOTS = 10
"""Lots that are compared; each one more makes every alarm rarer."""
_REFERENCE = 1000
_LOT = 300


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """What is compared with what.

    Attributes:
        images: How many were labelled before the promotion.
        reference: Their lots together.
        lots: The newest lots since, oldest first; empty where there are too few images before to say anything.
    """

    images: int
    reference: Sample
    lots: tuple[Sample, ...]

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Lots that differ."""
        return drift(self.reference, self.lots)

    @property
    def blind(self) -> bool:
        """Whether regions cannot be compared, since the champion did not decide on the earlier lots."""
        return self.reference.images < LEAST


def watch(catalog: Catalog, store: CandidateStore, settings: Settings, product: str) -> tuple[Alarm, ...]:
    """Lots of a product that differ from those before the promotion of its champion; none without a champion."""
    found = watched(catalog, store, settings, product)
    return found.alarms if found else ()


def notes(catalog: Catalog, store: CandidateStore, settings: Settings, run: RunRecord) -> tuple[str, ...]:
    """A sentence for each alarm that `watch` has of the lots of a finished run."""
    alarms = watch(catalog, store, settings, run.product)
    if not alarms:
        return ()
    history = _History.of(catalog, run.product, store.method.ids)
    mine = {history.lot_of.get(key) for key in history.keys.get(run.id, ())}
    return tuple(alarm.sentence for alarm in alarms if alarm.lot in mine)


def watched(catalog: Catalog, store: CandidateStore, settings: Settings, product: str) -> Watched | None:
    """The samples of a product; None where nothing was promoted."""
    champion = catalog.champion(product)
    moves = [] if champion is None else catalog.promotions(product)
    # After a rollback the champion's own promotion still is what parts the lots: those since may be why it came back.
    since = [move.at for move in moves if move.kind == "promote" and champion and move.bundle == champion.id]
    if champion is None or not since:
        return None
    history = _History.of(catalog, product, store.method.ids)
    before, after = history.parted(since[-1])
    work = _Work(catalog, store, settings, history, champion.id)
    images = sorted(key for lot in before for key in history.lots[lot])
    compared = after[-LOTS:] if len(images) >= LEAST else []
    lots = {lot: sorted(history.lots[lot])[:_LOT] for lot in compared}
    if lots:
        work.read({*images[:_REFERENCE], *(key for keys in lots.values() for key in keys)})
    reference = work.sample("before", images[:_REFERENCE] if lots else [])
    return Watched(len(images), reference, tuple(work.sample(lot, keys) for lot, keys in lots.items()))


# ------------------------------------------------------------------------------------------------------------- the lots


@dataclass(frozen=True, slots=True)
class _History:
    """Images of a product by the lot that they belong to.

    Attributes:
        runs: The done ones of these models, the one that was begun first in front.
        keys: Image keys of each run.
        lot_of: The lot of each image.
        lots: The images of each lot; lots in the order in which they were labelled first.
        began: When a lot's first run was begun.
    """

    runs: tuple[RunRecord, ...]
    keys: Mapping[str, tuple[str, ...]]
    lot_of: Mapping[str, str]
    lots: Mapping[str, Sequence[str]]
    began: Mapping[str, datetime]

    @classmethod
    def of(cls, catalog: Catalog, product: str, models: Mapping[str, str]) -> _History:
        runs = tuple(run for run in catalog.runs(product) if dict(run.models) == dict(models))
        keys = catalog.keys_by_run(product)
        first: dict[str, RunRecord] = {}
        for run in runs:
            for key in keys.get(run.id, ()):
                first.setdefault(key, run)
        named = catalog.lots(product, list(first))
        lot_of = {key: named.get(key) or f"of run {run.id}" for key, run in first.items()}
        lots: dict[str, list[str]] = defaultdict(list)
        began: dict[str, datetime] = {}
        for key, run in first.items():
            lots[lot_of[key]].append(key)
            began.setdefault(lot_of[key], run.created)
        return cls(runs, keys, lot_of, lots, began)

    def parted(self, moment: datetime) -> tuple[list[str], list[str]]:
        """Lots until a moment, and those after it."""
        before = [lot for lot in self.lots if self.began[lot] <= moment]
        return before, [lot for lot in self.lots if self.began[lot] > moment]


# -------------------------------------------------------------------------------------------------------------- samples


class _Shown(NamedTuple):
    """Of one image: confidence and share of the image of each region."""

    confidences: tuple[float, ...]
    areas: tuple[float, ...]


class _Work:
    """Reads what was decided and what was said, and puts it together by lot."""

    def __init__(
        self, catalog: Catalog, store: CandidateStore, settings: Settings, history: _History, bundle: str
    ) -> None:
        self._catalog, self._store, self._settings = catalog, store, settings
        self._history, self._bundle = history, bundle
        self._shown: dict[str, _Shown] = {}
        self._reviews: dict[str, Review] = {}

    def read(self, keys: Collection[str]) -> None:
        """Look up these images."""
        product = self._history.runs[0].product
        self._reviews = evidence(self._catalog.reviews(product, keys))
        left = set(keys)
        for run in reversed(self._history.runs):
            if run.bundle == self._bundle and not left.isdisjoint(self._history.keys.get(run.id, ())):
                self._shown |= {record["key"]: _shown(record) for record in self._records(run) if record["key"] in left}
                left -= self._shown.keys()

    def _records(self, run: RunRecord) -> Iterator[ImageRecord]:
        with suppress(StoreError):  # the folder is gone or damaged: its images count as not decided
            yield from read_records(self._settings.runs / run.id)

    def sample(self, lot: str, keys: Sequence[str]) -> Sample:
        """What some images of a lot hold."""
        shown = [self._shown[key] for key in keys if key in self._shown]
        said = list(_judged(self._reviews[key] for key in keys if key in self._reviews))
        features = [found for key in keys if (found := self._store.known_descriptor(key)) is not None]
        return Sample(
            lot=lot,
            confidences=np.array([value for image in shown for value in image.confidences], np.float64),
            areas=np.array([value for image in shown for value in image.areas], np.float64),
            images=len(shown),
            shown=sum(bool(image.confidences) for image in shown),
            accepted=sum(said),
            reviewed=len(said),
            descriptors=np.stack(features) if features else np.zeros((0, 1), np.float32),
        )


def _shown(record: ImageRecord) -> _Shown:
    height, width = record["size"]
    regions = record["regions"]
    areas = tuple(region["area"] / (height * width) for region in regions)
    return _Shown(tuple(region["confidence"] for region in regions), areas)


def _judged(reviews: Iterable[Review]) -> Iterator[bool]:
    """Of each region that experts were shown, whether they left it as it was."""
    for review in reviews:
        for region in review.regions if review.aided else ():
            if region.predicted is not None:
                yield region.outcome == "accepted"
