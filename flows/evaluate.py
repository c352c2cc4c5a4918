"""Evaluation: how well the method does on a data set with known masks, class by class, as the paper measures it.

Pixels are compared at 400 x 400 and pooled per class; the mean is over classes. Regions are matched one to one at an
IoU of 0.5 at the image's own size. All test images of a class, the good ones included, are one set.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flows.runtime import one_thread_each
from integrations.candidate_store import CandidateStore
from integrations.formats.mvtec import MvtecClass, MvtecItem, read_mask, read_mvtec
from saa_core import masks
from saa_core.errors import DatasetError, ImageError
from saa_core.maps import resize
from saa_core.metrics import PixelCounts, RegionCounts, image_auroc, regions
from saa_core.prompts import PromptBundle
from saa_core.types import AnomalyResult, BoolMask, Candidates, ImageRef
from tasks.progress import advance

SIDE = 400
"""Pixels a side at which maps and masks are compared (arXiv 2305.10724)."""

BundleFor = Callable[[str], PromptBundle]
"""Gives the bundle of a class, by its name such as mvtec_ad/bottle."""


@dataclass
class ClassTally:
    """Counts of one class, image after image."""

    pixels: PixelCounts = field(default_factory=PixelCounts)
    regions: RegionCounts = field(default_factory=RegionCounts)
    scores: list[float] = field(default_factory=list)
    defective: list[bool] = field(default_factory=list)

    def update(self, result: AnomalyResult, truth: BoolMask, defective: bool) -> None:
        """Count one image; `truth` is bool (H, W) at the image's own size."""
        small = masks.decode(masks.resize(masks.encode(truth), SIDE, SIDE))
        self.pixels.update(resize(result.map, (SIDE, SIDE)), small)
        self.regions.update([region.mask for region in result.regions], regions(truth))
        self.scores.append(result.score)
        self.defective.append(defective)

    def figures(self, threshold: float) -> dict[str, float | None]:
        """All metrics; None where one is not defined, such as an AUROC without good images."""
        curve = self.pixels.curve()
        best = curve.best_f1()
        return {
            "max_f1_pixel": best.f1 if best else None,
            "best_threshold": best.threshold if best else None,
            "f1_pixel": self.pixels.f1_at(threshold),
            "pixel_auroc": curve.auroc(),
            "average_precision": curve.average_precision(),
            "aupro": curve.aupro(),
            "image_auroc": image_auroc(self.scores, self.defective),
            "region_f1": self.regions.f1(),
        }


def evaluate(
    root: Path, only: Sequence[str], bundle_for: BundleFor, store: CandidateStore, workers: int
) -> dict[str, Any]:
    """Evaluate a data set in MVTec layout.

    Args:
        root: A folder with classes at any depth.
        only: Names of classes; all when empty.
        bundle_for: The prompts of each class.
        store: Candidates and maps, kept for the next evaluation.
        workers: Images side by side; one where networks use all processors themselves.

    Returns:
        `profile`, `bundles`: bundle ids by class, `classes`: figures by class, `mean`: their means over the classes
        where they are defined, `quarantined`: images that could not be used, by name.

    Raises:
        DatasetError: No class, or a class with no usable image.
    """
    classes = read_mvtec(root, only)
    bundles = {found.name: bundle_for(found.name) for found in classes}
    figures: dict[str, dict[str, Any]] = {}
    refused: dict[str, str] = {}
    with one_thread_each() if workers > 1 else nullcontext():
        for number, found in enumerate(classes):
            advance(found.name, number, len(classes))
            bundle = bundles[found.name]
            figures[found.name] = _evaluate_class(found, bundle, store.at(bundle), workers, refused)
    advance("done", len(classes), len(classes))
    return {
        "profile": "+".join(sorted({bundle.profile for bundle in bundles.values()})),
        "bundles": {name: bundle.id for name, bundle in bundles.items()},
        "classes": figures,
        "mean": _means(figures),
        "quarantined": refused,
    }


def _evaluate_class(
    found: MvtecClass, bundle: PromptBundle, store: CandidateStore, workers: int, refused: dict[str, str]
) -> dict[str, Any]:
    started = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        good = _usable(found.items, store, pool, refused)
        if not good:
            raise DatasetError(found.name, "no image of this class can be read")
        refs = [ref for _, ref in good]
        context = store.context(refs)
        for _ in pool.map(lambda ref: store.drawn(ref, bundle, context), refs):
            pass
        levels = store.levels(refs, bundle, context)
        results = pool.map(lambda pair: _judge(pair[0], store.decide(pair[1], bundle, context, levels)), good)
        tally = ClassTally()
        for (item, _), (result, truth) in zip(good, results, strict=True):
            tally.update(result, truth, item.mask is not None)
    seconds = (time.monotonic() - started) / len(good)
    return {"images": len(good), **tally.figures(bundle.decision.threshold), "seconds_per_image": seconds}


def _usable(
    items: Sequence[MvtecItem], store: CandidateStore, pool: ThreadPoolExecutor, refused: dict[str, str]
) -> list[tuple[MvtecItem, ImageRef]]:
    """The images that give features, in order; the others are named in `refused`."""

    def look(item: MvtecItem) -> ImageRef | str:
        try:
            ref = ImageRef(hashlib.sha256(item.image.read_bytes()).hexdigest(), str(item.image), (str(item.image),))
            store.features(ref)
        except (ImageError, OSError) as error:
            return str(error)
        return ref

    good = []
    for item, answer in zip(items, pool.map(look, items), strict=True):
        if isinstance(answer, ImageRef):
            good.append((item, answer))
        else:
            refused[str(item.image)] = answer
    return good


def _judge(item: MvtecItem, decided: tuple[Candidates, AnomalyResult]) -> tuple[AnomalyResult, BoolMask]:
    candidates, result = decided
    size = candidates.height, candidates.width
    return result, np.zeros(size, np.bool_) if item.mask is None else read_mask(item.mask, size)


def _means(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Mean of every figure over the classes that have it; None where no class has."""
    names = [name for name in next(iter(figures.values())) if name not in ("images", "best_threshold")]
    known = {name: [row[name] for row in figures.values() if row[name] is not None] for name in names}
    return {name: statistics.fmean(values) if values else None for name, values in known.items()}
