"""A workspace with finished runs of drawn plates, made without a model, for what shows runs to people."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from integrations.catalog import Catalog, RunImage, RunRecord
from integrations.finished_run import FinishedRun, finished_run
from integrations.outputs import RunFolder
from integrations.push_items import push_item
from integrations.settings import Settings
from saa_core.masks import Rle, encode_crop
from saa_core.prompts import LanguagePrompt, Phrase, PromptBundle
from saa_core.reviews import PredictedRegion, Review, ReviewedRegion, ReviewState, Verdict, compare
from saa_core.types import AnomalyResult, ImageRef, Region

PRODUCT = "plate"
MODELS = {"generator": "lexical-1", "refiner": "contour-1", "features": "filter-bank-1"}
NAMES = {role: model[:-2] for role, model in MODELS.items()}
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def bundle(*phrases: str) -> PromptBundle:
    """A bundle of these phrases."""
    return PromptBundle(product=PRODUCT, language=LanguagePrompt(specific=tuple(Phrase(text=p) for p in phrases)))


FIRST, SECOND = bundle("scratch", "dent"), bundle("scratch", "dent", "stain")


def patch(top: int, left: int, rows: int = 6, columns: int = 10, side: int = 48) -> Rle:
    """A rectangle with a hole, as a mask of side x side pixels."""
    crop = np.ones((rows, columns), np.bool_)
    crop[rows // 2, columns // 2] = False
    return encode_crop(crop, top, left, side, side)


def regions(masks: Sequence[Rle], labels: Sequence[str] = ("scratch", "dent")) -> tuple[Region, ...]:
    """Regions of these masks, best first."""
    found = []
    for rank, mask in enumerate(masks):
        x0, y0, x1, y1 = map(float, mask.box)
        label, confidence = labels[rank % len(labels)], 0.9 - 0.2 * rank
        found.append(Region(mask, (x0, y0, x1, y1), label, 2.0, confidence, {label: confidence}, 0.5, mask.area, rank))
    return tuple(found)


@dataclass
class Gallery:
    """A workspace of plates.

    Attributes:
        folder: Of the workspace; the photographs are beside it.
        settings: Its settings.
        side: Rows and columns of a plate.
        refs: The plates.
    """

    folder: Path
    settings: Settings
    side: int = 48
    refs: list[ImageRef] = field(default_factory=list)

    def photograph(self, count: int) -> list[ImageRef]:
        """More plates, in lots of 5."""
        photos = self.folder.parent / "photos"
        photos.mkdir(exist_ok=True)
        rng = np.random.default_rng(len(self.refs))
        for number in range(len(self.refs), len(self.refs) + count):
            pixels = rng.integers(90, 160, (self.side, self.side, 3), dtype=np.uint8)
            data, path = cv2.imencode(".png", pixels)[1].tobytes(), photos / f"{number:04}.png"
            path.write_bytes(data)
            key = hashlib.sha256(data).hexdigest()
            self.refs.append(ImageRef(key, str(path), (path.name,), f"lot {number // 5}"))
        return self.refs[-count:]

    def label(self, run: str, bundle: PromptBundle = FIRST, shift: int = 0) -> FinishedRun:
        """A run over all plates: of three plates one shows two regions, one shows one, and one shows none."""
        with Catalog(self.settings.catalog_url) as catalog:
            catalog.add_bundle(bundle)
            catalog.begin_run(RunRecord(run, PRODUCT, bundle.id, "batch", MODELS, "0"))
            rows = [RunImage.of(ref, "labelled", height=self.side, width=self.side) for ref in self.refs]
            catalog.record_images(run, rows)
            folder = RunFolder(self.settings.runs / run, [ref.names[0] for ref in self.refs])
            for number, ref in enumerate(self.refs):
                folder.write(ref, self._result(ref, number, bundle, shift), (self.side, self.side))
            folder.close(self.refs, {"run": run, "models": NAMES})
            shown = sum(2 - number % 3 for number in range(len(self.refs)))
            figures = {"labelled": len(self.refs), "reused": 0, "quarantined": 0, "regions": shown, "model_calls": 0}
            record = catalog.finish_run(run, **figures, seconds=1.0)
            return finished_run(self.settings, catalog, record)

    def _result(self, ref: ImageRef, number: int, bundle: PromptBundle, shift: int) -> AnomalyResult:
        masks = [patch(4 + 16 * rank + shift, 5 + number % 20, side=self.side) for rank in range(2 - number % 3)]
        heat: NDArray[np.float32] = np.full((6, 6), 0.1, np.float32)
        heat[1, :] = 0.8
        return AnomalyResult(ref.key, bundle.id, heat, True, 0.8 / (1 + number % 3), regions(masks), {})

    def shown(self, run: FinishedRun, ref: ImageRef) -> tuple[PredictedRegion, ...]:
        """The regions of an image as an expert is shown them."""
        record = next(image for image in run.images if image["key"] == ref.key)
        return push_item(record, ref, 0.0, run.record.id, run.bundle).regions

    def review(
        self,
        run: FinishedRun,
        ref: ImageRef,
        drawn: Iterable[ReviewedRegion],
        *,
        verdict: Verdict | None = None,
        state: ReviewState = "submitted",
        who: str = "anna",
        minutes: int = 0,
    ) -> Review:
        """Store what an expert left of an image."""
        said = Review(
            product=PRODUCT,
            image=ref.key,
            source="label-studio project 1",
            id=f"{who} {ref.key[:8]}",
            state=state,
            annotator=who,
            updated=NOON + timedelta(minutes=minutes),
            verdict=verdict,
            words="",
            lead_seconds=9.0,
            run=run.record.id,
            bundle=run.bundle.id,
            aided=True,
            regions=compare(self.shown(run, ref), list(drawn)),
        )
        with Catalog(self.settings.catalog_url) as catalog:
            catalog.add_reviews([said])
        return said


def kept(regions: Iterable[PredictedRegion]) -> list[ReviewedRegion]:
    """Regions that an expert left as they were."""
    return [ReviewedRegion(region.id, region.label, region.mask) for region in regions]
