"""Reviews from mask files, drawn with whatever program the expert likes.

A mask has the name of its image, with another suffix or one more, or that of the mask file that the run wrote for it;
`_mask` may stand behind it, as in MVTec layout.
Pixels that are not black are defective, an empty mask says that the image is good, an image without a mask was not
reviewed. The 8-connected components are the regions, and what became of the run's regions is found by place.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import PIL.Image
from PIL import ImageOps, UnidentifiedImageError

from integrations.catalog import Catalog, RunRecord
from integrations.finished_run import without_run
from integrations.image_sets import SUFFIXES
from integrations.outputs import ImageRecord, read_records
from saa_core.errors import DatasetError, ReviewError
from saa_core.masks import Bools, Rle, encode_crop, from_coco, union
from saa_core.reviews import PredictedRegion, Review, ReviewedRegion, compare

SOURCE = "masks"
_MVTEC = "_mask"
"""What the masks of a data set in MVTec layout have behind the names of their images."""
LABEL = "defect"
"""A mask tells where something is and not what: its regions and those they are compared with are all called this."""

_LOSSLESS = ("PNG", "TIFF", "BMP", "PPM", "GIF")
_GREY = ("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")


@dataclass(frozen=True, slots=True)
class MaskReviews:
    """What a folder of masks holds.

    Attributes:
        reviews: One for each image that has a usable mask, by name of the mask.
        refused: (name, reason) of every mask that cannot be used, sorted.
    """

    reviews: tuple[Review, ...]
    refused: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A usable mask: its file, its image, its components."""

    name: str
    image: ImageRecord
    digest: str
    updated: datetime
    regions: tuple[Rle, ...]


def read_masks(folder: Path, product: str, catalog: Catalog, runs: Path) -> MaskReviews:
    """The reviews that a folder of masks holds, compared with the regions of the product's latest finished run.

    One mask that cannot be used is refused and the others go on: it is damaged, lossy or transparent, its size is not
    that of its image, no image has its name, or another mask of the same image differs. Whether the expert saw the
    run's masks is not known, so the reviews do not count as unaided. They are dated by the files' modification times.

    Args:
        folder: Searched to any depth; hidden files and files without the suffix of a picture are left out.
        product: What was inspected.
        catalog: Of the workspace.
        runs: Folder of the workspace that holds the runs.

    Raises:
        DatasetError: There is no such folder, or no mask in it.
        StoreError: The product has no finished run, or its files cannot be read.
    """
    files = _files(folder)
    run = catalog.latest_run(product, state="done")
    if run is None:
        raise without_run(catalog, product)
    images = _by_name(read_records(runs / run.id))
    drawn: dict[str, list[_Drawn]] = {}
    refused = []
    for name in files:
        try:
            mask = _draw(folder / name, name, images)
            drawn.setdefault(mask.image["key"], []).append(mask)
        except ReviewError as error:
            refused.append((error.name, error.reason))
    usable = [masks[0] for masks in drawn.values() if _agree(masks)]
    refused += [refusal for masks in drawn.values() if not _agree(masks) for refusal in _several(masks)]
    return MaskReviews(tuple(_review(mask, product, run) for mask in usable), tuple(sorted(refused)))


def _files(folder: Path) -> list[str]:
    """Names of the masks, relative to the folder and with slashes, sorted."""
    if not folder.is_dir():
        raise DatasetError(str(folder), "no such folder")
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
    visible = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    files = sorted(name.as_posix() for name in visible if (folder / name).is_file())
    if not files:
        raise DatasetError(
            str(folder), f"no mask found; expected pictures ({', '.join(_LOSSLESS)}) named as the images"
        )
    return files


def _by_name(records: Iterable[ImageRecord]) -> dict[str, ImageRecord]:
    """Records by the names of the images, and by those of the run's masks without suffix."""
    images: dict[str, ImageRecord] = {}
    stems: dict[str, ImageRecord] = {}
    for record in records:
        images |= dict.fromkeys(record["names"], record)
        stems |= dict.fromkeys((_stem(mask.removeprefix("masks/")) for mask in record["masks"]), record)
    return stems | images


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _draw(path: Path, name: str, images: dict[str, ImageRecord]) -> _Drawn:
    stem = _stem(name)
    record = images.get(name) or images.get(stem) or images.get(stem.removesuffix(_MVTEC))
    if record is None:
        raise ReviewError(name, "no image of the product's latest run has this name")
    try:
        data, modified = path.read_bytes(), path.stat().st_mtime
    except OSError as error:
        raise ReviewError(name, f"cannot be read: {error.strerror}") from error
    height, width = record["size"]
    pixels = _pixels(data, name, (height, width))
    digest = hashlib.sha256(data).hexdigest()
    return _Drawn(name, record, digest, datetime.fromtimestamp(modified, UTC), _components(pixels))


