"""A batch goes on when one of its images cannot be used."""

from __future__ import annotations

import time

import pytest

from saa_core.errors import ImageError, StoreError
from saa_core.types import ImageRef
from tasks.propose import each_image
from tasks.workbench import context_at

REFS = [ImageRef(key, f"{key}.png", (f"{key}.png",)) for key in "abc"]


def test_a_bad_image_is_refused_and_the_others_are_done() -> None:
    def work(ref: ImageRef) -> bool:
        if ref.key == "b":
            raise ImageError("b.png", "truncated")
        return ref.key == "c"

    outcome = each_image(REFS, work, lambda: 5, time.perf_counter() - 1)
    assert 1 < outcome.pop("seconds") < 60  # type: ignore[misc]
    assert outcome == {"done": ["a", "c"], "reused": ["c"], "refused": [("b", "truncated")], "calls": 5}


def test_what_is_not_about_an_image_ends_the_batch() -> None:
    def work(ref: ImageRef) -> bool:
        raise StoreError("workspace", "the disk is full")

    with pytest.raises(StoreError, match="full"):
        each_image(REFS, work, lambda: 0, 0.0)


def test_a_context_that_is_gone_says_what_to_do(tmp_path: object) -> None:
    with pytest.raises(StoreError, match="run the same command again"):
        context_at(str(tmp_path), "0" * 64)
