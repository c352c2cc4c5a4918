"""Label Studio's brush: the time of label_studio_sdk's converter over ours, from one run.

    OMP_NUM_THREADS=1 python benchmarks/brush.py

A ratio over 1 means ours is faster. Both sides go from a bool mask to the list of numbers that JSON needs and back
from that list to a bool mask. Both lists are compared before anything is timed.
"""

from collections.abc import Callable
from time import perf_counter

import numpy as np
from label_studio_sdk.converter.brush import decode_rle, mask2rle
from numpy.typing import NDArray
from scipy import ndimage

from integrations.label_studio import brush
from saa_core import masks

Bools = NDArray[np.bool_]


def cracks(side: int, count: int = 4, seed: int = 0) -> Bools:
    """Thin winding lines that branch all over a square image."""
    rng = np.random.default_rng(seed)
    headings = rng.uniform(0, 2 * np.pi, (count, 1)) + np.cumsum(rng.normal(0, 0.15, (count, 2 * side)), axis=1)
    paths = rng.uniform(0, side, (count, 1, 2)) + np.cumsum(np.stack([np.sin(headings), np.cos(headings)], 2), axis=1)
    rows, columns = paths.reshape(-1, 2).astype(int).T % side
    mask = np.zeros((side, side), bool)
    mask[rows, columns] = True
    thick: Bools = ndimage.binary_dilation(mask)
    return thick


def blobs(side: int, seed: int = 0) -> Bools:
    """Some smooth regions."""
    surface = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), side / 40)
    mask: Bools = surface > 2 * surface.std()
    return mask


def noise(side: int, share: float = 0.02) -> Bools:
    """Single pixels everywhere, the worst for run-lengths."""
    return np.random.default_rng(0).random((side, side)) < share


def seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Best time of one call, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return min(times)


def row(name: str, ours: float, theirs: float) -> None:
    """Print one comparison."""
    print(f"{name:34} {ours * 1e3:8.2f} ms   {theirs * 1e3:8.2f} ms   ratio {theirs / ours:5.1f}")


def against_sdk(name: str, mask: Bools) -> None:
    """One mask both ways."""
    height, width = mask.shape

    def their_mask() -> Bools:
        alpha: NDArray[np.uint8] = decode_rle(written).reshape(height, width, 4)[:, :, 3]
        return alpha >= 128

    written = mask2rle(mask.astype(np.uint8) * 255)
    if list(brush.encode(mask)) != written or not np.array_equal(brush.decode(written, height, width), their_mask()):
        raise SystemExit(f"{name}: ours and the converter differ")
    theirs = seconds(lambda: mask2rle(mask.astype(np.uint8) * 255))
    row(f"encode {name}", seconds(lambda: list(brush.encode(mask))), theirs)
    row(f"decode {name}", seconds(lambda: brush.decode(written, height, width)), seconds(their_mask))


def of_a_set(name: str, mask: Bools, count: int = 2000) -> None:
    """What a push and a pull of 1000 images with two masks each spend here."""
    rle, (height, width) = masks.encode(mask), mask.shape
    written = list(brush.encode(mask))
    push = seconds(lambda: [list(brush.encode_rle(rle)) for _ in range(count)], 3)
    pull = seconds(lambda: [brush.decode_rle(written, height, width) for _ in range(count)], 3)
    print(f"{count} x {name}: encode_rle {push:.2f} s, decode_rle {pull:.2f} s")


def main() -> None:
    """Print every comparison: ours, the converter, its time over ours."""
    for side in (400, 1024):
        for kind in (blobs, cracks, noise):
            against_sdk(f"{kind.__name__} {side} x {side}", kind(side))
        against_sdk(f"empty {side} x {side}", np.zeros((side, side), bool))
    of_a_set("blobs 400 x 400", blobs(400))
    of_a_set("cracks 400 x 400", cracks(400))


if __name__ == "__main__":
    main()
