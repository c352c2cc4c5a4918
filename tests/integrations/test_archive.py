import dataclasses
import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from integrations.archive import (
    pack_array,
    pack_candidates,
    pack_evidence,
    pack_rows,
    unpack_array,
    unpack_candidates,
    unpack_evidence,
    unpack_rows,
)
from saa_core.errors import StoreError
from saa_core.masks import encode
from saa_core.refinement.evidence import Atoms, Dense, ImageEvidence, Rows
from saa_core.types import Candidates

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def some_candidates(draw: st.DrawFn) -> Candidates:
    n, p, m = draw(st.integers(0, 4)), draw(st.integers(0, 3)), draw(st.integers(0, 2))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    mask = npst.arrays(np.bool_, (height, width)).map(encode)
    floats = st.floats(-1e6, 1e6, width=32)
    evidence = npst.arrays(np.float16, (p, 3, 2), elements=st.floats(0, 1, width=16))
    return Candidates(
        image=draw(TEXT),
        height=height,
        width=width,
        phrases=tuple(draw(st.lists(TEXT, min_size=p, max_size=p))),
        boxes=draw(npst.arrays(np.float32, (n, 4), elements=floats)),
        scores=draw(npst.arrays(np.float32, (n, p), elements=floats)),
        masks=tuple(draw(st.lists(mask, min_size=n, max_size=n))),
        quality=draw(npst.arrays(np.float32, (n,), elements=floats)),
        objects=tuple(draw(st.lists(mask, min_size=m, max_size=m))),
        object_boxes=draw(npst.arrays(np.float32, (m, 4), elements=floats)),
        evidence=draw(st.none() | evidence),
        unknown_words=tuple(draw(st.lists(TEXT, max_size=2))),
    )


def the_same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return a == b


@given(some_candidates())
def test_candidates_come_back(candidates: Candidates) -> None:
    back = unpack_candidates(pack_candidates(candidates), "x")
    for field in Candidates.__dataclass_fields__:
        assert the_same(getattr(back, field), getattr(candidates, field)), field


def some(dtype: Any, *shape: int) -> st.SearchStrategy[Any]:
    if dtype is np.bool_ or dtype is np.intp:
        return npst.arrays(dtype, shape)
    width: Any = 8 * np.dtype(dtype).itemsize
    return npst.arrays(dtype, shape, elements=st.floats(-1e6, 1e6, width=width))


@st.composite
def some_rows(draw: st.DrawFn, n: int, p: int, v: int) -> Rows:
    scores, areas, inside = draw(some(np.float32, n, p)), draw(some(np.float64, n)), draw(some(np.float64, n))
    return Rows(scores, areas, draw(st.floats(0, 1e6)), inside, draw(some(np.float64, v, n)))


@st.composite
def some_dense(draw: st.DrawFn, p: int) -> Dense:
    m, t, levels = draw(st.integers(0, 3)), draw(st.integers(0, 2)), draw(st.integers(1, 3))
    return Dense(
        excess=draw(some(np.float32, p, m)),
        saliency=draw(some(np.float32, m)),
        defective=draw(some(np.intp, t)),
        truth=draw(some(np.float64, t)),
        pixel=draw(st.floats(0, 1)),
        levels=draw(some(np.float64, levels)),
        quiet=draw(some(np.float64, levels, 2)),
    )


@st.composite
def some_evidence(draw: st.DrawFn) -> ImageEvidence:
    n, p, v, t, a = (draw(st.integers(0, 3)) for _ in range(5))
    return ImageEvidence(
        image=draw(TEXT),
        name=draw(TEXT),
        lot=draw(TEXT),
        rows=draw(some_rows(n, p, v)),
        overlap=draw(some(np.float64, n, n)),
        iou=draw(some(np.float64, n, t)),
        atoms=Atoms(draw(some(np.bool_, a, n)), draw(some(np.float64, a)), draw(some(np.float64, a))),
        dense=tuple(draw(some_dense(p)) for _ in range(v)),
        says=draw(some(np.bool_, p)),
        truth=draw(st.floats(0, 1)),
        labels=tuple(draw(st.lists(TEXT, min_size=t, max_size=t))),
        aided=draw(st.booleans()),
    )


