"""Reading one image ahead."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from integrations.prefetch import Prefetch
from saa_core.errors import ImageError
from saa_core.types import RGB, ImageRef

REFS = [ImageRef(str(number), "", (str(number),)) for number in range(4)]


class Decoder:
    """Images that are their own numbers; remembers which thread made which."""

    def __init__(self) -> None:
        self.made: list[tuple[str, bool]] = []
        self.ready = threading.Event()

    def __call__(self, ref: ImageRef) -> RGB:
        self.made.append((ref.key, threading.current_thread() is threading.main_thread()))
        if ref.key == "bad":
            raise ImageError("bad", "is no image")
        return np.full((1, 1, 3), int(ref.key), np.uint8)


def test_the_next_image_is_decoded_beside_this_one() -> None:
    decode = Decoder()
    with Prefetch(decode, REFS) as image:
        assert [int(image(ref)[0, 0, 0]) for ref in REFS] == [0, 1, 2, 3]
    assert decode.made == [("0", True), ("1", False), ("2", False), ("3", False)]


def test_any_order_gives_the_right_images() -> None:
    decode = Decoder()
    with Prefetch(decode, REFS) as image:
        for number in (2, 0, 0, 3, 1):
            assert image(REFS[number])[0, 0, 0] == number


def test_an_image_that_cannot_be_read_is_told_to_who_asks_for_it() -> None:
    refs = [REFS[0], ImageRef("bad", "", ("bad",)), REFS[1]]
    with Prefetch(Decoder(), refs) as image:
        image(refs[0])
        with pytest.raises(ImageError, match="bad"):
            image(refs[1])
        assert image(refs[2])[0, 0, 0] == 1


def test_an_image_outside_the_list_is_decoded_at_once() -> None:
    with Prefetch(Decoder(), []) as image:
        assert image(REFS[3])[0, 0, 0] == 3
