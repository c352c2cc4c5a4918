"""Run-lengths against pixels and against pycocotools."""

import doctest
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pycocotools import mask as coco

from saa_core import masks
from saa_core.errors import MaskError, SaaError
from saa_core.masks import Rle

Bools = NDArray[np.bool_]


@st.composite
def bool_masks(draw: st.DrawFn, count: int = 1) -> list[Bools]:
    """Masks of one size, from noise to nearly empty and nearly full, single rows and columns included."""
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    found = []
    for _ in range(count):
        fill = draw(st.booleans())
        # `fill` makes long runs likely: hypothesis changes few elements away from it.
        found.append(draw(hnp.arrays(np.bool_, shape, fill=st.just(fill))))
    return found


def theirs(mask: Bools) -> dict[str, Any]:
    return dict(coco.encode(np.asfortranarray(mask.astype(np.uint8))))


def runs_by_loop(mask: Bools) -> list[int]:
    """The definition, one pixel at a time."""
    runs, value = [0], False
    for column in range(mask.shape[1]):
        for row in range(mask.shape[0]):
            if mask[row, column] != value:
                runs.append(0)
                value = not value
            runs[-1] += 1
    return runs


def ellipses(seed: int, count: int, height: int = 97, width: int = 131) -> list[Bools]:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    y, x, a, b = rng.uniform((0, 0, 2, 2), (height, width, 40, 40), (count, 4)).T[:, :, None, None]
    return list(((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1)


# ------------------------------------------------------------------------------------------------------------ pixels


@given(bool_masks())
def test_encode_follows_the_definition_and_decode_inverts_it(drawn: list[Bools]) -> None:
    (mask,) = drawn
    rle = masks.encode(mask)
    assert rle.counts.tolist() == runs_by_loop(mask)
    assert rle.counts.dtype == np.uint32
    decoded = masks.decode(rle)
    assert decoded.dtype == np.bool_
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, mask)


# pycocotools' own array does not know numpy 2's copy argument.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@given(bool_masks())
def test_pycocotools_agrees_on_one_mask(drawn: list[Bools]) -> None:
    (mask,) = drawn
    rle, other = masks.encode(mask), theirs(mask)
    assert masks.to_string(rle).encode() == other["counts"]
    assert masks.from_coco(other) == rle
    assert rle.area == coco.area(other)
    np.testing.assert_array_equal(coco.decode(other).astype(bool), masks.decode(rle))
    x0, y0, x1, y1 = rle.box
    assert [x0, y0, x1 - x0, y1 - y0] == coco.toBbox(other).tolist()


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_order_of_the_mask_does_not_matter(order: Any) -> None:
    mask = ellipses(0, 1)[0]
    assert masks.encode(np.asarray(mask, order=order)[::-1, ::2]) == masks.encode(mask[::-1, ::2].copy())


@given(bool_masks(), st.tuples(*[st.integers(0, 4)] * 4))
def test_a_crop_encodes_as_the_whole(drawn: list[Bools], margins: tuple[int, int, int, int]) -> None:
    (crop,) = drawn
    top, bottom, left, right = margins
    whole = np.pad(crop, ((top, bottom), (left, right)))
    assert masks.encode_crop(crop, top, left, *whole.shape) == masks.encode(whole)


@given(bool_masks())
def test_decode_crop_gives_the_box(drawn: list[Bools]) -> None:
    (mask,) = drawn
    rle = masks.encode(mask)
    crop, top, left = masks.decode_crop(rle)
    x0, y0, x1, y1 = rle.box
    assert (left, top, left + crop.shape[1], top + crop.shape[0]) == (x0, y0, x1, y1)
    np.testing.assert_array_equal(crop, mask[y0:y1, x0:x1])
    if mask.any():
        assert masks.encode_crop(crop, top, left, *mask.shape) == rle


@given(bool_masks(), st.integers(1, 20), st.integers(1, 20))
def test_resize_takes_the_nearest_centre(drawn: list[Bools], height: int, width: int) -> None:
    (mask,) = drawn
    resized = masks.decode(masks.resize(masks.encode(mask), height, width))
    for row in range(height):
        for column in range(width):
            y = int((row + 0.5) * mask.shape[0] / height + 1e-9)
            x = int((column + 0.5) * mask.shape[1] / width + 1e-9)
            assert resized[row, column] == mask[y, x]


@pytest.mark.parametrize(
    ("mask", "counts", "area", "box"),
    [
        (np.zeros((3, 2), bool), [6], 0, (0, 0, 0, 0)),
        (np.ones((3, 2), bool), [0, 6], 6, (0, 0, 2, 3)),
        (np.array([[True]]), [0, 1], 1, (0, 0, 1, 1)),
        (np.array([[False, True, True]]), [1, 2], 2, (1, 0, 3, 1)),
        (np.array([[False], [True], [False]]), [1, 1, 1], 1, (0, 1, 1, 2)),
        # The last pixel of a column and the first of the next are one run, and the box is two columns wide.
        (np.array([[False, True], [True, False]]), [1, 2, 1], 2, (0, 0, 2, 2)),
    ],
)
def test_small_masks_by_hand(mask: Bools, counts: list[int], area: int, box: tuple[int, ...]) -> None:
    rle = masks.encode(mask)
    assert rle.counts.tolist() == counts
    assert (rle.area, rle.box, rle.size) == (area, box, mask.shape)
    np.testing.assert_array_equal(masks.decode(rle), mask)


# ----------------------------------------------------------------------------------------------------------- written


@given(bool_masks(), st.booleans())
def test_coco_round_trip(drawn: list[Bools], compressed: bool) -> None:
    rle = masks.encode(drawn[0])
    written = masks.to_coco(rle, compressed=compressed)
    assert isinstance(written["counts"], str if compressed else list)
    assert masks.from_coco(written) == rle


@given(st.lists(st.integers(1, 2**26), min_size=1, max_size=30), st.booleans())
def test_long_runs_of_every_size_are_written_as_coco_writes_them(lengths: list[int], full: bool) -> None:
    counts = ([0] if full else []) + lengths
    rle = Rle(sum(lengths), 1, np.array(counts))
    other = coco.frPyObjects({"size": [rle.height, 1], "counts": counts}, rle.height, 1)
    assert masks.to_string(rle).encode() == other["counts"]
    assert masks.from_string(other["counts"], rle.height, 1) == rle


def test_real_shapes_agree_with_pycocotools() -> None:
    for mask in ellipses(1, 20):
        assert masks.to_string(masks.encode(mask)).encode() == theirs(mask)["counts"]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_empty_runs_of_other_writers_leave_no_trace(counts: list[int]) -> None:
    total = sum(counts)
    if not total:
        counts, total = [*counts, 1], 1
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    rle = Rle(total, 1, np.array(counts))
    assert rle == masks.encode(pixels[:, None])
    assert rle.counts[1:].all()


def test_equal_masks_are_equal_objects() -> None:
    one, same = Rle(2, 3, np.array([2, 4])), masks.from_coco({"size": [2, 3], "counts": [2, 1, 0, 3]})
    assert one == same
    assert len({one, same, pickle.loads(pickle.dumps(one))}) == 1
    assert one != Rle(3, 2, np.array([2, 4]))
    assert one != Rle(2, 3, np.array([1, 5]))
    assert one != "a mask"
    with pytest.raises(ValueError, match="read-only"):
        one.counts[0] = 1


def test_the_callers_array_is_not_frozen_with_the_mask() -> None:
    counts = np.array([2, 4], np.uint32)
    rle = Rle(2, 3, counts)
    counts[:] = 3
    assert rle.counts.tolist() == [2, 4]


# -------------------------------------------------------------------------------------------------------------- sets


@given(bool_masks(count=5))
def test_set_operations_on_pixels(drawn: list[Bools]) -> None:
    a, b = drawn[:2], drawn[2:]
    left, right = [masks.encode(mask) for mask in a], [masks.encode(mask) for mask in b]
    shared = np.array([[(x & y).sum() for y in b] for x in a])
    together = np.array([[(x | y).sum() for y in b] for x in a])
    inside = np.array([[x.sum()] * len(b) for x in a])
    np.testing.assert_array_equal(masks.intersections(left, right), shared)
    np.testing.assert_array_equal(masks.iou(left, right), shared / np.maximum(together, 1))
    np.testing.assert_array_equal(masks.containment(left, right), shared / np.maximum(inside, 1))
    np.testing.assert_array_equal(masks.decode(masks.union(right)), np.any(b, axis=0))


def test_iou_and_containment_agree_with_pycocotools() -> None:
    drawn = [*ellipses(2, 30), np.zeros((97, 131), bool), np.ones((97, 131), bool)]
    ours, other = [masks.encode(mask) for mask in drawn], [theirs(mask) for mask in drawn]
    np.testing.assert_allclose(masks.iou(ours, ours), coco.iou(other, other, [0] * 32), rtol=0, atol=1e-15)
    np.testing.assert_allclose(masks.containment(ours, ours), coco.iou(other, other, [1] * 32), rtol=0, atol=1e-15)
    merged = coco.merge(other[:5])
    assert masks.from_coco(merged) == masks.union(ours[:5])


def test_set_operations_on_no_masks() -> None:
    one, empty = masks.encode(np.ones((2, 2), bool)), masks.encode(np.zeros((2, 2), bool))
    assert masks.iou([], [one]).shape == (0, 1)
    assert masks.iou([one], []).shape == (1, 0)
    assert masks.iou([empty], [empty]).tolist() == [[0.0]]
    assert masks.containment([empty], [one]).tolist() == [[0.0]]
    assert masks.union([empty, empty]) == empty


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: masks.encode(np.zeros((0, 4), bool)), "at least one pixel, not 0 x 4"),
        (lambda: masks.encode(np.zeros((4, 4), np.uint8)), r"bool array \(H, W\), not uint8 \(4, 4\)"),
        (lambda: masks.encode(np.zeros(4, bool)), r"not bool \(4,\)"),
        (lambda: masks.encode_crop(np.ones((2, 2), bool), 3, 0, 4, 4), "2 x 2 pixels at row 3, column 0 .* 4 x 4"),
        (lambda: masks.encode_crop(np.ones((2, 2), bool), 0, -1, 4, 4), "column -1"),
        (lambda: masks.resize(masks.encode(np.ones((2, 2), bool)), 0, 3), "not 0 x 3"),
        (lambda: Rle(0, 3, np.array([0])), "not 0 x 3"),
        (lambda: Rle(2, 2, np.array([1, 2])), "the runs hold 3 pixels, 2 x 2 has 4"),
        (lambda: Rle(2, 2, np.array([], int)), "the runs hold 0 pixels"),
        (lambda: Rle(2, 2, np.array([4, -1])), "run 1 of 2 x 2 pixels cannot be -1 long"),
        (lambda: Rle(2, 2, np.array([1.5, 2.5])), "whole numbers, not float64"),
        (lambda: Rle(2, 2, np.array([[2], [2]])), r"flat list of whole numbers, not int64 \(2, 1\)"),
        (lambda: masks.from_string("", 2, 2), "end in the middle"),
        (lambda: masks.from_string("P", 2, 2), "end in the middle"),
        (lambda: masks.from_string("4 ", 2, 2), "the byte b' ' at 1"),
        (lambda: masks.from_string("4é", 2, 2), r"the byte b'\\xc3' at 1"),
        (lambda: masks.from_string("P" * 7 + "0", 2, 2), "a number of 8 groups, at most 7 fit"),
        (lambda: masks.from_string("5", 2, 2), "run 0 of 2 x 2 pixels cannot be 5 long"),
        (lambda: Rle(2, 2, np.array([2**63, 2**63, 4], np.uint64)), "cannot be 9223372036854775808 long"),
        (lambda: Rle(2**16, 2**16, np.array([2**32])), "more pixels than a 32-bit run can hold"),
        (lambda: masks.from_string("4O", 2, 2), "run 1 .* cannot be -1 long"),
        (lambda: masks.from_coco({"size": [2, 2]}), "has no 'counts'"),
        (lambda: masks.from_coco({}), "has no 'size' and no 'counts'"),
        (lambda: masks.from_coco({"size": [2], "counts": [4]}), r"size must be \[height, width\].*not \[2\]"),
        (lambda: masks.from_coco({"size": [2, 2.5], "counts": [5]}), r"not \[2, 2\.5\]"),
        (lambda: masks.from_coco({"size": [2, 2], "counts": None}), "flat list"),
        (lambda: masks.union([]), "the union of no masks"),
        (lambda: masks.union([Rle(1, 2, np.array([2])), Rle(2, 2, np.array([4]))]), "sizes: 1 x 2 and 2 x 2"),
        (lambda: masks.iou([Rle(1, 2, np.array([2]))], [Rle(2, 1, np.array([2]))]), "sizes: 1 x 2 and 2 x 1"),
    ],
)
def test_what_is_refused_and_why(call: Any, message: str) -> None:
    with pytest.raises(MaskError, match=message) as caught:
        call()
    assert isinstance(caught.value, SaaError)
    assert isinstance(caught.value, ValueError)


@given(st.binary(max_size=12))
def test_any_bytes_are_a_mask_or_a_mask_error(raw: bytes) -> None:
    try:
        rle = masks.from_string(raw, 3, 4)
    except MaskError:
        return
    assert int(rle.counts.sum()) == 12


def test_the_examples_in_the_docstrings() -> None:
    results = doctest.testmod(masks)
    assert results.attempted
    assert not results.failed
