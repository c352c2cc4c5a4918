"""Property prompts, Eq. 4: keep the regions that lie on the inspected object and are not too large for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from saa_core.prompts import PropertyPrompt
from saa_core.types import BoolMask, Boxes


def box_area(boxes: Boxes) -> NDArray[np.float64]:
    """Areas of XYXY boxes (n, 4) in square pixels, float64 (n,); an inverted box has none."""
    extent = np.clip(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 0, None)
    return extent[:, 0] * extent[:, 1]


def object_area(boxes: Boxes, image_area: float, objects: int) -> float:
    """The object's area as the released program takes it: the largest box under ``image_area / objects``.

    Args:
        boxes: float32 (m, 4), XYXY pixels, the boxes found for the object's name.
        image_area: Pixels of the image.
        objects: How many objects an image shows.

    Returns:
        Square pixels; the whole image where no box qualifies.
    """
    kept = box_area(boxes)[may_be_objects(boxes, image_area, objects)]
    return float(kept.max()) if kept.size else float(image_area)


def may_be_objects(boxes: Boxes, image_area: float, objects: int) -> BoolMask:
    """Which boxes, float32 (m, 4), can hold one of `objects` objects: those that cover less than its share, (m,)."""
    areas = box_area(boxes)
    return (areas > 0) & (areas * objects < image_area)


def passes(
    areas: NDArray[np.float64], containment: NDArray[np.float64], object_pixels: float, prompt: PropertyPrompt
) -> BoolMask:
    """Eq. 4: which regions pass each of its three tests; a region stays that passes all.

    Args:
        areas: float64 (n,), pixels of each region, by mask or by box as `prompt.measure` says.
        containment: float64 (n,) in [0, 1], |r and object| / |r|.
        object_pixels: Area of the inspected object in pixels.
        prompt: theta_area (`area_max`), the least area and theta_IoU (`location`, read as containment).

    Returns:
        bool (n, 3): large enough, small enough, on the object. A region without pixels is never large enough.
    """
    least = prompt.area_min * object_pixels
    limit = np.inf if prompt.area_max is None else prompt.area_max * object_pixels
    return np.column_stack([(areas > 0) & (areas >= least), areas < limit, containment >= prompt.location])
