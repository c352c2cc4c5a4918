"""What goes over the wire: our regions as Label Studio predictions, its annotations as an expert's regions.

Rows as the editor writes and reads them (label-studio 1.23, seen on the real server): a mask is a `brushlabels` row,
the expert's words on it a `textarea` row with the same id, the verdict on the image a `choices` row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

from integrations.label_studio.brush import decode_rle, encode_rle
from integrations.labels import GENERIC
from integrations.push_items import PushItem
from saa_core.errors import ImageError, MaskError, ReviewError
from saa_core.reviews import PredictedRegion, ReviewedRegion, Verdict

KEY = "saa_image"
"""Field of a task's data that holds the image's key: what makes a task ours, and one per image."""

UNAIDED = "saa_unaided"
"""Field of a task's data that says that it is to be reviewed without pre-annotation."""


def check_item(item: PushItem, labels: Iterable[str]) -> None:
    """Refuse what the server would store without a word and the editor would show wrong.

    Raises:
        ImageError: A label that the project does not have, a mask of another size than the image, an empty mask, two
            regions with one id, or a score outside [0, 1].
    """
    known, size = set(labels), (item.height, item.width)
    ids = [region.id for region in item.regions]
    if len(set(ids)) < len(ids):
        raise ImageError(item.name, "two of its regions have the same id")
    if not 0 <= item.priority <= 1:
        raise ImageError(item.name, f"its review priority is {item.priority}, not in [0, 1]")
    for region in item.regions:
        if region.label not in known:
            raise ImageError(item.name, f"its label {region.label!r} is not one of the project's")
        if region.mask.size != size:
            raise ImageError(item.name, f"a mask of {_by(region.mask.size)} pixels on an image of {_by(size)}")
        if not region.mask.area:
            raise ImageError(item.name, "one of its regions has no pixel")
        if not (math.isfinite(region.score) and 0 <= region.score <= 1):
            raise ImageError(item.name, f"a region's score is {region.score}, not in [0, 1]")


def task_json(item: PushItem, url: str, version: str | None) -> bytes:
    """A task for `import`, with its prediction unless the version is None.

    Args:
        item: The image; as `check_item` wants it.
        url: Where the browser finds the picture.
        version: `model_version` of the prediction.
    """
    task: dict[str, Any] = {"data": {"image": url, "title": item.name, KEY: item.ref.key}}
    if version is None:
        task["data"][UNAIDED] = True
    else:
        task["predictions"] = [_prediction(item, version)]
    return _json(task)


def prediction_json(item: PushItem, task: int, version: str) -> bytes:
    """A prediction for `import/predictions`, for a task that is there."""
    return _json({"task": task, **_prediction(item, version)})


def _prediction(item: PushItem, version: str) -> dict[str, Any]:
    rows = [_row(item, region, scores) for region, scores in zip(item.regions, item.phrase_scores, strict=True)]
    return {"model_version": version, "score": round(item.priority, 6), "result": rows}


def _row(item: PushItem, region: PredictedRegion, scores: Mapping[str, float]) -> dict[str, Any]:
    best = sorted(scores.items(), key=lambda score: -score[1])
    return {
        "id": region.id,
        "from_name": "mask",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": item.width,
        "original_height": item.height,
        "image_rotation": 0,
        "origin": "prediction",
        "score": region.score,
        # `text` is what the editor shows under the region; it runs the strings of the list together.
        "meta": {
            "text": ["\n".join(f"{phrase} {score:.2f}" for phrase, score in best[:3])],
            "phrase_scores": dict(scores),
        },
        "value": {"format": "rle", "rle": list(encode_rle(region.mask)), "brushlabels": [region.label]},
    }


def _json(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


# ---------------------------------------------------------------------------------------------------------- annotations


@dataclass(frozen=True, slots=True)
class Answer:
    """What an annotation says.

    Attributes:
        regions: The masks that the expert left, drew or changed, with the expert's words.
        verdict: The verdict on the image, where one was given.
        ignored: Regions and answers of other controls than ours, such as boxes.
    """

    regions: tuple[ReviewedRegion, ...]
    verdict: Verdict | None
    ignored: int


def read_answer(rows: Sequence[Mapping[str, Any]], name: str, size: tuple[int, int]) -> Answer:
    """Read the `result` of an annotation; the server checks nothing in it, so anything may be there.

    Args:
        rows: The rows.
        name: What the user calls the review, for errors.
        size: (height, width) of the upright image in pixels.

    Raises:
        ReviewError: A row that is none, a mask that cannot be decoded, or one of another size than the image.
    """
    try:
        words = _words(rows)
        regions = tuple(_region(row, words, size) for row in rows if row.get("from_name") == "mask")
        others = {row.get("id") for row in rows if "to_name" in row and row.get("from_name") not in _OURS}
        return Answer(regions, _verdict(rows), len(others))
    except (MaskError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ReviewError(name, f"cannot be read: {error or type(error).__name__}") from error


_OURS = ("mask", "why", "verdict")
"""Our controls, see `labeling_config`; a person may have added others."""


def _region(row: Mapping[str, Any], words: Mapping[str, str], size: tuple[int, int]) -> ReviewedRegion:
    value, identity = row["value"], row.get("id")
    shape = int(row["original_height"]), int(row["original_width"])
    if shape != size:
        raise ValueError(f"a mask of {_by(shape)} pixels on an image of {_by(size)}")
    label = next(iter(value.get("brushlabels") or [GENERIC]))
    return ReviewedRegion(identity, str(label), decode_rle(value["rle"], *size), words.get(str(identity), ""))


def _words(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The expert's words by region. A region's text row repeats the whole mask, which is not looked at."""
    texts = {str(row.get("id")): row["value"]["text"] for row in rows if row.get("from_name") == "why"}
    return {region: text if isinstance(text, str) else "; ".join(text) for region, text in texts.items()}


def _verdict(rows: Sequence[Mapping[str, Any]]) -> Verdict | None:
    chosen = (choice for row in rows if row.get("from_name") == "verdict" for choice in row["value"]["choices"])
    return cast("Verdict | None", next((choice for choice in chosen if choice in get_args(Verdict)), None))


def _by(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"
