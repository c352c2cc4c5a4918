"""Maps from one size to another: every map covers the same field of view as its image."""

from __future__ import annotations

import cv2
import numpy as np

from saa_core.types import FloatMap


def resize(values: FloatMap, size: tuple[int, int]) -> FloatMap:
    """A map at another size, bilinear with half-pixel centres and edges repeated.

    Args:
        values: float32 or float16 (h, w).
        size: (H, W).

    Returns:
        float32 (H, W); `values` itself, if it has that size and type.
    """
    single = values.astype(np.float32, copy=False)
    if single.shape == size:
        return single
    return np.asarray(cv2.resize(single, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.float32)
