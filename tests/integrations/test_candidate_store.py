"""What was computed once is not computed again, and what was kept gives the same bits as what was made."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from integrations.blobs import BlobStore
from integrations.candidate_store import CandidateStore
from saa_core.errors import ImageError
from saa_core.models import build
from saa_core.prompts import PromptBundle
from saa_core.types import ImageRef

BUNDLE = PromptBundle.from_content({"product": "plate", "language": {"specific": ["dark scratch"]}})


@pytest.fixture(scope="module")
def refs(tmp_path_factory: pytest.TempPathFactory) -> list[ImageRef]:
    folder, rng = tmp_path_factory.mktemp("plates"), np.random.default_rng(3)
    return [save(folder / f"{number}.png", rng.normal(150, 5, (64, 80, 3))) for number in range(4)]


def save(path: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> ImageRef:
    pixels[20:22, 10:60] -= 60
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    return ImageRef(hashlib.sha256(buffer.getvalue()).hexdigest(), str(path), (path.name,))


def store(folder: Path) -> CandidateStore:
    return CandidateStore(BlobStore(str(folder)), build(), 10**8)


def decide_all(held: CandidateStore, refs: Sequence[ImageRef], bundle: PromptBundle) -> list[bytes]:
    context = held.context(refs)
    levels = held.levels(refs, bundle, context)
    results = [held.decide(ref, bundle, context, levels)[1] for ref in refs]
    return [result.map.tobytes() + str(result.regions).encode() for result in results]


@pytest.mark.parametrize("profile", ["batch", "paper", "reference"])
def test_kept_and_made_are_equal_to_the_bit(refs: list[ImageRef], tmp_path: Path, profile: str) -> None:
    bundle = BUNDLE.with_profile(profile)  # type: ignore[arg-type]
    first, second = store(tmp_path), store(tmp_path)
    made = decide_all(first, refs, bundle)
    assert first.method.calls == len(refs) * 3
    assert decide_all(second, refs, bundle) == made
    assert second.method.calls == 0


def test_the_order_of_the_set_does_not_matter(refs: list[ImageRef], tmp_path: Path) -> None:
    forward = decide_all(store(tmp_path / "a"), refs, BUNDLE)
    assert decide_all(store(tmp_path / "b"), refs[::-1], BUNDLE)[::-1] == forward


def test_numbers_need_no_model(refs: list[ImageRef], tmp_path: Path) -> None:
    decide_all(store(tmp_path), refs, BUNDLE)
    held = store(tmp_path)
    paper = BUNDLE.with_profile("paper")
    for neighbours in (1, 30, 10**6):
        decide_all(held, refs, paper.changed(saliency={"neighbours": neighbours}))
    decide_all(held, refs, paper.changed(saliency={"source": "object"}))
    assert held.method.calls == 0


def test_a_changed_file_is_refused(refs: list[ImageRef], tmp_path: Path) -> None:
    path = tmp_path / "moving.png"
    ref = save(path, np.full((64, 64, 3), 100.0))
    save(path, np.full((64, 64, 3), 101.0))
    with pytest.raises(ImageError, match=r"moving\.png"):
        store(tmp_path / "blobs").features(ref)


def test_a_damaged_blob_is_made_again(refs: list[ImageRef], tmp_path: Path) -> None:
    made = decide_all(store(tmp_path), refs, BUNDLE)
    for path in (tmp_path / "prior").rglob("*"):
        if path.is_file():
            path.write_bytes(b"damage")
    assert decide_all(store(tmp_path), refs, BUNDLE) == made
