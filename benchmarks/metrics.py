"""Pixel metrics of one class: time, memory and agreement against scikit-learn, from one run.

    OMP_NUM_THREADS=1 python benchmarks/metrics.py [IMAGES]

30 images of 400 x 400 by default, the size at which the paper evaluates: dense maps, nearly every score different.
"""

import sys
from collections.abc import Callable, Iterator
from resource import RUSAGE_SELF, getrusage
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from saa_core.metrics import PixelCounts

SIDE = 400


def images(count: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Smooth maps with defects over some 3 % of the pixels; a quarter of the images is good."""
    rng = np.random.default_rng(0)
    for number in range(count):
        truth = ndimage.zoom(rng.random((20, 20)) > 0.97, SIDE // 20, order=0) & (number % 4 > 0)
        surface = ndimage.zoom(rng.random((50, 50), np.float32), SIDE // 50, order=1)
        yield (surface + 0.4 * truth).astype(np.float32), truth


def timed(name: str, call: Callable[[], Any]) -> tuple[Any, float]:
    """Print and return the time of one call."""
    start = perf_counter()
    result = call()
    seconds = perf_counter() - start
    print(f"{name:52} {seconds:8.3f} s")
    return result, seconds


def ours(count: int) -> dict[str, Any]:
    """All pixel metrics, one image at a time; only the time of our own code is counted."""
    counts, seconds = PixelCounts(), 0.0
    for anomaly_map, truth in images(count):
        start = perf_counter()
        counts.update(anomaly_map, truth)
        seconds += perf_counter() - start
    print(f"{f'ours: update, {count} images':52} {seconds:8.3f} s")
    curve, more = timed("ours: curve", counts.curve)
    best, f1 = timed("ours: max-F1", curve.best_f1)
    others, rest = timed("ours: AUROC, AP, AUPRO", lambda: (curve.auroc(), curve.average_precision(), curve.aupro()))
    print(f"{'ours: max-F1 in all':52} {seconds + more + f1:8.3f} s")
    print(f"{'ours: every pixel metric':52} {seconds + more + f1 + rest:8.3f} s")
    print(f"{'ours: peak memory of the process':52} {getrusage(RUSAGE_SELF).ru_maxrss / 1024:8.0f} MB")
    return {"f1": best.f1, "auroc": others[0], "ap": others[1], "aupro": others[2], "s": seconds + more + f1}


def max_f1_of_sklearn(truth: NDArray[np.bool_], scores: NDArray[np.float32]) -> float:
    """Max-F1 as it is usually computed."""
    precision, recall, _ = precision_recall_curve(truth, scores)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)))


def main(count: int) -> None:
    """Print every comparison."""
    found = ours(count)
    maps, truths = zip(*images(count), strict=True)
    scores, truth = np.concatenate(maps, axis=None), np.concatenate(truths, axis=None)
    f1, seconds = timed("scikit-learn: max-F1 by precision_recall_curve", lambda: max_f1_of_sklearn(truth, scores))
    print(f"{'max-F1: ours / scikit-learn':52} {found['s'] / seconds:8.3f}")
    auroc, _ = timed("scikit-learn: AUROC", lambda: roc_auc_score(truth, scores))
    ap, _ = timed("scikit-learn: AP", lambda: average_precision_score(truth, scores))
    print(f"differences: max-F1 {found['f1'] - f1:.1e}, AUROC {found['auroc'] - auroc:.1e}, AP {found['ap'] - ap:.1e}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