def all_the_same(a: object, b: object) -> bool:
    """As `the_same`, for values made of parts."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(all_the_same, a, b))
    if dataclasses.is_dataclass(a) and type(a) is type(b):
        return all(all_the_same(getattr(a, each.name), getattr(b, each.name)) for each in dataclasses.fields(a))
    return the_same(a, b)


@settings(max_examples=30)
@given(some_evidence())
def test_evidence_comes_back(evidence: ImageEvidence) -> None:
    assert all_the_same(unpack_evidence(pack_evidence(evidence), "x"), evidence)
    assert all_the_same(unpack_rows(pack_rows(evidence.rows), "x"), evidence.rows)


EVIDENCE = ImageEvidence(
    "i", "n", "l", Rows(np.zeros((1, 1), np.float32), np.ones(1), 4.0, np.ones(1), np.ones((1, 1))), np.ones((1, 1)),
    np.zeros((1, 0)), Atoms(np.ones((1, 1), np.bool_), np.ones(1), np.zeros(1)), (), np.ones(1, np.bool_), 0.0, (), True
)  # fmt: skip


@given(st.data())
def test_damaged_evidence_is_found(data: st.DataObject) -> None:
    unpack: Any
    packed, unpack = data.draw(
        st.sampled_from([(pack_evidence(EVIDENCE), unpack_evidence), (pack_rows(EVIDENCE.rows), unpack_rows)])
    )
    with pytest.raises(StoreError, match="thing: damaged"):
        unpack(packed[: data.draw(st.integers(0, len(packed) - 1))], "thing")


@pytest.mark.parametrize("kind", ["evidence", "rows"])
def test_evidence_of_which_a_part_is_missing(kind: str) -> None:
    buffer = io.BytesIO()
    header = json.dumps({"kind": kind, "version": 1, "pixels": [], "object_pixels": 1.0}).encode()
    np.savez(buffer, header=np.frombuffer(header, np.uint8))
    unpack: Any = unpack_evidence if kind == "evidence" else unpack_rows
    with pytest.raises(StoreError, match=f"thing: damaged {kind}"):
        unpack(buffer.getvalue(), "thing")


@given(npst.arrays(st.sampled_from([np.float16, np.float32, np.uint8, np.bool_]), npst.array_shapes(min_dims=0)))
def test_arrays_come_back(array: np.ndarray[Any, Any]) -> None:
    back = unpack_array(pack_array(array), "x")
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_no_object_is_ever_pickled() -> None:
    with pytest.raises(ValueError, match=r"pickle|Object arrays"):
        pack_array(np.array([object()]))


@given(st.binary(max_size=200))
def test_bytes_of_something_else(data: bytes) -> None:
    with pytest.raises(StoreError, match="thing: damaged"):
        unpack_array(data, "thing")


@given(st.data())
def test_damage_is_found(data: st.DataObject) -> None:
    packed = pack_array(np.arange(100, dtype=np.float32))
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(StoreError):
        unpack_array(packed[:cut], "x")


def test_another_kind() -> None:
    with pytest.raises(StoreError, match="holds array of version 1, expected candidates"):
        unpack_candidates(pack_array(np.zeros(3)), "x")


def repack(changes: dict[str, Any], **members: Any) -> bytes:
    """Packed candidates with another header or other members; a member that is None is left out."""
    packed = pack_candidates(
        Candidates("i", 2, 2, (), np.zeros((1, 4), np.float32), np.zeros((1, 0), np.float32),
                   (encode(np.ones((2, 2), np.bool_)),), np.zeros(1, np.float32))
    )  # fmt: skip
    arrays = dict(np.load(io.BytesIO(packed)))
    header = {**json.loads(arrays["header"].tobytes()), **changes}
    arrays |= {"header": np.frombuffer(json.dumps(header).encode(), np.uint8), **members}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: array for name, array in arrays.items() if array is not None})
    return buffer.getvalue()


def test_the_unchanged_repacking_is_read() -> None:
    assert len(unpack_candidates(repack({}), "x")) == 1


@pytest.mark.parametrize(
    ("changes", "members", "reason"),
    [
        ({"version": 2}, {}, "version 2, expected candidates of version 1"),
        ({"size": [2]}, {}, "damaged candidates"),
        ({"size": [3, 2]}, {}, "damaged candidates"),
        ({"phrases": None}, {}, "damaged candidates"),
        ({}, {"boxes": None}, "damaged candidates"),
        ({}, {"boxes": np.zeros((2, 4), np.float32)}, "damaged candidates"),
        ({}, {"masks_lengths": np.array([5])}, "lengths of the masks"),
        ({}, {"masks_lengths": np.zeros(0, np.int64)}, "lengths of the masks"),
        ({}, {"header": np.zeros(3, np.uint8)}, "damaged or not written"),
        ({}, {"header": np.frombuffer(b"[1]", np.uint8)}, "damaged or not written"),
        ({}, {"header": None}, "damaged or not written"),
    ],
)
def test_content_that_does_not_belong_together(changes: dict[str, Any], members: dict[str, Any], reason: str) -> None:
    with pytest.raises(StoreError, match=reason):
        unpack_candidates(repack(changes, **members), "x")


def test_an_archive_without_its_array() -> None:
    buffer = io.BytesIO()
    header = json.dumps({"kind": "array", "version": 1}).encode()
    np.savez(buffer, header=np.frombuffer(header, np.uint8))
    with pytest.raises(StoreError, match="no array"):
        unpack_array(buffer.getvalue(), "x")


def test_an_archive_of_text() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("header", "text")
    with pytest.raises(StoreError, match="damaged"):
        unpack_array(buffer.getvalue(), "x")
