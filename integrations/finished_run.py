"""A finished run of the workspace as whoever shows it to experts wants it: records, files, order of review."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from integrations.catalog import Catalog, RunImage, RunRecord
from integrations.outputs import ImageRecord, read_records, read_run
from integrations.settings import Settings
from saa_core.errors import ImageError, StoreError
from saa_core.priority import Judged, priorities
from saa_core.prompts import PromptBundle
from saa_core.types import ImageRef

Describe = Callable[[ImageRef], NDArray[np.float32]]
"""An image as one vector, float32 (C,): the mean of its features."""


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run whose files are all written.

    Attributes:
        record: Of the catalog.
        bundle: The bundle that decided.
        folder: Its files.
        images: What it says of each usable image.
        refs: The same images by content.
    """

    record: RunRecord
    bundle: PromptBundle
    folder: Path
    images: tuple[ImageRecord, ...]
    refs: tuple[ImageRef, ...]

    @property
    def models(self) -> str:
        """The models by name: whoever corrects their masks must not take them for those of others."""
        return "+".join(read_run(self.folder)["models"].values())

    def descriptors(self, describe: Describe) -> dict[str, NDArray[np.float32]]:
        """The images as vectors, by key, float32 (C,); one that cannot be read any more is left out."""
        found: dict[str, NDArray[np.float32]] = {}
        for ref in self.refs:
            # Where its picture is still needed it is refused later, and the others go on.
            with suppress(ImageError):
                found[ref.key] = describe(ref)
        return found

    def priorities(self, descriptors: Mapping[str, NDArray[np.float32]]) -> Sequence[float]:
        """How much a review of each image would tell, in [0, 1], see `saa_core.priority`.

        Args:
            descriptors: From `descriptors`; an image without one counts as an ordinary one.
        """
        if not self.images:
            return []
        known = list(descriptors.values())
        ordinary: NDArray[np.float32] = np.mean(known, axis=0) if known else np.zeros(1, np.float32)
        vectors = np.stack([descriptors.get(ref.key, ordinary) for ref in self.refs])
        synonyms = [phrase.text for phrase in self.bundle.language.agnostic]
        judged = [_judged(image) for image in self.images]
        found: list[float] = priorities(judged, vectors, self.bundle.decision.region_floor, synonyms).tolist()
        return found


def run_of(catalog: Catalog, product: str, run: str | None) -> RunRecord:
    """The finished run that is meant.

    Args:
        catalog: Of the workspace.
        product: What the images show.
        run: Id of the run, or the beginning of it; None is the product's latest finished one.

    Raises:
        StoreError: There is none, it is not finished, or it is of another product.
    """
    found = catalog.run(run) if run else catalog.latest_run(product, state="done")
    if found is None:
        raise without_run(catalog, product)
    if found.product != product:
        raise StoreError(found.id, f"is a run of {found.product!r}, not of {product!r}")
    if found.state != "done":
        raise StoreError(found.id, "is not finished; run its `saa label` again, it goes on where it stopped")
    return found


def without_run(catalog: Catalog, product: str) -> StoreError:
    """The error for a product that was never labelled, which may be another's name misspelt."""
    near = difflib.get_close_matches(product, catalog.products(), n=1)
    meant = f"; is {near[0]!r} meant?" if near else ""
    return StoreError(product, f"has no finished run; `saa label IMAGES --product {product}` makes one{meant}")


def finished_run(settings: Settings, catalog: Catalog, record: RunRecord) -> FinishedRun:
    """The files of a run and the places of its images.

    Raises:
        StoreError: The run's files are gone or damaged.
    """
    folder, bundle = settings.runs / record.id, catalog.bundle(record.bundle)
    rows = {row.key: row for row in catalog.images_of(record.id) if row.state != "quarantined"}
    images = tuple(read_records(folder))
    return FinishedRun(record, bundle, folder, images, tuple(_ref(image, rows[image["key"]]) for image in images))


def _judged(image: ImageRecord) -> Judged:
    regions = image["regions"]
    return Judged(
        key=image["key"],
        score=image["score"],
        confidences=tuple(region["confidence"] for region in regions),
        phrase_scores=tuple(region["phrase_scores"] for region in regions),
    )


def _ref(image: ImageRecord, row: RunImage) -> ImageRef:
    return ImageRef(image["key"], row.uri, tuple(image["names"]), row.lot)
