"""Run-lengths: our time over the time of pycocotools and of plain pixels, from one run.

    OMP_NUM_THREADS=1 python benchmarks/masks.py

A ratio under 1 means ours is faster. Both sides start from a C-contiguous bool mask and end with one, so the copy to
the column-major uint8 that pycocotools needs is counted, as its callers pay for it.
"""

from collections.abc import Callable
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from saa_core import masks

Bools = NDArray[np.bool_]


def ellipse(side: int, radius: float) -> Bools:
    """One smooth region in a square image."""
    rows, columns = np.mgrid[:side, :side] / side
    return ((rows - 0.4) / radius) ** 2 + ((columns - 0.6) / (radius / 2)) ** 2 < 1


def blobs(side: int, seed: int = 0) -> Bools:
    """Many ragged regions: a thresholded random surface."""
    coarse = np.random.default_rng(seed).random((side // 8, side // 8))
    return np.kron(coarse > 0.7, np.ones((8, 8), bool))


def naive_runs(mask: Bools) -> list[int]:
    """The definition of the code, a loop over pixels."""
    runs, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            runs.append(0)
            value = not value
        runs[-1] += 1
    return runs


def seconds(call: Callable[[], object], repeats: int = 7) -> float:
    """Best time of one call, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return min(times)


def row(name: str, ours: float, theirs: float, other: str) -> None:
    """Print one comparison."""
    print(f"{name:44} {ours * 1e3:9.3f} ms   {theirs * 1e3:9.3f} ms   ratio {ours / theirs:7.4f}   against {other}")


def codec(name: str, mask: Bools) -> None:
    """Encode to the compressed string and back."""
    text = masks.to_string(masks.encode(mask))
    written = {"size": list(mask.shape), "counts": text.encode()}
    ours = seconds(lambda: masks.to_string(masks.encode(mask)))
    row(
        f"encode to string, {name}",
        ours,
        seconds(lambda: coco.encode(np.asfortranarray(mask, np.uint8))),
        "pycocotools",
    )
    ours = seconds(lambda: masks.decode(masks.from_string(text, *mask.shape)))
    theirs = seconds(lambda: np.ascontiguousarray(coco.decode(written).view(bool)))
    row(f"decode from string, {name}", ours, theirs, "pycocotools")


def tables(count: int, side: int) -> None:
    """IoU of all pairs and the union."""
    rng = np.random.default_rng(1)
    drawn = [np.roll(ellipse(side, rng.uniform(0.02, 0.2)), rng.integers(0, side, 2), (0, 1)) for _ in range(count)]
    ours, theirs = [masks.encode(mask) for mask in drawn], [coco.encode(np.asfortranarray(m, np.uint8)) for m in drawn]
    time = seconds(lambda: masks.iou(ours, ours))
    row(
        f"IoU, {count} x {count} masks of {side} x {side}",
        time,
        seconds(lambda: coco.iou(theirs, theirs, [0] * count)),
        "pycocotools",
    )
    row("", time, seconds(lambda: [(a & b).sum() / (a | b).sum() for a in drawn for b in drawn], 1), "pixels")
    row(f"union of {count}", seconds(lambda: masks.union(ours)), seconds(lambda: coco.merge(theirs)), "pycocotools")


def main() -> None:
    """Print every comparison."""
    for side in (400, 1024):
        codec(f"small region {side} x {side}", ellipse(side, 0.05))
        codec(f"large region {side} x {side}", ellipse(side, 0.6))
        codec(f"many regions {side} x {side}", blobs(side))
    mask = ellipse(400, 0.3)
    row(
        "encode, 400 x 400",
        seconds(lambda: masks.encode(mask)),
        seconds(lambda: naive_runs(mask), 1),
        "a loop over pixels",
    )
    tables(40, 512)


if __name__ == "__main__":
    main()
