import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from integrations.archive import pack_array, pack_candidates, unpack_array, unpack_candidates
from saa_core.errors import StoreError
from saa_core.masks import encode
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
