"""GroundingDINO, SAM and a CNN behind the candidate store: what is kept, what is asked again, what is left undrawn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from integrations.blobs import BlobStore
from integrations.candidate_store import CandidateStore
from saa_core.features.filter_bank import FilterBank
from saa_core.generators.base import Proposals, Request
from saa_core.generators.grounding_dino import GroundingDino
from saa_core.pipeline import SegmentAnyAnomaly
from saa_core.prompts import PromptBundle
from saa_core.refiners.base import Refined
from saa_core.refiners.sam import Sam
from saa_core.runtime import Compute
from saa_core.types import RGB, Boxes, FloatMap, ImageRef, Query
from tests.foundation import tiny_grounding_dino, tiny_sam

BUNDLE = PromptBundle.from_content(
    {"product": "bottle", "profile": "paper", "language": {"object": "bottle", "specific": ["crack"]}}
)
MORE = BUNDLE.changed(language={"specific": ["crack", "hole", "dark spot"]})


@dataclass
class Asked:
    """A generator, and the phrases of every call to it."""

    inner: GroundingDino
    calls: list[list[tuple[str, ...]]] = field(default_factory=list)
    images: list[int] = field(default_factory=list)

    name, reads_set = "grounding-dino", False

    @property
    def id(self) -> str:
        return self.inner.id

    def parts(self, query: Query) -> tuple[Query, ...]:
        return self.inner.parts(query)

    def __call__(self, requests: Sequence[Request]) -> list[Proposals]:
        self.calls.append([request.query.phrases or (request.query.object or "",) for request in requests])
        self.images.append(len({id(request.image) for request in requests}))
        return self.inner(requests)


@dataclass
class Drawing:
    """A refiner, and how many boxes and images it was given."""

    inner: Sam
    boxes: int = 0
    embeddings: int = 0

    name, reads_set = "sam", False

    @property
    def id(self) -> str:
        return self.inner.id

    def embed(self, image: RGB) -> FloatMap:
        self.embeddings += 1
        return self.inner.embed(image)

    def __call__(self, image: RGB, boxes: Boxes, saliency: FloatMap, embedding: FloatMap | None = None) -> Refined:
        self.boxes += len(boxes)
        return self.inner(image, boxes, saliency, embedding)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GroundingDino]:
    made, before = tiny_grounding_dino(tmp_path_factory.mktemp("words")), torch.get_num_threads()
    torch.set_num_threads(1)
    yield made
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sam() -> Sam:
    return Sam(tiny_sam(), "0" * 64, "tiny", Compute())


@pytest.fixture(scope="module")
def refs(tmp_path_factory: pytest.TempPathFactory) -> list[ImageRef]:
    folder, rng = tmp_path_factory.mktemp("bottles"), np.random.default_rng(0)
    found = []
    for number in range(3):
        pixels = rng.integers(0, 256, (90 + number, 120, 3)).astype(np.uint8)
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), cv2.GaussianBlur(pixels, (0, 0), 4))
        found.append(ImageRef(hashlib.sha256(path.read_bytes()).hexdigest(), str(path), (path.name,)))
    return found


@dataclass
class Place:
    """A store over small networks that tell what they were asked."""

    store: CandidateStore
    detector: Asked
    refiner: Drawing


def place(folder: Path, detector: GroundingDino, sam: Sam, *, keep: bool = False) -> Place:
    asked, drawing = Asked(detector), Drawing(sam)
    method = SegmentAnyAnomaly(asked, drawing, FilterBank())
    return Place(CandidateStore(BlobStore(str(folder)), method, 10**7, keep), asked, drawing)


def decided(at: Place, refs: Sequence[ImageRef], bundle: PromptBundle) -> list[object]:
    context = at.store.context(refs)
    levels = at.store.levels(refs, bundle, context)
    found = [at.store.decide(ref, bundle, context, levels)[1] for ref in refs]
    return [(result.map.tobytes(), result.regions, result.score) for result in found]


@pytest.mark.parametrize("profile", ["paper", "reference", "batch"])
def test_lazy_masks_decide_as_all_masks_do(
    tmp_path: Path, detector: GroundingDino, sam: Sam, refs: list[ImageRef], profile: str
) -> None:
    bundle = BUNDLE.with_profile(profile).changed(confidence={"top_k": 2})  # type: ignore[arg-type]
    lazy, whole = place(tmp_path / "a", detector, sam), place(tmp_path / "b", detector, sam)
    context = whole.store.context(refs)
    everything = [whole.store.candidates(ref, bundle, context) for ref in refs]
    assert all(found.pending is None for found in everything)
    assert decided(lazy, refs, bundle) == decided(whole, refs, bundle)
    assert sum(len(found) for found in everything) > 3 * 2
    assert lazy.refiner.boxes < whole.refiner.boxes


def test_what_is_drawn_later_is_what_was_drawn_at_once(
    tmp_path: Path, detector: GroundingDino, sam: Sam, refs: list[ImageRef]
) -> None:
    first, other = place(tmp_path / "a", detector, sam), place(tmp_path / "b", detector, sam)
    decided(first, refs, BUNDLE)
    calls = len(first.detector.calls)
    for ref in refs:
        found = first.store.candidates(ref, BUNDLE, first.store.context(refs))
        expected = other.store.candidates(ref, BUNDLE, other.store.context(refs))
        assert found.masks == expected.masks
        np.testing.assert_array_equal(found.quality, expected.quality)
    assert len(first.detector.calls) == calls  # boxes are kept


@pytest.mark.slow
def test_new_phrases_ask_for_themselves_alone(
    tmp_path: Path, detector: GroundingDino, sam: Sam, refs: list[ImageRef]
) -> None:
    at = place(tmp_path, detector, sam, keep=True)
    decided(at, refs, BUNDLE)
    embeddings, calls = at.refiner.embeddings, len(at.detector.calls)
    assert embeddings == len(refs)
    decided(at, refs, MORE)
    assert at.detector.calls[calls:] == [[("hole",), ("dark spot",)]] * len(refs)
    assert at.refiner.embeddings == embeddings  # kept, as half-precision numbers
    fresh = place(tmp_path / "fresh", detector, sam, keep=True)
    assert decided(fresh, refs, MORE) == decided(at, refs, MORE)


def test_a_second_run_asks_nothing(tmp_path: Path, detector: GroundingDino, sam: Sam, refs: list[ImageRef]) -> None:
    made = decided(place(tmp_path, detector, sam), refs, BUNDLE)
    again = place(tmp_path, detector, sam)
    assert decided(again, refs, BUNDLE) == made
    assert (again.detector.calls, again.refiner.boxes, again.store.method.calls) == ([], 0, 0)


def test_an_added_image_asks_for_itself_alone(
    tmp_path: Path, detector: GroundingDino, sam: Sam, refs: list[ImageRef]
) -> None:
    decided(place(tmp_path, detector, sam), refs[:2], BUNDLE)
    again = place(tmp_path, detector, sam)
    decided(again, refs, BUNDLE)
    assert len(again.detector.calls) == 1


@pytest.mark.slow
def test_several_images_are_one_call(tmp_path: Path, detector: GroundingDino, sam: Sam, refs: list[ImageRef]) -> None:
    at, alone = place(tmp_path / "a", detector, sam), place(tmp_path / "b", detector, sam)
    gone = ImageRef("0" * 64, str(tmp_path / "gone.png"), ("gone.png",))
    at.store.propose([*refs, gone], BUNDLE)
    assert at.detector.images == [len(refs)]
    assert decided(at, refs, BUNDLE) == decided(alone, refs, BUNDLE)
    assert len(at.detector.calls) == 1


def test_objects_get_masks_only_where_a_decision_looks_at_them(
    tmp_path: Path, detector: GroundingDino, sam: Sam, refs: list[ImageRef]
) -> None:
    at = place(tmp_path, detector, sam)
    context = at.store.context(refs)
    paper = at.store.candidates(refs[0], BUNDLE, context)
    reference = at.store.candidates(refs[0], BUNDLE.with_profile("reference"), context)
    assert len(paper.object_boxes)
    assert len(paper.objects)
    assert reference.objects == ()
    assert len(reference.object_boxes) == len(paper.object_boxes)


def test_looking_ahead_changes_nothing(tmp_path: Path, detector: GroundingDino, sam: Sam, refs: list[ImageRef]) -> None:
    ahead, plain = place(tmp_path / "a", detector, sam), place(tmp_path / "b", detector, sam)
    with ahead.store.looking_ahead(refs):
        found = decided(ahead, refs, BUNDLE)
    assert found == decided(plain, refs, BUNDLE)
