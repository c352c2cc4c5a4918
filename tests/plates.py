"""A product in a workspace without Prefect: made plates, labelled by the weight-free models, reviewed by hand."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import threadpool_limits

from integrations.blobs import BlobStore
from integrations.candidate_store import CandidateStore
from integrations.catalog import Catalog, RunImage, RunRecord
from integrations.evidence_store import Advance
from integrations.refinery import RefineRequest, conclude, refine_product, settle
from integrations.reviewed import ReviewedProduct, reviewed_product
from integrations.settings import Settings
from saa_core.masks import Rle, encode
from saa_core.models import build
from saa_core.prompts import PromptBundle
from saa_core.refinement.outcome import Refinement
from saa_core.reviews import RegionReview, Review, ReviewedRegion, ReviewState, Verdict
from saa_core.types import ImageRef

SIDE = 64
PER_LOT = 5
PRODUCT = "plate"
BUNDLE = PromptBundle.from_content(
    {"product": PRODUCT, "language": {"specific": ["dark scratch", "bright spot"]}, "decision": {"threshold": 0.9}}
)
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
COUNT = 20
"""Plates of the whole product: 8 scratched ones and 12 good ones in 4 lots; with --risk enough."""


def silent(step: str, done: int, total: int) -> None:
    """Who does not want to know of the progress."""


def scratched(number: int) -> bool:
    """Two of five plates, the same in every lot."""
    return number % PER_LOT < 2


def scratch(number: int) -> NDArray[np.bool_]:
    """The defect of a plate; nothing on a good one."""
    mask = np.zeros((SIDE, SIDE), np.bool_)
    if scratched(number):
        row = 8 + number * 7 % 40
        mask[row : row + 4, 8:52] = True
    return mask


def plate(number: int) -> bytes:
    """The photograph of a plate as PNG: grey and noisy, scratched or not, each third with a harmless bright spot."""
    rng = np.random.default_rng(number)
    pixels = rng.normal(140, 4, (SIDE, SIDE)) - 80 * scratch(number)
    if number % 3 == 0:
        pixels[50:58, 40:48] += 60
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def photograph(folder: Path, count: int = COUNT) -> list[ImageRef]:
    """Files of the first plates, and where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    refs = []
    for number in range(count):
        data, path = plate(number), folder / f"{number:03}.png"
        path.write_bytes(data)
        key = hashlib.sha256(data).hexdigest()
        refs.append(ImageRef(key, str(path), (path.name,), f"lot {number // PER_LOT}"))
    return refs


def said(
    ref: ImageRef,
    masks: Iterable[Rle] = (),
    *,
    who: str = "anna",
    at: datetime | None = None,
    label: str = "scratch",
    words: str = "",
    verdict: Verdict | None = None,
    state: ReviewState = "submitted",
    aided: bool = True,
) -> Review:
    """A review in which these masks were drawn; without one the image is called good."""
    drawn = [ReviewedRegion(None, label, mask, words) for mask in masks]
    regions = tuple(RegionReview("added", None, region, None) for region in drawn)
    moment = at or NOON + timedelta(minutes=int(ref.names[0][:3]))
    fields = state, who, moment, verdict, "", 12.0, None, None, aided, regions
    return Review(PRODUCT, ref.key, "masks", f"{who} {ref.key}", *fields)


def truth(ref: ImageRef) -> list[Rle]:
    """Masks that a perfect expert draws."""
    mask = scratch(int(ref.names[0][:3]))
    return [encode(mask)] if mask.any() else []


def perfect(refs: Iterable[ImageRef]) -> list[Review]:
    """What a perfect expert says of plates."""
    return [said(ref, truth(ref)) for ref in refs]


