"""What a refinement costs: bundles judged per second, against `decide` on pixels, and a whole one.

    OMP_NUM_THREADS=1 python benchmarks/refine_speed.py

All images are generated, 1024 x 1024 pixels with 20 ragged candidates and two reviewed regions, K = 5. Judged are
bundles that differ in every number; of the dense map also some that share their weights, as those of a search do, since
a map of weights is made once for all cuts. On pixels a bundle costs `decide`, and the comparison of the map with the
mask and of the regions with the reviewed ones; both sides give the same counts, which is checked. Seconds are those of
one processor, whatever else it has to do; a whole refinement uses two, so the wall's are printed too.
"""

import argparse
from collections.abc import Sequence
from time import perf_counter, process_time

import cv2
import numpy as np
from numpy.typing import NDArray

from saa_core import masks
from saa_core.masks import Rle
from saa_core.metrics import RegionCounts
from saa_core.pipeline import decide
from saa_core.prompts import PromptBundle
from saa_core.refinement.effort import DEFAULT
from saa_core.refinement.evidence import LEVELS, ImageEvidence, Truth, gather
from saa_core.refinement.guard import hold_out
from saa_core.refinement.judge import ALARM, HIT, REGION_HIT, EvidenceSet, Judge
from saa_core.refinement.knobs import Knobs
from saa_core.refinement.outcome import EvidenceSummary
from saa_core.refinement.refine import Question, refine
from saa_core.types import Candidates, FloatMap, SetLevels

SIDE, WINDOW, COUNT, K = 1024, 256, 20, 5
CELLS = {"paper": 64, "batch": 200}
"""Side of the saliency map."""
LANGUAGE = {"agnostic": ["anomaly", "defect"], "specific": ["crack", "dark hole"]}
Rng = np.random.Generator


def blob(rng: Rng, row: float, column: float, radius: float) -> Rle:
    """A region with a ragged border, around a place in pixels."""
    rows, columns = np.mgrid[:WINDOW, :WINDOW] - WINDOW / 2
    ragged = cv2.resize(rng.random((32, 32)), (WINDOW, WINDOW), interpolation=cv2.INTER_CUBIC)
    top, left = (int(np.clip(place - WINDOW / 2, 0, SIDE - WINDOW)) for place in (row, column))
    return masks.encode_crop(np.hypot(rows, columns) < radius * (0.6 + 0.8 * ragged), top, left, SIDE, SIDE)


def reviewed(rng: Rng, name: str, bundle: PromptBundle, defective: bool) -> tuple[Candidates, FloatMap, Truth]:
    """An image: half of its candidates lie about its defects, if it has any, and score better."""
    centres = rng.uniform(100, SIDE - 100, (2, 2))
    drawn = [blob(rng, *centre, 50) for centre in centres] if defective else []
    found, scores = [], []
    for number in range(COUNT):
        real = defective and number < COUNT // 2
        place = centres[number % 2] + rng.normal(0, 12, 2) if real else rng.uniform(0, SIDE, 2)
        found.append(blob(rng, *place, rng.uniform(30, 80)))
        scores.append(np.clip(rng.normal([0.4, 0.4, 0.45 if real else 0.2, 0.3], 0.1), 0, 1))
    grid = CELLS[bundle.profile]
    saliency = 0.5 * rng.random((grid, grid))
    for mask in drawn:
        saliency += 0.4 * masks.decode(masks.resize(mask, grid, grid))
    evidence = np.where(rng.random((4, 64, 64)) < 0.1, rng.random((4, 64, 64)), 0).astype(np.float16)
    candidates = Candidates(
        image=name,
        height=SIDE,
        width=SIDE,
        phrases=bundle.texts,
        boxes=np.array([mask.box for mask in found], np.float32),
        scores=np.array(scores, np.float32),
        masks=tuple(found),
        quality=np.ones(COUNT, np.float32),
        evidence=evidence if bundle.profile == "batch" else None,
    )
    truth = Truth(tuple(drawn), ("hole",) * len(drawn))
    return candidates, saliency.astype(np.float32), truth


def other_numbers(rng: Rng, bundle: PromptBundle, count: int, own_weights: bool) -> list[Knobs]:
    """Bundles that all differ; no floor, which would be the set's and not the bundle's."""
    own, few = Knobs.of(bundle), rng.uniform(0, 2, (50, 4))
    return [
        own._replace(
            weights=tuple((rng.uniform(0, 2, 4) if own_weights else few[rng.integers(50)]).round(4).tolist()),
            area_min=round(rng.uniform(0, 0.001), 6),
            gain=round(rng.uniform(0, 4), 4),
            suppression=round(rng.uniform(0.3, 0.9), 4),
            score_floor=round(rng.uniform(0, 0.3), 4),
            region_floor=0.0,
            threshold=float(rng.choice(LEVELS)),
        )
        for _ in range(count)
    ]


