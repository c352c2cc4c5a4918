"""A product in a workspace without any model: pictures, a finished run whose regions a test chooses, reviews."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from integrations.catalog import Catalog, RunImage, RunRecord
from integrations.export import ExportReport, ExportRequest, export
from integrations.outputs import RunFolder
from integrations.settings import Settings
from saa_core.masks import encode
from saa_core.reviews import RegionReview, Review, ReviewedRegion
from saa_core.types import AnomalyResult, BoolMask, ImageRef, Region
from tests.plates import BUNDLE, NOON, PRODUCT, said, silent

SIZE = 12, 16


def block(top: int, left: int, height: int = 3, width: int = 4) -> BoolMask:
    mask = np.zeros(SIZE, np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


def picture(number: int, kind: str = "PNG", size: tuple[int, int] = SIZE) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@dataclass
class LabelledSet:
    """A workspace, and what a test does in it."""

    folder: Path
    refs: list[ImageRef] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = Settings.load(workspace=self.folder / "w")
        self.catalog = Catalog(self.settings.catalog_url)
        self.catalog.add_bundle(BUNDLE, "library")

    def add(self, name: str, data: bytes | None = None, lot: str | None = None) -> ImageRef:
        """A photograph; its name need not be that of its file."""
        data = data or picture(len(self.refs))
        path = self.folder / "photographs" / f"{len(self.refs):03}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.refs.append(ImageRef(hashlib.sha256(data).hexdigest(), str(path), (name,), lot))
        return self.refs[-1]

    def add_many(self, count: int, per_lot: int = 2) -> list[ImageRef]:
        return [self.add(f"{number:03}.png", lot=f"lot {number // per_lot}") for number in range(count)]

    def label(
        self,
        regions: Mapping[str, Sequence[tuple[str, BoolMask]]],
        run: str = "run1",
        size: tuple[int, int] = SIZE,
    ) -> None:
        """A finished run over all photographs with these regions, by name."""
        self.catalog.begin_run(RunRecord(run, PRODUCT, BUNDLE.id, "batch", {"generator": "lexical"}, "0"))
        rows = [RunImage.of(ref, "labelled", height=size[0], width=size[1]) for ref in self.refs]
        self.catalog.record_images(run, rows)
        written = RunFolder(self.settings.runs / run, [ref.names[0] for ref in self.refs])
        for ref in self.refs:
            found = tuple(_region(*each) for each in regions.get(ref.names[0], ()))
            heat = np.zeros((3, 4), np.float32)
            written.write(ref, AnomalyResult(ref.key, BUNDLE.id, heat, True, 0.3, found, {}), size)
        written.close(self.refs, {"id": run})
        counts = {"reused": 0, "quarantined": 0, "regions": 0, "model_calls": 0}
        self.catalog.finish_run(run, labelled=len(self.refs), **counts, seconds=1.0)

    def review(self, *reviews: Review) -> None:
        self.catalog.add_reviews(reviews)

    def export(self, format: str = "coco", name: str = "out", **asked: object) -> ExportReport:
        request = ExportRequest(format, self.folder / name, PRODUCT, **asked)  # type: ignore[arg-type]
        return export(self.catalog, self.settings, request, silent)


def drawn(ref: ImageRef, *regions: tuple[str, BoolMask]) -> Review:
    """A review with these regions; without one the image is called good."""
    left = tuple(
        RegionReview("added", None, ReviewedRegion(None, label, encode(mask)), None) for label, mask in regions
    )
    return replace(said(ref, at=NOON), regions=left, run="run1", bundle=BUNDLE.id)


def _region(label: str, mask: BoolMask) -> Region:
    rle = encode(mask)
    x0, y0, x1, y1 = map(float, rle.box)
    return Region(rle, (x0, y0, x1, y1), label, 1.25, 0.5, {label: 0.5}, 0.75, rle.area, 0)


@pytest.fixture
def labelled_set(tmp_path: Path) -> Iterator[LabelledSet]:
    """Empty at a test's start."""
    made = LabelledSet(tmp_path)
    yield made
    made.catalog.close()