@dataclass
class Plates:
    """A workspace, and what a test does in it.

    Attributes:
        settings: Of the workspace.
    """

    settings: Settings

    def __post_init__(self) -> None:
        self.catalog = Catalog(self.settings.catalog_url)
        self.store = self.opened()

    @classmethod
    def at(cls, workspace: Path, promotion: str = "guarded") -> Plates:
        return cls(Settings.load(workspace=workspace, promotion=promotion))

    def opened(self) -> CandidateStore:
        """The workspace's candidates, with a count of model calls that begins at 0."""
        return CandidateStore(BlobStore(self.settings.blobs_url), build(), self.settings.max_pixels)

    @classmethod
    def again(cls, labelled: Labelled, workspace: Path, promotion: str = "guarded") -> Plates:
        """A copy of a workspace."""
        shutil.copytree(labelled.workspace, workspace)
        return cls.at(workspace, promotion)

    def label(
        self,
        refs: Sequence[ImageRef],
        run: str = "run1",
        bundle: PromptBundle = BUNDLE,
        *,
        models: Mapping[str, str] | None = None,
        quarantined: Sequence[ImageRef] = (),
        product: str = PRODUCT,
    ) -> None:
        """A finished run: candidates, maps and the catalog's rows, as `saa label` leaves them; no masks."""
        with threadpool_limits(1):
            context = self.store.context(refs)
            levels = self.store.levels(refs, bundle, context)
            found = [self.store.decide(ref, bundle, context, levels)[1] for ref in refs]
        self.catalog.add_bundle(bundle, "library")
        self.catalog.begin_run(RunRecord(run, product, bundle.id, "batch", dict(models or self.store.method.ids), "0"))
        rows = [
            RunImage.of(ref, "labelled", height=SIDE, width=SIDE, regions=len(result.regions))
            for ref, result in zip(refs, found, strict=True)
        ]
        rows += [RunImage.of(ref, "quarantined", reason="no image") for ref in quarantined]
        self.catalog.record_images(run, rows)
        counts = {"labelled": len(refs), "reused": 0, "quarantined": len(quarantined), "regions": 0, "model_calls": 0}
        self.catalog.finish_run(run, **counts, seconds=1.0)

    def reviewed(self) -> ReviewedProduct:
        return reviewed_product(self.catalog, PRODUCT, self.store.method.ids)

    def refine(self, advance: Advance = silent, **asked: object) -> Refinement:
        """Search and ask the guard; nothing is concluded."""
        request = RefineRequest.model_validate({"product": PRODUCT, "budget": 60, **asked})
        return refine_product(self.catalog, self.store, request, advance)

    def conclude(self, refinement: Refinement) -> Refinement:
        """Carry out what was found; returns what became of it."""
        settled = settle(self.catalog, self.settings, refinement)
        conclude(self.catalog, settled)
        return settled

    def blobs(self, kind: str) -> list[Path]:
        """Files of the store."""
        return [path for path in (self.settings.workspace / "blobs" / kind).rglob("*") if path.is_file()]

    def copied(self, refs: Sequence[ImageRef], folder: Path, run: str = "run1") -> list[ImageRef]:
        """The plates in a folder of the test's own, labelled there from what the store has."""
        folder.mkdir()
        moved = [replace(ref, uri=str(folder / ref.names[0])) for ref in refs]
        for old, new in zip(refs, moved, strict=True):
            Path(new.uri).write_bytes(Path(old.uri).read_bytes())
        self.label(moved, run)
        return moved


@dataclass(frozen=True)
class Labelled:
    """A workspace in which all plates were labelled and none was reviewed, and the plates."""

    workspace: Path
    refs: list[ImageRef]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For arithmetic on small arrays, in which more threads only wait for each other."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    """Not to be changed: `Plates.again` copies it."""
    folder = tmp_path_factory.mktemp("plates")
    refs = photograph(folder / "photographs")
    plates = Plates.at(folder / "w")
    plates.label(refs)
    plates.catalog.close()
    return Labelled(folder / "w", refs)


@pytest.fixture
def plates(labelled: Labelled, tmp_path: Path) -> Iterator[Plates]:
    """A copy of the labelled workspace."""
    found = Plates.again(labelled, tmp_path / "w")
    yield found
    found.catalog.close()
