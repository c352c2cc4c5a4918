"""What others wrote: read if it is what it should be, refused before it grows if not."""

from __future__ import annotations

import contextlib
import io
import zipfile
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from saa_core.untrusted import load_arrays, load_yaml

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGED = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 10)}]}}\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("abc: -#\n'\"", max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1, max_size=4), inner),
    max_leaves=12,
)


@given(plain)
def test_plain_content_comes_back(content: Any) -> None:
    text = yaml.safe_dump(content)
    assert load_yaml(text) == yaml.safe_load(text) == content


def test_aliases_are_fine_while_they_are_few() -> None:
    assert load_yaml("a: &a [1, 2]\nb: *a\nc: {<<: {x: 1}}") == {"a": [1, 2], "b": [1, 2], "c": {"x": 1}}
    assert load_yaml("") is None


@pytest.mark.parametrize("text", [LAUGHS, MERGED, "&a [*a]", "&a {x: *a}"], ids=["laughs", "merged", "itself", "map"])
def test_a_text_that_would_grow(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="aliases stand for more than"):
        load_yaml(text)


@pytest.mark.parametrize("text", ["[" * 50_000, "{a: " * 50_000])
def test_a_text_that_is_deep(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system [touch x]", "!!python/name:os.system ''", "!x 1"])
def test_a_tag_is_not_followed(tag: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml(tag)


def npz(compress: bool = False, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def test_arrays_come_back() -> None:
    found = load_arrays(npz(a=np.arange(3), b=np.zeros((0, 2), np.float32)))
    assert found["a"].tolist() == [0, 1, 2]
    assert found["b"].shape == (0, 2)


def test_an_archive_that_would_grow() -> None:
    bomb = npz(compress=True, a=np.zeros(10_000_000, np.uint8))
    assert len(bomb) < 20_000
    with pytest.raises(ValueError, match="more than itself"):
        load_arrays(bomb)


def test_a_header_that_promises_more_than_there_is() -> None:
    promise = io.BytesIO()
    np.lib.format.write_array_header_1_0(promise, {"descr": "<f8", "fortran_order": False, "shape": (2**45,)})  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match=r".+"):
        load_arrays(zipped(a=promise.getvalue()))


def test_objects_are_not_unpickled() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        load_arrays(buffer.getvalue())


@given(st.binary(max_size=60) | st.integers(0, 300).map(lambda cut: npz(a=np.arange(9))[:cut]))
def test_no_bytes_are_another_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        load_arrays(data)
