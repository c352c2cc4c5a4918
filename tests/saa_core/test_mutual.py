"""Mutual scores against loops over cells, images and references."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saa_core import mutual
from saa_core.mutual import nearest_images, nearest_own

Floats = NDArray[np.float32]


def vectors(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def mutual_by_loop(cells: Floats, references: Floats, own: int | None, share: float) -> list[tuple[float, set[int]]]:
    images, size, _ = references.shape
    scores = []
    for cell in cells.tolist():
        per_image = []
        for image in range(images):
            if image == own:
                continue
            distances = [math.dist(cell, references[image, r].tolist()) for r in range(size)]
            nearest = min(range(size), key=distances.__getitem__)
            per_image.append((distances[nearest], image * size + nearest))
        lowest = sorted(per_image)[: max(2, round(share * len(per_image)))]
        scores.append((sum(d for d, _ in lowest) / len(lowest), {i for _, i in lowest}))
    return scores


def own_by_loop(cells: Floats, references: Floats, share: float) -> list[float]:
    scores = []
    for cell in cells.tolist():
        distances = sorted(math.dist(cell, reference) for reference in references.tolist())
        count = max(1, round(share * len(references)))
        chosen = distances[1 : 1 + count] or distances
        scores.append(sum(chosen) / len(chosen))
    return scores


@given(st.integers(3, 7), st.integers(1, 5), st.integers(1, 4), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.booleans())
def test_mutual_score_is_the_loop(images: int, size: int, dimensions: int, share: float, inside: bool) -> None:
    references, cells = vectors(images, size, dimensions), vectors(6, dimensions, seed=1)
    own = images - 2 if inside else None
    found = nearest_images(cells, references, own, share)
    expected = mutual_by_loop(cells, references, own, share)
    np.testing.assert_allclose(found.distance, [score for score, _ in expected], rtol=1e-4, atol=1e-5)
    assert [set(row) for row in found.references.tolist()] == [which for _, which in expected]


@given(st.integers(1, 40), st.integers(1, 4), st.sampled_from([0.0, 0.05, 0.3, 1.0]))
def test_own_score_is_the_loop(size: int, dimensions: int, share: float) -> None:
    references, cells = vectors(size, dimensions), vectors(6, dimensions, seed=1)
    found = nearest_own(cells, references, share)
    np.testing.assert_allclose(found.distance, own_by_loop(cells, references, share), rtol=1e-4, atol=1e-5)


def test_the_own_image_does_not_count() -> None:
    references = vectors(4, 5, 3)
    inside = nearest_images(references[1], references, own=1)
    assert inside.distance.min() > 0.01
    assert not ((inside.references >= 5) & (inside.references < 10)).any()
    # The same cells as an image from outside find themselves as one of their two images.
    outside = nearest_images(references[1], references)
    assert (outside.distance < inside.distance).all()


@pytest.mark.parametrize(("images", "own"), [(1, None), (2, 0), (2, 1)])
def test_one_other_image_is_no_set(images: int, own: int | None) -> None:
    with pytest.raises(ValueError, match="at least two others"):
        nearest_images(vectors(3, 2), vectors(images, 4, 2), own)


def test_blocks_do_not_show() -> None:
    references = vectors(50, 400, 4)
    assert 2 * mutual._BLOCK < 50 * 400 * 200
    cells = vectors(200, 4, seed=1)
    whole = nearest_images(cells, references)
    parts = [nearest_images(cells[i : i + 7], references) for i in range(0, 200, 7)]
    np.testing.assert_allclose(whole.distance, np.concatenate([part.distance for part in parts]), atol=1e-5)
    np.testing.assert_array_equal(
        np.sort(whole.references), np.sort(np.concatenate([part.references for part in parts]))
    )
