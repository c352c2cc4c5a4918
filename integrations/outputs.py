"""A run on disk: maps, masks and regions of every image.

    <run>/maps/<name>.png       heat of the anomaly map at the image's size, 8-bit grey, 255 is 1.0
    <run>/masks/<name>.png      union of the regions at the image's size, 0 or 255
    <run>/regions/<name>.json   the image's record, written last: where it is, the image is done
    <run>/regions.jsonl         all records in one file, one a line
    <run>/run.json              the run itself, written at the very end: where it is, the run is done

An image with several names has its map and mask under each of them, and one record. Every file is written whole or not
at all, so a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from integrations.files import write_atomic
from saa_core.errors import StoreError
from saa_core.masks import Rle, decode, to_coco, union
from saa_core.prompts import Decision
from saa_core.types import AnomalyResult, FloatMap, ImageRef, Region

_DIGITS = 6
_UNPROVED = {"precision": None, "needs_review": True}


class RegionRecord(TypedDict):
    """One region; fields as in `Region`, the mask as a COCO segmentation with compressed run-lengths.

    `precision` is the share of such regions that experts found right, in [0, 1], None where the bundle knows no
    calibration; `needs_review` is false where the bundle's accept threshold is reached.
    """

    box: list[float]
    label: str
    score: float
    confidence: float
    precision: float | None
    needs_review: bool
    phrase_scores: dict[str, float]
    saliency: float
    area: int
    segmentation: dict[str, Any]


class ImageRecord(TypedDict):
    """One image: content, names, size [height, width], image score, regions best first, files relative to the run."""

    key: str
    names: list[str]
    size: list[int]
    bundle: str
    score: float
    regions: list[RegionRecord]
    maps: list[str]
    masks: list[str]


class RunFolder:
    """Writes the files of one run. Several processes may write different images of a run at once.

    Args:
        folder: Of the run; made when needed.
        names: Every name in the image set, since they decide together what the files are called; or what another
            `RunFolder` of the run says that those of some images are called, see `stems`.
    """

    def __init__(self, folder: Path, names: Iterable[str] | Mapping[str, str]) -> None:
        self.folder = folder
        self._stems = dict(names) if isinstance(names, Mapping) else _stems(names)

    def stems(self, refs: Iterable[ImageRef]) -> dict[str, str]:
        """What the files of each name of some images are called, without their suffix."""
        return {name: self._stems[name] for ref in refs for name in ref.names}

    def map_file(self, name: str) -> Path:
        """Where the anomaly map of an image is."""
        return self.folder / self._map(name)

    def mask_file(self, name: str) -> Path:
        """Where the mask of an image is."""
        return self.folder / self._mask(name)

    def write(
        self, ref: ImageRef, result: AnomalyResult, size: tuple[int, int], decision: Decision | None = None
    ) -> None:
        """Write one image's map, mask and record, in this order.

        Args:
            ref: The image.
            result: What the method says of it; its heat is resized bilinearly.
            size: (height, width) of the image in pixels.
            decision: Of the bundle, which tells what of the result needs no review; None: all of it does.

        Raises:
            StoreError: A file cannot be written.
        """
        heat = _png(_grey(result.heat(), size))
        mask = mask_png([region.mask for region in result.regions], size)
        for name in ref.names:
            write_atomic(self.map_file(name), heat)
            write_atomic(self.mask_file(name), mask)
        write_atomic(self._record_file(ref), _json(self._record(ref, result, size, decision or Decision())))

    def is_written(self, ref: ImageRef) -> bool:
        """Whether all files of an image are there and tell of these bytes."""
        try:
            record = _read(self._record_file(ref))
        except StoreError:
            return False
        return record["key"] == ref.key and _files_exist(self.folder, cast(ImageRecord, record))

    def close(self, refs: Iterable[ImageRef], run: Mapping[str, Any]) -> None:
        """Collect the records of all images and write the run's own file.

        Args:
            refs: The images of the run that are not quarantined, in the order of the records.
            run: What to say of the run: anything that JSON can hold.

        Raises:
            StoreError: An image was not written, or a file cannot be.
        """
        lines = [_json(_read(self._record_file(ref))) for ref in refs]
        write_atomic(self.folder / "regions.jsonl", b"".join(line + b"\n" for line in lines))
        write_atomic(self.folder / "run.json", json.dumps(dict(run), indent=2, ensure_ascii=False).encode())

    def _map(self, name: str) -> str:
        return f"maps/{self._stems[name]}.png"

    def _mask(self, name: str) -> str:
        return f"masks/{self._stems[name]}.png"

    def _record_file(self, ref: ImageRef) -> Path:
        return self.folder / "regions" / f"{self._stems[ref.names[0]]}.json"

    def _record(self, ref: ImageRef, result: AnomalyResult, size: tuple[int, int], decision: Decision) -> ImageRecord:
        return {
            "key": ref.key,
            "names": list(ref.names),
            "size": list(size),
            "bundle": result.bundle,
            "score": round(float(result.score), _DIGITS),
            "regions": [_region(region, decision) for region in result.regions],
            "maps": [self._map(name) for name in ref.names],
            "masks": [self._mask(name) for name in ref.names],
        }


def verify(folder: Path) -> bool:
    """Whether a run is done and every file that its records name is still there; contents are not looked at."""
    try:
        read_run(folder)
        return all(_files_exist(folder, record) for record in read_records(folder))
    except StoreError:
        return False


def read_run(folder: Path) -> dict[str, Any]:
    """What `RunFolder.close` was told of the run.

    Raises:
        StoreError: The run is not done, or its file is damaged.
    """
    return _read(folder / "run.json")


def read_records(folder: Path) -> Iterator[ImageRecord]:
    """The records of a run that is done, one image at a time; of regions of older runs nothing is proved.

    Raises:
        StoreError: There are none, or they are damaged.
    """
    path = folder / "regions.jsonl"
    try:
        with path.open("rb") as lines:
            for line in lines:
                record = json.loads(line)
                record["regions"] = [_UNPROVED | region for region in record["regions"]]
                yield record
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(str(path), f"cannot be read: {error}") from error


# ---------------------------------------------------------------------------------------------------------- file names


def _stems(names: Iterable[str]) -> dict[str, str]:
    """For each name what its files are called without their suffix: the name without its own, where that is unique.

    Two names that differ in the suffix only keep it. That may clash with a third, `a.jpg` with `a.jpg.png`, which then
    keeps its own too; names with their suffixes are all different, so this ends.
    """
    kept: set[str] = set()
    every = sorted(set(names))
    while True:
        stems = {name: name if name in kept else str(PurePosixPath(name).with_suffix("")) for name in every}
        uses = Counter(stems.values())
        clashing = {name for name, stem in stems.items() if uses[stem] > 1}
        if not clashing:
            return stems
        kept |= clashing


# --------------------------------------------------------------------------------------------------- pixels and records


def mask_png(masks: Sequence[Rle], size: tuple[int, int]) -> bytes:
    """The union of masks of one size (height, width) as an 8-bit grey PNG, 0 or 255; without masks all 0."""
    import cv2

    pixels = decode(union(masks)) if masks else np.zeros(size, np.bool_)
    # Masks are long runs as they are: a filter takes four times as long and makes them larger.
    return _png(pixels.view(np.uint8) * np.uint8(255), cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)


def _grey(values: FloatMap, size: tuple[int, int]) -> NDArray[np.uint8]:
    import cv2

    height, width = size
    resized = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.rint(np.clip(resized, 0, 1) * 255).astype(np.uint8)


def _png(pixels: NDArray[np.uint8], *more: int) -> bytes:
    import cv2

    # Run-length matching at the lowest level: of what was tried the fastest, and no larger on maps and masks.
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE, *more]
    return cv2.imencode(".png", pixels, options)[1].tobytes()


def _region(region: Region, decision: Decision) -> RegionRecord:
    confidence = float(region.confidence)
    precision = decision.precision(confidence)
    return {
        "box": [round(float(side), 2) for side in region.box],
        "label": region.label,
        "score": round(float(region.score), _DIGITS),
        "confidence": round(confidence, _DIGITS),
        "precision": None if precision is None else round(precision, _DIGITS),
        "needs_review": decision.needs_review(confidence),
        "phrase_scores": {phrase: round(float(score), _DIGITS) for phrase, score in region.phrase_scores.items()},
        "saliency": round(float(region.saliency), _DIGITS),
        "area": int(region.area),
        "segmentation": to_coco(region.mask),
    }


def _json(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(str(path), f"cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise StoreError(str(path), "holds something else than a record")
    return content


def _files_exist(folder: Path, record: ImageRecord) -> bool:
    return all((folder / name).is_file() for name in (*record["maps"], *record["masks"]))
