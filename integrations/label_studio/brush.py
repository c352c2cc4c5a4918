"""The brush of Label Studio: masks as run-lengths of the bytes of an image, red, green, blue and alpha, row by row.

The mask is the alpha channel; rle_pack.py has the format of the run-lengths. What we write equals what the converter of
label_studio_sdk writes for a mask of 0 and 255, bit by bit.
"""

from __future__ import annotations

import numpy as np

from integrations.label_studio.rle_pack import Data, Header, Runs, read, read_header, to_bytes, write
from saa_core import masks
from saa_core.errors import MaskError
from saa_core.masks import Bools, Rle

_CHANNELS = 4
_SOLID = 128
"""From this alpha on a pixel is on: the edges of the editor's strokes are anti-aliased."""


def encode(mask: Bools) -> bytes:
    """A mask as the brush stores it: four equal channels, 255 is on.

    Args:
        mask: Bool (H, W), H and W at least 1.

    Returns:
        What goes as a list of numbers into `value.rle` of a result.

    Raises:
        MaskError: Not a mask, or 4 * H * W does not fit the header's 32 bits.
    """
    masks.check_mask(mask)
    return _encode_rows(mask, 0, _header(*mask.shape))


def encode_rle(rle: Rle) -> bytes:
    """`encode` from run-lengths; only the rows that the mask touches are looked at.

    Raises:
        MaskError: 4 * H * W does not fit the header's 32 bits.
    """
    header, (_, top, _, bottom) = _header(*rle.size), rle.box
    return _encode_rows(masks.decode(rle)[top:bottom], top, header)


def decode(data: Data, height: int, width: int) -> Bools:
    """The mask in what the brush stored: where alpha is at least 128. Colours do not matter.

    Args:
        data: Numbers in [0, 255], as they stand in `value.rle`.
        height: `original_height` of the result, pixels.
        width: `original_width` of the result, pixels.

    Returns:
        Bool (H, W), C-contiguous.

    Raises:
        MaskError: Not bytes, cut off, not of this format, or of another size.
    """
    runs = _pixel_runs(data, height, width)
    return np.repeat(runs.values >= _SOLID, runs.lengths).reshape(height, width)


def decode_rle(data: Data, height: int, width: int) -> Rle:
    """`decode` to run-lengths, with the same errors."""
    return masks.encode(decode(data, height, width))


# --------------------------------------------------------------------------------------------------------------- inside


def _header(height: int, width: int) -> Header:
    words = _CHANNELS * height * width
    if height < 1 or width < 1 or words >= 2**32:
        raise MaskError(f"a brush mask holds 1 to {2**30 - 1} pixels, not {height} x {width}")
    return Header(words, 8)


def _encode_rows(rows: Bools, top: int, header: Header) -> bytes:
    """Encode an image of which only some whole rows, from `top` on, may be foreground."""
    flat = np.zeros(rows.size + 2, np.bool_)
    flat[1:-1] = rows.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + top * rows.shape[1]
    bounds = np.r_[0, edges * _CHANNELS, header.words]
    lengths, values = np.diff(bounds), np.arange(bounds.size - 1) % 2 * 255
    solid = lengths > 0  # the first and the last run of background may be missing
    return write(header, Runs(values[solid], lengths[solid]))


def _pixel_runs(data: Data, height: int, width: int) -> Runs:
    """Alpha of the pixels, row by row, as runs; some may be 0 long."""
    raw = to_bytes(data)
    header, expected = read_header(raw), _header(height, width)
    if header.word_size != expected.word_size or header.words != expected.words:
        raise MaskError(
            f"a brush mask of {height} x {width} pixels has {expected.words} words of 8 bits, not {header.words} of "
            f"{header.word_size}: it was made for an image of another size or is no brush mask"
        )
    runs = read(raw, header)
    # Alpha is the last of a pixel's words: so many pixels as end before a word have their alpha before it.
    return Runs(runs.values, np.diff(np.cumsum(runs.lengths) // _CHANNELS, prepend=0))
