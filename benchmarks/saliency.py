"""Eq. 5: our time over that of a full sort and of a loop over cells, from one run.

    OMP_NUM_THREADS=1 python benchmarks/saliency.py

A ratio under 1 means ours is faster, or needs less memory at its peak. All three start from the same features and give
the same map. The full sort is the equation as the released program computes it: all distances in one matrix, each row
sorted, the first N averaged. The loop compares one cell at a time and selects its N with `np.argpartition`.
"""

import tracemalloc
from collections.abc import Callable
from functools import partial
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from saa_core.saliency import image_context, normalise

Floats = NDArray[np.float32]
NEIGHBOURS, CHANNELS = 400, 512


def full_sort(features: Floats, farthest: bool) -> Floats:
    """All distances at once, every row sorted."""
    cells = normalise(features).reshape(-1, features.shape[-1])
    distances = np.sort(1 - cells @ cells.T, axis=1)
    chosen = distances[:, -NEIGHBOURS:] / 2 if farthest else distances[:, :NEIGHBOURS]
    return chosen.mean(axis=1).reshape(features.shape[:2])


def loop(features: Floats, farthest: bool) -> Floats:
    """One cell at a time."""
    cells = normalise(features).reshape(-1, features.shape[-1])
    means = []
    for cell in cells:
        distances = (cells @ cell - 1) / -2 if farthest else 1 - cells @ cell
        order = np.argpartition(-distances if farthest else distances, NEIGHBOURS - 1)
        means.append(distances[order[:NEIGHBOURS]].mean())
    return np.array(means, np.float32).reshape(features.shape[:2])


def cost(call: Callable[[], Floats]) -> tuple[float, float, Floats]:
    """Best time of three calls in ms, peak memory of a fourth in MiB, and the map."""
    times = []
    for _ in range(3):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    tracemalloc.start()
    found = call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return min(times) * 1e3, peak / 2**20, found


def compare(side: int, farthest: bool) -> None:
    """Print one block, after a check that the three maps are one."""
    features = np.random.default_rng(side).normal(0.2, 1, (side, side, CHANNELS)).astype(np.float32)
    time, peak, found = cost(lambda: image_context(features, NEIGHBOURS, farthest=farthest))
    form = "farthest" if farthest else "nearest"
    print(f"{side}^2 cells, N={NEIGHBOURS}, D={CHANNELS}, {form}: {time:.0f} ms, {peak:.0f} MiB")
    for name, other in (("full sort", full_sort), ("loop over cells", loop)):
        their_time, their_peak, expected = cost(partial(other, features, farthest))
        assert np.allclose(found, expected, atol=1e-5)
        print(
            f"    against {name:16} time {time / their_time:6.3f} ({their_time:.0f} ms)"
            f"   memory {peak / their_peak:6.3f} ({their_peak:.0f} MiB)"
        )


def main() -> None:
    """Print every comparison."""
    for side in (50, 100):
        for farthest in (False, True):
            compare(side, farthest)


if __name__ == "__main__":
    main()
