"""Data sets in the layout of MVTec AD, the inverse of `integrations.formats.mvtec`.

train/good/<file>                       good images of the part train
test/good/<file>                        good images of the other parts
test/<label>/<file>                     defective images of every part: the layout has no others to train on
ground_truth/<label>/<stem>_mask.png    0 is good, 255 the defect

An image with regions of several labels is in the folder `combined`, as in MVTec AD.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from integrations.files import write_atomic
from integrations.formats.exported import ExportImage
from integrations.formats.mvtec import GOOD, MASK_SUFFIX
from integrations.formats.names import label_folders

_COMBINED = "combined"


def write_mvtec(folder: Path, labels: Sequence[str], images: Iterable[ExportImage]) -> tuple[str, ...]:
    """Write a data set, see the module's text and `WriteFormat`."""
    folders = label_folders(labels, reserved=(GOOD, _COMBINED))
    regions = moved = combined = 0
    for image in images:
        defect = _defect(image, folders)
        trained = image.part == "train" and defect == GOOD
        write_atomic(folder / ("train" if trained else "test") / defect / image.file, image.data)
        if image.regions:
            write_atomic(folder / "ground_truth" / defect / (image.stem + MASK_SUFFIX), image.mask_png())
        regions += len(image.regions)
        moved += image.part == "train" and not trained
        combined += defect == _COMBINED
    return _losses(regions, moved, combined)


def _defect(image: ExportImage, folders: Mapping[str, str]) -> str:
    """The folder of an image."""
    found = {folders[region.label] for region in image.regions}
    if len(found) > 1:
        return _COMBINED
    return found.pop() if found else GOOD


def _losses(regions: int, moved: int, combined: int) -> tuple[str, ...]:
    said = {
        f"the masks of {regions} regions are joined to one an image, and scores are not written": regions,
        f"{combined} images have several labels and are in {_COMBINED!r}": combined,
        f"{moved} defective images of the part train are in test, so their lots may be on both sides": moved,
    }
    return tuple(sentence for sentence, count in said.items() if count)
