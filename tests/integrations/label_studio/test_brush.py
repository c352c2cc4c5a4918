"""The brush's run-lengths against the format bit by bit, the SDK's converter and the editor's own library."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_studio_sdk.converter.brush import decode_rle as sdk_decode
from label_studio_sdk.converter.brush import encode_rle as sdk_encode
from label_studio_sdk.converter.brush import mask2rle
from numpy.typing import NDArray

from integrations.label_studio import brush, rle_pack
from saa_core import masks
from saa_core.errors import MaskError

Bools = NDArray[np.bool_]

# Made by @thi.ng/rle-pack 3.2.12, the library in the editor: encode(words, words.length, word size, sizes).
THING = {
    "mask": (8, (3, 4, 8, 16), "00000018391bfce016ffe300", [0] * 8 + [255] * 12 + [0] * 4),
    "anti-aliased": (
        8,
        (3, 4, 8, 16),
        "00000018391bfc6011bfc7011ffc6031ff00",
        [value for alpha in (0, 127, 128, 255, 1, 254) for value in [alpha] * 4],
    ),
    "coloured": (
        8,
        (3, 4, 8, 16),
        "00000010391bf81ff08018ff0080007f030201c888260000",
        [255, 0, 0, 255, 0, 128, 0, 127, 3, 2, 1, 200, 9, 9, 9, 0],
    ),
    "runs": (
        8,
        (3, 4, 8, 16),
        "00000033391bfce0f6022f84e100180140",
        [7] * 8 + [8] * 9 + [9] * 16 + [1] * 17 + [5],
    ),
    "bits": (1, (1, 1, 2, 3), "0000000a000096a2ed10", [1, 1, 1, 0, 1, 0, 0, 0, 0, 1]),
    "five bits": (
        5,
        (2, 3, 4, 5),
        "0000000b2091a07e09fe31104430",
        [31, 0, 31, 31, 31, 31, 17, 17, 1, 2, 3],
    ),
    "twelve bits": (12, (3, 4, 8, 16), "00000007591bfc5ffe18000008014000", [4095] * 3 + [0, 1, 2, 2048]),
    "32 bits": (
        32,
        (1, 2, 3, 4),
        "00000007f8091cffffffff800000000da00000002000000000",
        [2**32 - 1, 2**32 - 1, 1, 2**31, 2**31, 2**31, 0],
    ),
    "sizes": (4, (1, 2, 3, 16), "0000003118097f00273600102468acf120", [3] * 40 + list(range(1, 10))),
    "long": (8, (3, 4, 8, 16), "00030005391bffffff009003ffff84fffff090", [0] * (65536 + 5) + [9] * (2 * 65536)),
}

KINDS = ("empty", "full", "pixel", "checkerboard", "noise", "sparse", "stripes", "blocks")


def make(kind: str, height: int, width: int, seed: int) -> Bools:
    rng = np.random.default_rng(seed)
    mask: Bools = np.full((height, width), kind == "full")
    if kind == "pixel":
        mask[rng.integers(height), rng.integers(width)] = True
    elif kind == "checkerboard":
        mask = np.indices((height, width)).sum(axis=0) % 2 == seed % 2
    elif kind in ("noise", "sparse"):
        mask = rng.random((height, width)) < (0.5 if kind == "noise" else 0.001)
    elif kind in ("stripes", "blocks"):
        mask[:: rng.integers(1, 9)] = True
        mask[:, :: 1 if kind == "stripes" else rng.integers(2, 40)] ^= kind == "blocks"
    return mask


@st.composite
def drawn_masks(draw: st.DrawFn, longest: int = 60) -> Bools:
    side = st.integers(1, longest)
    height, width = draw(st.one_of(st.tuples(side, side), st.tuples(st.just(1), side), st.tuples(side, st.just(1))))
    return make(draw(st.sampled_from(KINDS)), height, width, draw(st.integers(0, 99)))


def words_of(mask: Bools) -> list[int]:
    """The RGBA bytes."""
    return [255 * int(pixel) for pixel in mask.ravel() for _ in range(4)]


def write_by_loop(words: list[int], word_size: int = 8, sizes: tuple[int, ...] = rle_pack.SIZES) -> bytes:
    """The format, one run at a time, as the converter chooses its tokens."""
    bits = f"{len(words):032b}{word_size - 1:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    start = 0
    while start < len(words):
        end = start
        while end < len(words) and words[end] == words[start]:
            end += 1
        length = end - start
        kind = next((k for k in range(3) if length <= 2 ** sizes[k]), 3)
        flag = "0" if length == 1 else "1"
        while length > 0:
            part = min(length, 2 ** sizes[kind])
            bits += f"{flag}{kind:02b}{part - 1:0{sizes[kind]}b}{words[start]:0{word_size}b}"
            length -= part
        start = end
    bits += "0" * (8 - len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def read_by_loop(data: bytes) -> list[int]:
    """The format, one bit field at a time."""
    bits, position = "".join(f"{byte:08b}" for byte in data), 0

    def field(size: int) -> int:
        nonlocal position
        position += size
        return int(bits[position - size : position], 2)

    count, word_size = field(32), field(5) + 1
    sizes, words = [field(4) + 1 for _ in range(4)], list[int]()
    while len(words) < count:
        run = field(1)
        length = field(sizes[field(2)]) + 1
        words += [field(word_size)] * length if run else [field(word_size) for _ in range(length)]
    return words


# ------------------------------------------------------------------------------------------- against the others


@given(drawn_masks())
def test_a_mask_is_written_as_the_converter_writes_it_and_read_by_all(mask: Bools) -> None:
    data = brush.encode(mask)
    assert list(data) == mask2rle(mask.astype(np.uint8) * 255)
    assert data == write_by_loop(words_of(mask))
    assert sdk_decode(data).tolist() == read_by_loop(data) == rle_pack.unpack(data).tolist() == words_of(mask)
    found = brush.decode(list(data), *mask.shape)
    assert found.dtype == np.bool_
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize(("word_size", "sizes", "written", "words"), THING.values(), ids=list(THING))
def test_what_the_editors_library_writes_is_read(
    word_size: int, sizes: tuple[int, ...], written: str, words: list[int]
) -> None:
    found = rle_pack.unpack(bytes.fromhex(written))
    assert found.tolist() == words
    assert found.dtype.itemsize == (1 if word_size <= 8 else 2 if word_size <= 16 else 4)
    packed = rle_pack.pack(np.array(words), word_size, sizes)
    assert read_by_loop(packed) == words
    assert packed[:6] == bytes.fromhex(written)[:6]


def test_four_equal_channels_are_written_as_the_editors_library_writes_them() -> None:
    for name in ("mask", "anti-aliased"):
        *_, written, words = THING[name]
        assert rle_pack.pack(np.array(words)).rstrip(b"\0") == bytes.fromhex(written).rstrip(b"\0")


@given(st.lists(st.integers(0, 3) | st.just(255), min_size=1, max_size=200), st.integers(1, 40))
def test_any_bytes_are_packed_as_the_converter_packs_them(values: list[int], repeats: int) -> None:
    words = np.repeat(np.array(values, np.uint8), np.arange(len(values)) % repeats + 1)
    data = rle_pack.pack(words)
    assert list(data) == sdk_encode(words)
    assert rle_pack.unpack(data).tolist() == words.tolist()


@given(st.data(), st.integers(1, 32), st.lists(st.integers(1, 16), min_size=4, max_size=4).map(sorted))
def test_every_word_size_and_every_length_field(data: st.DataObject, word_size: int, sizes: list[int]) -> None:
    pairs = st.tuples(st.integers(0, 2**word_size - 1), st.integers(1, 20))
    runs = data.draw(st.lists(pairs, min_size=1, max_size=20))
    words = [value for value, length in runs for _ in range(length)]
    packed = rle_pack.pack(np.array(words), word_size, sizes)
    assert packed == write_by_loop(words, word_size, tuple(sizes))
    assert rle_pack.unpack(packed).tolist() == words


# 2, 4, 64 and 16384 pixels fill the four kinds of length field.
@pytest.mark.parametrize("pixels", [n + d for n in (2, 4, 64, 16384, 32768, 65536) for d in (-1, 0, 1)])
def test_runs_around_the_ends_of_the_length_fields(pixels: int) -> None:
    for before, after in ((0, 0), (1, 0), (3, 1), (pixels, pixels)):
        mask = np.array([[False] * before + [True] * pixels + [False] * after])
        data = brush.encode(mask)
        assert list(data) == mask2rle(mask.astype(np.uint8) * 255)
        np.testing.assert_array_equal(brush.decode(data, *mask.shape), mask)


@settings(max_examples=25)
@given(st.sampled_from(KINDS), st.integers(1, 2000), st.integers(1, 2000), st.integers(0, 99))
def test_large_masks_come_back_whole(kind: str, height: int, width: int, seed: int) -> None:
    mask = make(kind, height, width, seed)
    np.testing.assert_array_equal(brush.decode(brush.encode(mask), height, width), mask)


@given(drawn_masks(), st.booleans())
def test_run_lengths_go_through_the_brush_as_pixels_do(mask: Bools, fortran: bool) -> None:
    rle = masks.encode(mask)
    data = brush.encode(np.asfortranarray(mask) if fortran else mask)
    assert brush.encode_rle(rle) == data
    assert brush.decode_rle(data, *mask.shape) == rle


# ------------------------------------------------------------------------------------- what an expert's stroke leaves


@given(st.lists(st.integers(0, 255), min_size=1, max_size=80), st.integers(0, 2**32))
def test_a_pixel_is_on_from_alpha_128_whatever_its_colour(alpha: list[int], seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (1, len(alpha), 4), np.uint8)
    pixels[0, :, 3] = alpha
    grey = np.repeat(pixels[:, :, 3:], 4, axis=2)
    for image in (pixels, grey):
        found = brush.decode(sdk_encode(image.ravel()), 1, len(alpha))
        assert found.tolist() == [[value >= 128 for value in alpha]]


def test_one_colour_under_the_mask_is_read_through_its_literals() -> None:
    mask = make("blocks", 50, 70, 3)
    pixels = np.zeros((50, 70, 4), np.uint8)
    pixels[mask] = (255, 0, 7, 255)
    np.testing.assert_array_equal(brush.decode(rle_pack.pack(pixels.ravel()), 50, 70), mask)


def test_runs_that_end_inside_a_pixel_count_for_the_alpha_they_reach() -> None:
    words = [0] * 3 + [255] * 6 + [0] * 2 + [200]  # alpha 255, 255, 200
    assert brush.decode(rle_pack.pack(np.array(words)), 1, 3).tolist() == [[True, True, True]]
    words = [255] * 7 + [0] * 5  # alpha 255, 0, 0
    assert brush.decode(rle_pack.pack(np.array(words)), 3, 1).tolist() == [[True], [False], [False]]


@pytest.mark.parametrize("convert", [list, tuple, bytearray, np.frombuffer])
def test_numbers_may_come_in_any_sequence(convert: type) -> None:
    mask = make("noise", 5, 7, 0)
    data = brush.encode(mask)
    given = np.frombuffer(data, np.uint8).astype(np.int64) if convert is np.frombuffer else convert(data)
    np.testing.assert_array_equal(brush.decode(given, 5, 7), mask)


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "data",
    [
        [0, 256, 3],
        [0, -1],
        [1.5],
        ["1"],
        [[1]],
        "abc",
        None,
        7,
        [400] * 12,
        np.array([1.0]),
        np.array([300]),
        np.array(5),
        {"counts": "abc"},
    ],
    ids=str,
)
def test_what_is_no_list_of_bytes_is_refused(data: object) -> None:
    with pytest.raises(MaskError, match="flat list of bytes"):
        brush.decode(data, 1, 1)  # type: ignore[arg-type]


@given(drawn_masks(20), st.data())
def test_every_cut_is_noticed(mask: Bools, data: st.DataObject) -> None:
    written = brush.encode(mask)
    spare = 1 + (written[-1] == 0)  # the last byte may hold only zeros
    cut = data.draw(st.integers(0, len(written) - spare))
    with pytest.raises(MaskError, match=r"cut off|header of 7 bytes"):
        brush.decode(written[:cut], *mask.shape)


def test_a_literal_that_is_cut_off_is_noticed() -> None:
    written = bytes.fromhex(THING["coloured"][2])
    assert len(rle_pack.unpack(written)) == 16
    with pytest.raises(MaskError, match="cut off"):
        rle_pack.unpack(written[:-4])


def test_a_token_beyond_the_end_is_noticed() -> None:
    longer = brush.encode(np.ones((1, 5), bool))
    with pytest.raises(MaskError, match="token ends at word 20 of 4"):
        brush.decode(brush.encode(np.ones((1, 1), bool))[:4] + longer[4:], 1, 1)


@pytest.mark.parametrize("size", [(4, 5), (5, 3), (8, 10), (1, 1)])
def test_a_mask_of_another_image_size_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(MaskError, match=f"{size[0]} x {size[1]} pixels has {4 * size[0] * size[1]} words of 8 bits"):
        brush.decode(brush.encode(np.ones((5, 5), bool)), *size)


def test_other_words_than_bytes_are_no_mask() -> None:
    with pytest.raises(MaskError, match="not 4 of 12"):
        brush.decode(rle_pack.pack(np.array([1, 2, 3, 4]), 12), 1, 1)


@given(st.binary(max_size=200), st.integers(1, 3), st.integers(1, 3))
def test_garbage_is_read_as_the_format_says_or_refused(tail: bytes, height: int, width: int) -> None:
    data = brush.encode(np.zeros((height, width), bool))[:6] + tail
    try:
        found = brush.decode(data, height, width)
    except MaskError:
        return
    alpha = np.array(read_by_loop(data)).reshape(height, width, 4)[:, :, 3]
    np.testing.assert_array_equal(found, alpha >= 128)


def test_what_follows_the_last_word_is_ignored() -> None:
    mask = make("noise", 9, 9, 1)
    np.testing.assert_array_equal(brush.decode(brush.encode(mask) + b"\xff\x00\x17" * 9, 9, 9), mask)


def test_no_words_are_read_but_not_written() -> None:
    assert rle_pack.unpack(bytes.fromhex("00000000391bf8")).size == 0
    with pytest.raises(MaskError, match="not 0"):
        rle_pack.pack(np.zeros(0, np.uint8))


@pytest.mark.parametrize(
    ("words", "word_size", "sizes", "message"),
    [
        ([1, 256], 8, rle_pack.SIZES, r"in \[0, 255\]"),
        ([-1, 1], 8, rle_pack.SIZES, r"in \[0, 255\]"),
        ([1], 0, rle_pack.SIZES, "1 to 32 bits"),
        ([1], 33, rle_pack.SIZES, "1 to 32 bits"),
        ([1], 8, (3, 4, 8), "four ascending"),
        ([1], 8, (0, 4, 8, 16), "four ascending"),
        ([1], 8, (3, 4, 8, 17), "four ascending"),
        ([1], 8, (4, 3, 8, 16), "four ascending"),
        ([[1, 2]], 8, rle_pack.SIZES, "flat array"),
        ([0.5], 8, rle_pack.SIZES, "flat array"),
    ],
)
def test_words_that_do_not_fit_are_not_packed(
    words: list[int], word_size: int, sizes: tuple[int, ...], message: str
) -> None:
    with pytest.raises(MaskError, match=message):
        rle_pack.pack(np.array(words), word_size, sizes)


def test_an_image_too_large_for_the_header_is_refused() -> None:
    with pytest.raises(MaskError, match="not 32768 x 32768"):
        brush.encode_rle(masks.Rle(32768, 32768, np.array([2**30])))
    with pytest.raises(MaskError, match="not 0 x 5"):
        brush.decode(brush.encode(np.ones((1, 1), bool)), 0, 5)


def test_only_masks_are_written() -> None:
    with pytest.raises(MaskError, match="bool array"):
        brush.encode(np.ones((2, 2), np.uint8))
