"""Images on their way into a data set: named, assigned to a part of the split, each with its picture, one at a time.

Pictures are copies, not links: trainers are known to write into the files that they read (Ultralytics saves a JPEG
anew that has no end marker), and the photographs are not theirs. A picture that its metadata turn, or of a kind that
trainers do not read, becomes an upright PNG: whoever does not heed the metadata would see it turned beside its mask.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from integrations.export_sources import Found, Source
from integrations.formats.exported import ExportImage, Part
from integrations.formats.names import image_stems, leads_out
from integrations.image_sets import read_bytes
from integrations.pictures import as_png
from integrations.reviewed import lot_of
from integrations.splits import Split
from saa_core.errors import ImageError, StoreError
from saa_core.images import upright_format

if TYPE_CHECKING:
    from integrations.evidence_store import Advance

_STEP = "exporting"
_EVERY = 16
"""Images between two words on the progress."""
_LEADS_OUT = "its name leads out of the folder of its set"

# Pillow's formats that trainers read, and the suffix under which they look for them.
_KEPT = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp"}


@dataclass(frozen=True, slots=True)
class Survey:
    """What has to be known of all images before the first is written.

    Attributes:
        stems: What the files of each image to export are called, by key.
        labels: Every label, sorted.
        undrawn: Images left out, see `Found.undrawn`.
        refused: (image, reason) of those whose name leads out of a folder.
        runs: Ids of all runs, sorted.
    """

    stems: Mapping[str, str]
    labels: tuple[str, ...]
    undrawn: int
    refused: tuple[tuple[str, str], ...]
    runs: tuple[str, ...]


@dataclass(slots=True)
class ImageStream:
    """Each image with its picture, and what became of them so far.

    An image is noted once it is written, that is when the next one is asked for. One that cannot be read any more is
    refused by name, and the others go on.

    Attributes:
        source: Where they come from.
        survey: Of the same source.
        split: Assigns them to parts.
        note: Told of each image that was written.
        advance: Told of the progress.
        parts: Images written into each part.
        good: How many of them are good.
        regions: Regions of the others.
        refused: (image, reason) of those that cannot be exported.
    """

    source: Source
    survey: Survey
    split: Split
    note: Callable[[Mapping[str, Any]], object]
    advance: Advance
    parts: Counter[Part] = field(default_factory=Counter)
    good: int = 0
    regions: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)

    def __iter__(self) -> Iterator[ExportImage]:
        # An image that was reviewed since the survey has no name yet, and waits for the next export.
        known = (found for found in self.source.images() if found.ref.key in self.survey.stems)
        for done, found in enumerate(known, start=1):
            try:
                image = self._image(found)
            except ImageError as error:
                self.refused.append((error.name, error.reason))
            else:
                yield image
                self._count(found, image)
            if done % _EVERY == 0 or done == len(self.survey.stems):
                self.advance(_STEP, done, len(self.survey.stems))

    def _image(self, found: Found) -> ExportImage:
        if found.undrawn or not {region.label for region in found.regions}.issubset(self.survey.labels):
            raise StoreError(found.ref.names[0], "its review changed while it was exported; run again")
        data, suffix = portable(read_bytes(found.ref), found.ref.names[0])
        part = self.split.part_of(found.ref.lot or lot_of(found.ref.key))
        stem = self.survey.stems[found.ref.key]
        return ExportImage(stem, suffix, data, part, found.height, found.width, found.regions)

    def _count(self, found: Found, image: ExportImage) -> None:
        self.parts[image.part] += 1
        self.good += found.finding == "good"
        self.regions += len(found.regions)
        said = {"lot": found.ref.lot, "finding": found.finding, "regions": len(found.regions), "run": found.run}
        self.note({"file": image.file, "part": image.part, "names": found.ref.names, "key": found.ref.key, **said})


def survey(source: Source) -> Survey:
    """Look through all images once; none is read."""
    names: dict[str, str] = {}
    labels: set[str] = set()
    runs: set[str] = set()
    undrawn, refused = 0, []
    for found in source.images():
        name = found.ref.names[0]
        if found.undrawn:
            undrawn += 1
        elif leads_out(name):
            refused.append((name, _LEADS_OUT))
        else:
            names[found.ref.key] = name
            labels.update(region.label for region in found.regions)
            runs.update([found.run] if found.run else [])
    return Survey(image_stems(names), tuple(sorted(labels)), undrawn, tuple(refused), tuple(sorted(runs)))


def portable(data: bytes, name: str) -> tuple[bytes, str]:
    """A picture as trainers read it, upright whether they heed metadata or not, and its suffix.

    Args:
        data: The photograph's file.
        name: What the user calls it, for errors.

    Raises:
        ImageError: It has to be decoded and cannot be.
    """
    suffix = _KEPT.get(upright_format(data) or "")
    return (data, suffix) if suffix else (as_png(data, name), ".png")
