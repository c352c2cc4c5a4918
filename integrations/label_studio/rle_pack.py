"""The bit stream of runs that Label Studio's brush is kept in: rle-pack.

Format (thi.ng/umbrella, packages/rle-pack), most significant bit first:

    header   number of words: 32 | word size - 1: 5 | size of a length field - 1: 4, four times
    token    run?: 1 | which size: 2 | length - 1: that many bits | one word if it is a run, else `length` words
    end      zeros up to a whole byte

Tokens are handled as arrays, and a word outside a run is a run of one. Only the hop from token to token is a loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from saa_core.errors import MaskError
from saa_core.masks import Bools, Ints

Data = bytes | Sequence[int] | NDArray[np.integer]
Words = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]

SIZES = (3, 4, 8, 16)
"""Bits of a length field, as the editor and the converter choose them."""
_HEADER_BITS = 53
_MARGIN = 16
"""Bytes of zeros after the data, so that no look ahead leaves them."""


class Header(NamedTuple):
    """Number of words, bits of a word, and bits of the four kinds of length field."""

    words: int
    word_size: int
    sizes: tuple[int, ...] = SIZES


class Runs(NamedTuple):
    """Words as runs: value of each, int64 (n,), and length of each, int64 (n,), at least 1."""

    values: Ints
    lengths: Ints


def pack(words: NDArray[np.integer], word_size: int = 8, sizes: Sequence[int] = SIZES) -> bytes:
    """Any words in this format.

    Args:
        words: Unsigned integers (n,) of at most `word_size` bits, n at least 1.
        word_size: Bits of a word, 1 to 32.
        sizes: Bits of the four kinds of length field, 1 to 16, ascending.

    Raises:
        MaskError: No words, a word that does not fit, or sizes out of range.
    """
    header = Header(np.size(words), index(word_size), tuple(map(index, sizes)))
    _check_header(header)
    flat = np.asarray(words)
    if flat.ndim != 1 or not np.issubdtype(flat.dtype, np.integer):
        raise MaskError(f"words to pack are a flat array of whole numbers, not {flat.dtype} {flat.shape}")
    if int(flat.min()) < 0 or int(flat.max()) >> word_size:
        raise MaskError(f"words of {word_size} bits are in [0, {2**word_size - 1}]; got {flat.min()} to {flat.max()}")
    ends = np.r_[np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size]
    return write(header, Runs(flat[ends - 1].astype(np.int64), np.diff(ends, prepend=0)))


def unpack(data: Data) -> Words:
    """The words in any such stream; what follows the last word is ignored, as the editor does.

    Returns:
        Uint8, uint16 or uint32 (n,), the smallest that holds the word size of the header.

    Raises:
        MaskError: Not bytes, cut off, or a token that goes beyond the number of words in the header.
    """
    raw = to_bytes(data)
    header = read_header(raw)
    runs = read(raw, header)
    return np.repeat(runs.values.astype(_word_type(header.word_size)), runs.lengths)


# ------------------------------------------------------------------------------------------------------- runs <-> bytes


def write(header: Header, runs: Runs) -> bytes:
    """Runs as the converter of label_studio_sdk writes them, bit by bit; values and lengths are not checked."""
    values, lengths, kinds = _split(runs, header.sizes)
    sizes = np.array(header.sizes)[kinds]
    # A run of one is written as a literal, but not what is left of a run that was split: so does the converter.
    solid = ((lengths > 1) | (kinds == 3)).astype(np.int64)
    codes = ((solid << 2 | kinds) << sizes | lengths - 1) << header.word_size | values
    return _join(np.r_[_header_code(header), codes], np.r_[_HEADER_BITS, 3 + sizes + header.word_size])


def read_header(raw: NDArray[np.uint8]) -> Header:
    """The first 53 bits of the bytes.

    Raises:
        MaskError: There are not so many.
    """
    if raw.size * 8 < _HEADER_BITS:
        raise MaskError(f"brush run-lengths begin with a header of 7 bytes, there are {raw.size}")
    code = int.from_bytes(raw[:7].tobytes(), "big") >> 3
    sizes = tuple((code >> shift & 15) + 1 for shift in (12, 8, 4, 0))
    return Header(code >> 21, (code >> 16 & 31) + 1, sizes)


def read(raw: NDArray[np.uint8], header: Header) -> Runs:
    """The runs that follow the header, exactly as many words as it says.

    Raises:
        MaskError: They are cut off, or a token goes beyond the last word.
    """
    padded = np.r_[raw, np.zeros(_MARGIN, np.uint8)]
    starts = _hop(padded, raw.size * 8, header)
    token = _ahead(padded, starts)
    kinds = _field(token, 0, 3)
    sizes = np.array(header.sizes)[kinds & 3]
    lengths = _field(token, 3, sizes) + 1
    tokens = _needed(lengths, header.words)
    lengths, solid, payload = lengths[:tokens], kinds[:tokens] > 3, (starts + 3 + sizes)[:tokens]
    if tokens and payload[-1] + header.word_size * (1 if solid[-1] else lengths[-1]) > raw.size * 8:
        raise MaskError("brush run-lengths are cut off in the middle of a token")
    return _expand(padded, payload, lengths, solid, header.word_size)


def to_bytes(data: Data) -> NDArray[np.uint8]:
    """Numbers as they stand in JSON, as bytes.

    Raises:
        MaskError: Not a flat sequence of whole numbers in [0, 255].
    """
    if isinstance(data, np.ndarray):
        data = data.tolist()
    try:
        # A number alone would be taken for a length.
        raw = bytes(data) if isinstance(data, bytes | Sequence) else None
    except (TypeError, ValueError):
        raw = None
    if raw is None:
        raise MaskError("brush run-lengths are a flat list of bytes, whole numbers in [0, 255]; this is something else")
    return np.frombuffer(raw, np.uint8)


# --------------------------------------------------------------------------------------------------------------- inside


def _split(runs: Runs, sizes: Sequence[int]) -> tuple[Ints, Ints, Ints]:
    """Values, lengths and kinds of length field of tokens; each part of a run that is split has the longest field."""
    kinds = np.searchsorted(1 << np.array(sizes), runs.lengths).clip(max=3)
    longest = 1 << sizes[3]
    parts = -(-runs.lengths // longest)
    if (parts == 1).all():
        return runs.values, runs.lengths, kinds
    lengths = np.full(parts.sum(), longest, np.int64)
    lengths[np.cumsum(parts) - 1] = runs.lengths - (parts - 1) * longest
    return np.repeat(runs.values, parts), lengths, np.repeat(kinds, parts)


def _header_code(header: Header) -> int:
    code = header.words << 5 | header.word_size - 1
    for size in header.sizes:
        code = code << 4 | size - 1
    return code


def _join(codes: Ints, sizes: Ints) -> bytes:
    """Codes of 1 to 63 bits one after the other; a whole byte of zeros ends codes that fill their last byte."""
    ends = np.cumsum(sizes)
    starts = ends - sizes
    room = 64 - starts % 64 - sizes
    bits = codes.astype(np.uint64)
    # A code lies in one 64-bit word or goes on in the next; no two codes share a bit, so that a sum is a union.
    joined = np.zeros(int(ends[-1]) // 64 + 2, np.uint64)
    np.add.at(joined, starts // 64, bits >> (-room).clip(0).astype(np.uint64) << room.clip(0).astype(np.uint64))
    over = np.flatnonzero(room < 0)
    joined[starts[over] // 64 + 1] += bits[over] << (64 + room[over]).astype(np.uint64)
    return joined.astype(">u8").tobytes()[: int(ends[-1]) // 8 + 1]


def _hop(padded: NDArray[np.uint8], end: int, header: Header) -> Ints:
    """Bit positions of all tokens that begin before `end`, those that zeros at the end seem to be included."""
    bits = np.unpackbits(padded)
    kinds = bits[:-2] << 2 | bits[1:-1] << 1 | bits[2:]
    steps = np.array([0] * 4 + [3 + size + header.word_size for size in header.sizes], np.uint8)[kinds].tobytes()
    raw, position = padded.tobytes(), _HEADER_BITS
    starts: list[int] = []
    while position < end:
        starts.append(position)
        position += steps[position] or _literal_bits(raw, position, header)
    return np.array(starts, np.int64)


def _literal_bits(raw: bytes, position: int, header: Header) -> int:
    """Bits of the token at a position where words stand one by one."""
    window = int.from_bytes(raw[position // 8 : position // 8 + 4], "big") << position % 8 & 0xFFFFFFFF
    size = header.sizes[window >> 29 & 3]
    return 3 + size + ((window << 3 & 0xFFFFFFFF) >> 32 - size) * header.word_size + header.word_size


def _needed(lengths: Ints, count: int) -> int:
    """How many tokens make `count` words."""
    ends = np.cumsum(lengths)
    tokens = int(np.searchsorted(ends, count)) + 1 if count else 0
    if tokens > ends.size:
        raise MaskError(f"brush run-lengths are cut off: {ends[-1] if ends.size else 0} of {count} words are there")
    if tokens and ends[tokens - 1] != count:
        raise MaskError(f"brush run-lengths are damaged: a token ends at word {ends[tokens - 1]} of {count}")
    return tokens


def _expand(padded: NDArray[np.uint8], payload: Ints, lengths: Ints, solid: Bools, word_size: int) -> Runs:
    """Runs of tokens; the words of a literal become runs of one."""
    if not solid.all():
        counts = np.where(solid, 1, lengths)
        place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        payload = np.repeat(payload, counts) + place * word_size
        lengths = np.repeat(np.where(solid, lengths, 1), counts)
    return Runs(_field(_ahead(padded, payload), 0, word_size), lengths)


def _ahead(padded: NDArray[np.uint8], positions: Ints) -> NDArray[np.uint64]:
    """The bits from each position on, highest first; at least 57, which is more than a token before its second word."""
    windows = sliding_window_view(padded, 8)[positions >> 3].view(">u8")[:, 0].astype(np.uint64)
    ahead: NDArray[np.uint64] = windows << (positions & 7).astype(np.uint64)
    return ahead


def _field(ahead: NDArray[np.uint64], start: int, size: Ints | int) -> Ints:
    """A number of `size` bits, 1 to 32, that begins `start` bits ahead."""
    found = ahead << np.uint64(start) >> (64 - np.asarray(size)).astype(np.uint64)
    return found.astype(np.int64)


def _check_header(header: Header) -> None:
    count, word_size, sizes = header
    if not 1 <= count < 2**32:
        raise MaskError(f"1 to {2**32 - 1} words can be packed, not {count}")
    if not 1 <= word_size <= 32:
        raise MaskError(f"a word has 1 to 32 bits, not {word_size}")
    if len(sizes) != 4 or list(sizes) != sorted(sizes) or sizes[0] < 1 or sizes[3] > 16:
        raise MaskError(f"the sizes of the length fields are four ascending numbers from 1 to 16, not {list(sizes)}")


def _word_type(word_size: int) -> type[np.uint8] | type[np.uint16] | type[np.uint32]:
    return np.uint8 if word_size <= 8 else np.uint16 if word_size <= 16 else np.uint32