def on_pixels(
    candidates: Candidates, saliency: FloatMap, bundle: PromptBundle, truth: Truth, area: NDArray[np.bool_]
) -> tuple[int, int, int]:
    """Rightly and wrongly marked pixels, and matched regions; the dense map has pixels of its own."""
    levels = SetLevels(np.full(4, 0.1, np.float32), bundle.decision.region_floor)
    result = decide(candidates, saliency, bundle, levels)
    marked = result.map >= np.float32(bundle.decision.threshold)
    counts = RegionCounts()
    counts.update([region.mask for region in result.regions], truth.masks)
    return int((marked & area).sum()), int((marked & ~area).sum()), counts.hits


def compare(profile: str, own_weights: bool, bundles: int = 5_000, warm: int = 600) -> None:
    """Print the cost of evidence, of judging it, and of the same on pixels."""
    rng = np.random.default_rng(0)
    bundle = start(profile)
    candidates, saliency, truth = reviewed(rng, "0", bundle, defective=True)
    begun = process_time()
    evidence = gathered(candidates, saliency, truth, bundle)
    built = process_time() - begun
    knobs = other_numbers(rng, bundle, warm + bundles, own_weights)
    judge = Judge(bundle, [EvidenceSet((evidence,), (), (bundle.saliency.neighbours,))])
    judge.counts(knobs[:warm])
    begun = process_time()
    counts = judge.counts(knobs[warm:])[:, 0]
    fast = (process_time() - begun) / bundles
    area = masks.decode(masks.union(truth.masks))
    if profile == "batch":
        area = cv2.resize(area.astype(np.uint8), saliency.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    children = [each.applied(bundle, bundle.id) for each in knobs[warm : warm + 12]]
    begun = process_time()
    exact = [on_pixels(candidates, saliency, child, truth, area) for child in children]
    slow = (process_time() - begun) / len(children)
    check(counts[: len(exact)], exact, area.size, whole=profile != "batch")
    kind = "all weights differ" if own_weights else "50 sets of weights"
    print(
        f"{profile:6} {kind}   evidence {built:5.3f} s, {len(evidence.atoms.sizes):4} atoms   "
        f"{1 / fast:9,.0f} bundles/s   on pixels {1 / slow:6.1f}/s   {slow / fast:7,.0f} times"
    )


def check(counts: NDArray[np.float32], exact: Sequence[tuple[int, int, int]], pixels: int, whole: bool) -> None:
    """Both sides count the same; of the dense map, whose pixels are defective in part, what is marked."""
    found = np.array(exact, np.float64) / [pixels, pixels, 1]
    np.testing.assert_array_equal(counts[:, REGION_HIT], found[:, 2])
    if whole:
        np.testing.assert_allclose(counts[:, [HIT, ALARM]], found[:, :2], atol=1e-6)
    else:
        np.testing.assert_allclose(counts[:, HIT] + counts[:, ALARM], found[:, :2].sum(axis=1), atol=1e-4)


def start(profile: str) -> PromptBundle:
    """The starting bundle."""
    return PromptBundle.from_content(
        {"product": "plate", "profile": profile, "language": LANGUAGE, "confidence": {"top_k": K}}
    )


def gathered(candidates: Candidates, saliency: FloatMap, truth: Truth, bundle: PromptBundle) -> ImageEvidence:
    """The evidence of an image, of a lot of four."""
    calm, lot = np.full(4, 0.1, np.float32), str(int(candidates.image, 36) // 4)
    return gather(candidates, [saliency], bundle, calm, truth, name=candidates.image, lot=lot, aided=True)


def whole(profile: str, count: int, others: int) -> None:
    """Print the cost of one refinement of `count` images, whose set has `others` beside them."""
    rng = np.random.default_rng(1)
    bundle = start(profile)
    images = [
        gathered(*reviewed(rng, str(number), bundle, defective=number % 8 < 4), bundle) for number in range(count)
    ]
    rows = [images[int(row)].rows for row in rng.integers(0, count, others)]
    held = hold_out("plate", {}, {image.lot: not image.good for image in images})
    good = sum(image.good for image in images)
    summary = EvidenceSummary(
        hash="", defective=count - good, good=good, undrawn=0, lots=len(held), held_out=0, regions=2 * (count - good)
    )
    evidence = EvidenceSet(tuple(images), tuple(rows), (bundle.saliency.neighbours,))
    begun, started = process_time(), perf_counter()
    found = refine(Question("plate", bundle, first=True, effort=DEFAULT), [evidence], held, summary)
    print(
        f"{profile:6} refinement of {count} images beside {others}: {process_time() - begun:5.1f} s, "
        f"{perf_counter() - started:5.1f} s on the wall, {found.configurations:,} bundles, "
        f"{found.resamples} resamples, {found.outcome}: {found.reasons[0]}"
    )


def main() -> None:
    """Print all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100, help="reviewed images of the whole refinement")
    parser.add_argument("--others", type=int, default=100, help="images of their set that nobody reviewed")
    asked = parser.parse_args()
    for profile in ("paper", "batch"):
        compare(profile, own_weights=True)
    compare("batch", own_weights=False)
    for profile in ("paper", "batch"):
        whole(profile, asked.images, asked.others)


if __name__ == "__main__":
    main()
