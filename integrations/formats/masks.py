"""Masks as PNG files beside the images, for whatever reads pictures.

images/<part>/<file>
masks/<part>/<stem>.png                     union of the regions, 0 or 255; all 0 for a good image
masks_by_label/<label>/<part>/<stem>.png    of several labels in the data set, the union of each
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from integrations.files import write_atomic
from integrations.formats.exported import ExportImage, write_picture
from integrations.formats.names import label_folders


def write_masks(folder: Path, labels: Sequence[str], images: Iterable[ExportImage]) -> tuple[str, ...]:
    """Write a data set, see the module's text and `WriteFormat`."""
    folders, regions = label_folders(labels), 0
    for image in images:
        write_picture(folder, image)
        write_atomic(folder / "masks" / image.part / f"{image.stem}.png", image.mask_png())
        for label in {region.label for region in image.regions} if len(labels) > 1 else ():
            place = folder / "masks_by_label" / folders[label] / image.part
            write_atomic(place / f"{image.stem}.png", image.mask_png(label))
        regions += len(image.regions)
    joined = f"the masks of {regions} regions are joined to one an image and label, and scores are not written"
    return (joined,) if regions else ()