# --------------------------------------------------------------------------------------------------------------- pixels


def _pixels(data: bytes, name: str, size: tuple[int, int]) -> Bools:
    """The mask of an image of this (height, width); one of another size is not decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata and large sizes
            with PIL.Image.open(io.BytesIO(data), formats=(*_LOSSLESS, "JPEG")) as picture:
                _check_size(picture.size[::-1], size, name, turned=picture.size)
                _check_exact(picture, name)
                mask = _foreground(ImageOps.exif_transpose(picture))
                _check_size(mask.shape, size, name)
                return mask
    except ReviewError:
        raise
    except UnidentifiedImageError as error:
        raise ReviewError(name, f"not a mask of a known format ({', '.join(_LOSSLESS)})") from error
    except Exception as error:  # a damaged file can make a decoder raise almost anything
        raise ReviewError(name, f"truncated or damaged: {error or type(error).__name__}") from error


def _check_size(found: tuple[int, ...], size: tuple[int, int], name: str, *, turned: tuple[int, ...] = ()) -> None:
    if size not in (found, turned):
        sizes = [" x ".join(map(str, each)) for each in (found, size)]
        raise ReviewError(name, f"the mask has {sizes[0]} pixels, its image {sizes[1]}")


def _check_exact(picture: PIL.Image.Image, name: str) -> None:
    if picture.format == "JPEG":
        raise ReviewError(name, "JPEG smears what is drawn, so what is black is not known; save the mask as PNG")
    if picture.has_transparency_data and np.asarray(picture.convert("RGBA"))[..., 3].min() < 255:
        raise ReviewError(name, "the mask is transparent in parts; save it in black and white")


def _foreground(picture: PIL.Image.Image) -> Bools:
    """Bool (H, W)."""
    values = np.asarray(picture if picture.mode in _GREY else picture.convert("RGB"))
    mask: Bools = np.any(np.atleast_3d(values), axis=2)
    return mask


def _components(mask: Bools) -> tuple[Rle, ...]:
    """The 8-connected components, in reading order of their first pixels."""
    count, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    boxes = stats[1:count, : cv2.CC_STAT_AREA].tolist()
    return tuple(
        encode_crop(numbers[y : y + h, x : x + w] == number, y, x, *mask.shape)
        for number, (x, y, w, h) in enumerate(boxes, start=1)
    )


# -------------------------------------------------------------------------------------------------------------- reviews


def _agree(masks: list[_Drawn]) -> bool:
    """Whether masks of one image say the same, as those of an image with several names do."""
    return all(mask.regions == masks[0].regions for mask in masks)


def _several(masks: list[_Drawn]) -> list[tuple[str, str]]:
    names = [mask.name for mask in masks]
    return [
        (name, f"differs from another mask of the same image: {', '.join(other for other in names if other != name)}")
        for name in names
    ]


def _review(mask: _Drawn, product: str, run: RunRecord) -> Review:
    # All empty masks of a size are the same bytes: the image belongs to what the review is known by.
    known_by = f"{product}\n{mask.image['key']}\n{mask.digest}".encode()
    predicted = _predicted(mask.image)
    drawn = [ReviewedRegion(None, LABEL, region) for region in _regions(mask.regions, predicted)]
    return Review(
        product=product,
        image=mask.image["key"],
        source=SOURCE,
        id=hashlib.sha256(known_by).hexdigest(),
        state="submitted",
        annotator=SOURCE,
        updated=mask.updated,
        verdict=None,
        words="",
        lead_seconds=None,
        run=run.id,
        bundle=run.bundle,
        aided=True,
        regions=compare(predicted, drawn),
    )


def _regions(components: Sequence[Rle], predicted: Sequence[PredictedRegion]) -> Sequence[Rle]:
    """The components, or the run's regions where the mask is exactly theirs: some of them touch or have gaps."""
    shown = [region.mask for region in predicted]
    return shown if shown and components and union(shown) == union(components) else components


def _predicted(image: ImageRecord) -> list[PredictedRegion]:
    return [
        PredictedRegion(str(number), LABEL, region["label"], region["confidence"], from_coco(region["segmentation"]))
        for number, region in enumerate(image["regions"])
    ]
