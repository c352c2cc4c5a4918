"""A finished run at a glance, small enough for a page of Prefect: what to review first, and the sheet, small."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2

from integrations.finished_run import FinishedRun
from saa_core.errors import StoreError

_SIDE = 480
"""Pixels of the thumbnail's longer side; Prefect keeps it in its database."""


def review_first(run: FinishedRun, most: int = 20) -> list[dict[str, Any]]:
    """The images whose review tells most, the best first, as rows of a table.

    The images are not compared with one another, as they are for the order in which experts get them: that reads the
    features of every one.
    """
    order = sorted(zip(run.priorities({}), run.images, strict=True), key=lambda each: (-each[0], each[1]["names"]))
    return [
        {
            "image": image["names"][0],
            "priority": round(priority, 3),
            "score": round(image["score"], 3),
            "regions": len(image["regions"]),
            "to review": sum(region["needs_review"] for region in image["regions"]),
            "labels": ", ".join(sorted({region["label"] for region in image["regions"]})),
        }
        for priority, image in order[:most]
    ]


def thumbnail(sheet: Path) -> str:
    """A picture as a small JPEG in a data URI.

    Raises:
        StoreError: It is gone or damaged.
    """
    pixels = cv2.imread(str(sheet))
    if pixels is None:
        raise StoreError(str(sheet), "is gone or damaged; `saa report` writes it again")
    scale = min(1.0, _SIDE / max(pixels.shape[:2]))
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    coded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(coded).decode()}"
