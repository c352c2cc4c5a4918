"""What is exported: experts' reviews or a run's predictions, as one stream of images with their regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar, cast

from integrations.catalog import Catalog, RunRecord
from integrations.finished_run import without_run
from integrations.formats.exported import ExportRegion
from integrations.labels import label_of
from integrations.outputs import ImageRecord, read_records
from saa_core.errors import StoreError
from saa_core.masks import from_coco
from saa_core.prompts import PromptBundle
from saa_core.reviews import Finding, evidence
from saa_core.types import ImageRef

What = Literal["reviews", "predictions"]
"""Whose word on the images it is."""

_AT_ONCE = 256
"""Images whose rows are asked of the catalog in one go and held in memory together."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Found:
    """One image and what is said of it.

    Attributes:
        ref: The image.
        height: Rows in pixels.
        width: Columns in pixels.
        finding: Whether it is good.
        regions: Where it is not.
        run: Id of the run whose regions these are, or were shown to the expert; None when not known.
    """

    ref: ImageRef
    height: int
    width: int
    finding: Finding
    regions: tuple[ExportRegion, ...]
    run: str | None

    @property
    def undrawn(self) -> bool:
        """Whether it is called defective with nothing drawn: neither good nor a mask to train on."""
        return self.finding == "defective" and not self.regions


@dataclass(frozen=True, slots=True)
class Source:
    """Images to export.

    Attributes:
        product: What the images show.
        known: How many usable images there are, with such a statement or without.
        images: Begins the stream of those with one, in the order of the source; each call begins it anew.
    """

    product: str
    known: int
    images: Callable[[], Iterator[Found]]


def predictions(catalog: Catalog, run: RunRecord, folder: Path) -> Source:
    """What a finished run found, under the labels that experts choose from.

    Args:
        catalog: Knows where the images are.
        run: The run.
        folder: Of the run.
    """
    return Source(run.product, run.labelled + run.reused, partial(_predicted, catalog, run, folder))


def reviews(catalog: Catalog, product: str) -> Source:
    """What experts said of a product: of each image the newest finding.

    Raises:
        StoreError: No image of the product has one.
    """
    keys = catalog.reviewed(product)
    source = partial(_reviewed, catalog, product, keys)
    if not any(True for _ in source()):
        if product not in catalog.products():
            raise without_run(catalog, product)
        advice = "`saa pull` brings reviews, --predictions exports what a run found"
        raise StoreError(product, f"has no reviewed image to export; {advice}")
    known = {key for run in catalog.keys_by_run(product).values() for key in run}
    return Source(product, len(known.union(keys)), source)


def _predicted(catalog: Catalog, run: RunRecord, folder: Path) -> Iterator[Found]:
    bundle = catalog.bundle(run.bundle)
    for records in _chunks(read_records(folder)):
        refs = catalog.refs(run.product, [record["key"] for record in records])
        for record in records:
            height, width = record["size"]
            regions = _regions(record, bundle)
            finding: Finding = "defective" if regions else "good"
            yield Found(refs[record["key"]], height, width, finding, regions, run.id)


def _regions(record: ImageRecord, bundle: PromptBundle) -> tuple[ExportRegion, ...]:
    return tuple(
        ExportRegion(label_of(each["label"], bundle), from_coco(each["segmentation"]), each["confidence"])
        for each in record["regions"]
    )


def _reviewed(catalog: Catalog, product: str, keys: Sequence[str]) -> Iterator[Found]:
    for chunk in _chunks(keys):
        counted = evidence(catalog.reviews(product, chunk))
        refs, sizes = catalog.refs(product, counted), catalog.sizes(counted)
        for key, review in counted.items():
            regions = [region.reviewed for region in review.regions if region.reviewed is not None]
            drawn = tuple(ExportRegion(region.label, region.mask) for region in regions)
            yield Found(refs[key], *sizes[key], cast(Finding, review.finding), drawn, review.run)


def _chunks(items: Iterable[_T]) -> Iterator[list[_T]]:
    rest = iter(items)
    while chunk := list(islice(rest, _AT_ONCE)):
        yield chunk
