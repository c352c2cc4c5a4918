"""Evidence from stored candidates: what `gather` gives, made once, and without the images that cannot be used."""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem

from integrations.archive import pack_array
from integrations.blobs import BlobStore
from integrations.candidate_store import CandidateStore
from integrations.evidence_store import EvidenceStore, neighbour_choices
from saa_core.errors import StoreError
from saa_core.masks import encode
from saa_core.models import build
from saa_core.prompts import PromptBundle
from saa_core.refinement.evidence import Truth, gather, rows_of
from saa_core.refinement.judge import EvidenceSet
from saa_core.types import ImageRef
from tests.plates import BUNDLE, Labelled, Plates, perfect, photograph, said, silent, truth

pytestmark = pytest.mark.usefixtures("one_thread")

NEW = BUNDLE.changed(language={"specific": ["dark scratch", "bright spot", "stain"]})


class Counted(BlobStore):
    """Knows what was read."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.read: Counter[str] = Counter()

    def get(self, kind: str, key: str) -> bytes | None:
        self.read[kind] += 1
        return super().get(kind, key)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ImageRef]]:
    """Six labelled plates; four of them are reviewed, two of these scratched."""
    folder = tmp_path_factory.mktemp("small")
    refs = photograph(folder / "photographs", 6)
    held = Plates.at(folder / "w")
    held.label(refs)
    held.catalog.close()
    return folder / "w", refs


@pytest.fixture
def desk(small: tuple[Path, list[ImageRef]], tmp_path: Path) -> Any:
    held = Plates.again(Labelled(*small), tmp_path / "w")
    refs = held.copied(small[1], tmp_path / "photographs", "run2")
    held.catalog.add_reviews(perfect(refs[:4]))
    yield held, refs
    held.catalog.close()


Desk = tuple[Plates, list[ImageRef]]


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if is_dataclass(a) and is_dataclass(b):
        return all(same(getattr(a, each.name), getattr(b, each.name)) for each in fields(a))
    return a == b


def store_of(held: Plates) -> tuple[EvidenceStore, Counted]:
    blobs = Counted(held.settings.blobs_url)
    return EvidenceStore(CandidateStore(blobs, build(), held.settings.max_pixels), silent), blobs


def names(sets: tuple[EvidenceSet, ...]) -> list[str]:
    return sorted(image.name for each in sets for image in each.images)


@pytest.mark.parametrize("profile", ["batch", "paper"])
def test_evidence_is_what_gather_gives_and_is_made_once(desk: Desk, profile: Any) -> None:
    held, refs = desk
    bundle, product = BUNDLE.with_profile(profile), held.reviewed()
    store, blobs = store_of(held)
    (found,) = store.sets(product, bundle)
    context = held.store.context(refs)
    calm = held.store.calm(refs, bundle, context)
    assert found.neighbours == neighbour_choices(bundle)
    prompts = [bundle.saliency.model_copy(update={"neighbours": number}) for number in found.neighbours]
    by_key = {ref.key: ref for ref in refs}
    for image in found.images:
        ref = by_key[image.image]
        candidates = held.store.candidates(ref, bundle, context)
        contexts = [held.store.saliency(ref, candidates, prompt, context) for prompt in prompts]
        masks = truth(ref)
        said = Truth(tuple(masks), tuple("scratch" for _ in masks))
        made = gather(candidates, contexts, bundle, calm, said, name=ref.names[0], lot="lot 0", aided=True)
        assert same(image, made)
    others = [ref for ref in sorted(refs, key=lambda ref: ref.key) if ref in refs[4:]]
    for ref, rows in zip(others, found.others, strict=True):
        candidates = held.store.candidates(ref, bundle, context)
        contexts = [held.store.saliency(ref, candidates, prompt, context) for prompt in prompts]
        assert same(rows, rows_of(candidates, contexts, bundle))
    again, read = store_of(held)
    assert same(again.sets(product, bundle), (found,))
    assert read.read["candidates"] == 1  # one, for the words that the models do not know
    assert (blobs.read["candidates"] > 6, read.read["evidence"], read.read["rows"]) == (True, 4, 2)
    assert again.store.method.calls == store.store.method.calls == 0


def test_another_review_makes_other_evidence(desk: Desk) -> None:
    held, refs = desk
    store, blobs = store_of(held)
    store.sets(held.reviewed(), BUNDLE)
    held.catalog.add_reviews([said(refs[0], who="bert", at=held.catalog.reviews("plate")[-1].updated)])
    blobs.read.clear()
    (found,) = store.sets(held.reviewed(), BUNDLE)
    assert next(image for image in found.images if image.name == "000.png").good
    assert len(held.blobs("evidence")) == 5


def test_only_some_images(desk: Desk) -> None:
    held, refs = desk
    store, blobs = store_of(held)
    (found,) = store.sets(held.reviewed(), BUNDLE, [refs[1].key, refs[5].key])
    assert (names((found,)), found.others) == (["001.png"], ())
    assert blobs.read["candidates"] <= 3


def test_sets_stand_in_an_order_of_their_own(small: tuple[Path, list[ImageRef]], tmp_path: Path) -> None:
    refs, found = small[1], []
    for number, runs in enumerate([("a", "b"), ("b", "a")]):
        held = Plates.at(tmp_path / str(number))
        for run, part in zip(runs, (refs[:3], refs[3:]), strict=True):
            held.label(part, run)
        held.catalog.add_reviews(perfect(refs))
        found.append([names((each,)) for each in store_of(held)[0].sets(held.reviewed(), BUNDLE)])
        held.catalog.close()
    assert found[0] == found[1]
    assert sorted(map(len, found[0])) == [3, 3]


def test_masks_of_another_size_are_named_and_the_rest_goes_on(desk: Desk) -> None:
    held, refs = desk
    held.catalog.add_reviews([said(refs[4], [encode(np.ones((10, 20), np.bool_))])])
    store, _ = store_of(held)
    product = held.reviewed()
    assert names(store.sets(product, BUNDLE)) == [f"00{number}.png" for number in range(4)]
    reason = "a reviewed mask has 10 x 20 pixels, the image has 64 x 64"
    assert store.unusable == {refs[4].key: reason}
    summary = product.summary(store.unusable)
    assert (summary.defective, summary.good, summary.unusable) == (2, 2, (("004.png", reason),))


def test_words_that_the_models_do_not_know(desk: Desk) -> None:
    held, _ = desk
    store, _ = store_of(held)
    store.sets(held.reviewed(), BUNDLE)
    assert store.unknown == {}
    odd = BUNDLE.changed(language={"specific": ["dark scratch", "Glorpy dent"]})
    store.sets(held.reviewed(), odd)
    assert store.unknown == {"Glorpy dent": ("glorpy",)}


# ------------------------------------------------------------------------------------------------------ what is missing


def test_photographs_that_are_gone_are_not_missed(desk: Desk) -> None:
    held, refs = desk
    for ref in refs:
        Path(ref.uri).unlink()
    store, _ = store_of(held)
    assert len(names(store.sets(held.reviewed(), BUNDLE))) == 4
    assert store.unusable == {}


def test_without_its_photograph_an_image_cannot_be_asked_for_new_phrases(desk: Desk, tmp_path: Path) -> None:
    held, refs = desk
    for ref in (refs[0], refs[5]):  # one that was reviewed and one that was not
        Path(ref.uri).unlink()
    store, _ = store_of(held)
    (found,) = store.sets(held.reviewed(), NEW)
    assert (names((found,)), len(found.others)) == (["001.png", "002.png", "003.png"], 1)
    assert set(store.unusable) == {refs[0].key}
    assert "vanished" in store.unusable[refs[0].key]
    # The levels of what is left are not kept as those of the whole set.
    photograph(tmp_path / "photographs", 6)
    whole, _ = store_of(held)
    whole.sets(held.reviewed(), NEW)
    other = Plates.at(tmp_path / "fresh")
    other.label(refs, bundle=NEW)
    context = held.store.context(refs)
    kept = held.store.calm(refs, NEW, context)
    assert np.array_equal(kept, other.store.calm(refs, NEW, other.store.context(refs)))
    other.catalog.close()


def test_damaged_evidence_is_made_again(desk: Desk) -> None:
    held, _ = desk
    before = store_of(held)[0].sets(held.reviewed(), BUNDLE)
    for path in (*held.blobs("evidence"), *held.blobs("rows")):
        path.write_bytes(path.read_bytes()[:-1])
    store, _ = store_of(held)
    assert same(store.sets(held.reviewed(), BUNDLE), before)
    assert store.store.method.calls == 0


def test_damaged_candidates_are_asked_for_again_where_the_photograph_is_there(desk: Desk) -> None:
    held, refs = desk
    before = store_of(held)[0].sets(held.reviewed(), BUNDLE)
    for path in (*held.blobs("candidates"), *held.blobs("evidence")):
        path.write_bytes(b"damage")
    Path(refs[2].uri).unlink()
    store, _ = store_of(held)
    (found,) = store.sets(held.reviewed(), BUNDLE)
    assert names((found,)) == ["000.png", "001.png", "003.png"]
    assert set(store.unusable) == {refs[2].key}
    kept = [image for image in before[0].images if image.name != "002.png"]
    assert same(found.images, tuple(kept))
    assert store.store.method.calls > 0


def test_whole_evidence_of_another_layout_names_the_image(desk: Desk) -> None:
    held, _ = desk
    store_of(held)[0].sets(held.reviewed(), BUNDLE)
    blobs = BlobStore(held.settings.blobs_url)
    for path in held.blobs("evidence"):
        path.unlink()
        blobs.put("evidence", path.name, pack_array(np.zeros(3)))
    with pytest.raises(StoreError, match=r"00\d\.png: holds array of version 1, expected evidence"):
        store_of(held)[0].sets(held.reviewed(), BUNDLE)


class Full(LocalFileSystem):  # type: ignore[misc]
    """A disk that has no room for evidence."""

    cachable = False

    def pipe_file(self, path: str, value: bytes, **more: Any) -> None:
        if "/evidence/" in path:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().pipe_file(path, value, **more)


def test_a_full_disk_leaves_nothing_half_written(desk: Desk) -> None:
    held, _ = desk
    blobs = BlobStore(str(held.settings.workspace / "blobs"), Full())
    store = EvidenceStore(CandidateStore(blobs, build(), held.settings.max_pixels), silent)
    with pytest.raises(StoreError, match="the disk is full"):
        store.sets(held.reviewed(), BUNDLE)
    assert held.blobs("evidence") == []
    assert len(names(store_of(held)[0].sets(held.reviewed(), BUNDLE))) == 4


def test_progress_is_told(desk: Desk) -> None:
    held, _ = desk
    steps: list[tuple[str, int, int]] = []
    EvidenceStore(held.store, lambda *step: steps.append(step)).sets(held.reviewed(), BUNDLE)
    assert steps == [("gathering evidence", 6, 6)]


def test_neighbours_that_may_be_chosen() -> None:
    assert neighbour_choices(PromptBundle(product="plate")) == (PromptBundle(product="plate").saliency.neighbours,)
    paper = PromptBundle(product="plate").with_profile("paper")
    own = paper.saliency.neighbours
    assert neighbour_choices(paper) == (own // 4, own, 4 * own)
    assert neighbour_choices(paper.changed(saliency={"neighbours": 1})) == (1, 4)
