"""Binary masks as COCO run-lengths.

Layout of the run-lengths (COCO API, common/maskApi.h and maskApi.c): pixels are read column by column (Fortran order,
pixel (row, column) is number column * height + row), runs alternate background, foreground, background, ..., and the
first run is background (0 long when the first pixel is foreground).

Set operations work on the runs. A mask is then a sorted list of half-open foreground intervals [start, end) of pixel
numbers, which is what the private functions below call `edges`: start, end, start, end, ...
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from saa_core.errors import MaskError

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Box = tuple[int, int, int, int]

_MAX_PIXELS = 2**32 - 1
# Two runs of such a mask differ by less than 2**32: with the sign, seven groups of five bits.
_MAX_GROUPS = 7


@dataclass(frozen=True, eq=False)
class Rle:
    """One mask as COCO run-lengths.

    The runs are brought to their shortest form (no empty run but the first), so two equal masks are equal objects
    with equal hashes, however they were written.

    Attributes:
        height: Image height in pixels, at least 1.
        width: Image width in pixels, at least 1.
        counts: Uint32 (n,), read-only; lengths in pixels, column-major, the first is background; their sum is
            height * width. Any integer sequence is accepted.

    Raises:
        MaskError: The size is not positive, a run is negative or not an integer, or the sum is wrong.
    """

    height: int
    width: int
    counts: NDArray[np.uint32]

    def __post_init__(self) -> None:
        object.__setattr__(self, "height", index(self.height))
        object.__setattr__(self, "width", index(self.width))
        _check_size(self.height, self.width)
        counts = _shortest(_checked_counts(self.counts, self.height, self.width)).astype(np.uint32)
        counts.flags.writeable = False
        object.__setattr__(self, "counts", counts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rle):
            return NotImplemented
        return self.size == other.size and np.array_equal(self.counts, other.counts)

    def __hash__(self) -> int:
        return hash((self.height, self.width, self.counts.tobytes()))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @property
    def area(self) -> int:
        """Number of foreground pixels."""
        return int(self.counts[1::2].sum(dtype=np.int64))

    @property
    def box(self) -> Box:
        """Smallest box (x0, y0, x1, y1) around the foreground, whole pixels, x1 and y1 exclusive; zeros when empty."""
        edges = _edges(self)
        if not edges.size:
            return 0, 0, 0, 0
        first, last = edges[0::2], edges[1::2] - 1
        x0, x1 = int(first[0]) // self.height, int(last[-1]) // self.height + 1
        if np.any(first // self.height != last // self.height):  # a run that goes on in the next column
            return x0, 0, x1, self.height
        return x0, int((first % self.height).min()), x1, int((last % self.height).max()) + 1


# ---------------------------------------------------------------------------------------------- pixels <-> run-lengths


def empty(height: int, width: int) -> Rle:
    """A mask without foreground."""
    return Rle(height, width, np.array([height * width]))


def encode(mask: Bools) -> Rle:
    """Run-lengths of a mask.

    Args:
        mask: Bool (H, W), H and W at least 1, in any memory order.

    Raises:
        MaskError: Not a two-dimensional bool array, or without pixels.

    Example:
        >>> encode(np.array([[False, True], [True, True]])).counts.tolist()
        [1, 3]
    """
    check_mask(mask)
    height, width = mask.shape
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return _from_edges(np.zeros(0, np.int64), height, width)
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    # Only the box is put into column order: that copy is most of the cost, and most masks are small.
    return encode_crop(mask[top:bottom, left:right], top, left, height, width)


def encode_crop(crop: Bools, top: int, left: int, height: int, width: int) -> Rle:
    """Run-lengths of a mask known only inside a window, background outside; no full-size array is made.

    Args:
        crop: Bool (h, w), the window's pixels, h and w at least 1.
        top: Row of the window's first pixel in the image.
        left: Column of the window's first pixel in the image.
        height: Image height in pixels.
        width: Image width in pixels.

    Raises:
        MaskError: `crop` is not a mask, or the window is not inside the image.
    """
    check_mask(crop)
    _check_size(height, width)
    rows, columns = crop.shape
    if top < 0 or left < 0 or top + rows > height or left + columns > width:
        raise MaskError(
            f"a window of {rows} x {columns} pixels at row {top}, column {left} is not inside an image of "
            f"{height} x {width}"
        )
    # A background pixel ahead of each column and one at the end: every run starts and ends inside its column.
    padded = np.zeros(columns * (rows + 1) + 1, np.bool_)
    padded[:-1].reshape(columns, rows + 1)[:, 1:] = crop.T
    column, row = np.divmod(np.flatnonzero(padded[1:] != padded[:-1]), rows + 1)
    # Where a run reaches the window's last row, its end is found as row 0 of the next column of the window.
    return _from_edges((left + column) * height + top + row, height, width)


def decode(rle: Rle) -> Bools:
    """Pixels of a mask: bool (H, W), C-contiguous."""
    x0, y0, x1, y1 = rle.box
    mask = np.zeros(rle.size, np.bool_)
    if x1 > x0:
        mask[y0:y1, x0:x1] = _columns(rle, x0, x1)[:, y0:y1].T
    return mask


def decode_crop(rle: Rle) -> tuple[Bools, int, int]:
    """Pixels inside the mask's box, the inverse of `encode_crop`.

    Returns:
        Bool (h, w), a view of column-major memory, and the row and column of its first pixel. An empty mask gives
        (0, 0) pixels.
    """
    x0, y0, x1, y1 = rle.box
    return _columns(rle, x0, x1)[:, y0:y1].T, y0, x0


def resize(rle: Rle, height: int, width: int) -> Rle:
    """The mask at another size, by nearest pixel centre.

    Args:
        rle: The mask.
        height: New image height in pixels, at least 1.
        width: New image width in pixels, at least 1.

    Raises:
        MaskError: The new size is not positive.
    """
    _check_size(height, width)
    rows, columns = _nearest(rle.height, height), _nearest(rle.width, width)
    return encode(decode(rle)[rows[:, None], columns])


def check_mask(mask: Bools) -> None:
    """Refuse what is not a mask.

    Raises:
        MaskError: Not a two-dimensional bool array, or without pixels.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise MaskError(f"a mask is a bool array (H, W), not {mask.dtype} {mask.shape}")
    _check_size(*mask.shape)


# -------------------------------------------------------------------------------------------------- written run-lengths


def to_string(rle: Rle) -> str:
    """COCO's compressed run-lengths (maskApi.c, rleToString).

    From the fourth run on, the difference to the run two before is written. Each number is written in groups of five
    bits, lowest first, two's complement; bit 5 says that another group follows; 48 is added to make it printable.
    """
    numbers = rle.counts.astype(np.int64)
    numbers[3:] -= rle.counts[1:-2]
    shifted = numbers[:, None] >> np.arange(0, 5 * _MAX_GROUPS, 5)
    # Nothing follows a group whose own sign bit, and all bits above it, are the sign.
    follows = ~np.isin(shifted >> 4, (0, -1))
    written = np.ones_like(follows)
    written[:, 1:] = follows[:, :-1]
    letters = (shifted & 0x1F) + 0x20 * follows + 48
    return letters[written].astype(np.uint8).tobytes().decode("ascii")


def from_string(text: str | bytes, height: int, width: int) -> Rle:
    """The inverse of `to_string`.

    Args:
        text: Compressed run-lengths, as a string or as ASCII bytes.
        height: Image height in pixels.
        width: Image width in pixels.

    Raises:
        MaskError: A character that the code does not use, a number cut off or too long, or runs that do not fit.
    """
    letters = _letters(text)
    more, bits = (letters & 0x20) > 0, letters & 0x1F
    last = np.flatnonzero(~more)
    if not last.size or last[-1] != letters.size - 1:
        raise MaskError("compressed run-lengths end in the middle of a number")
    lengths = np.diff(last, prepend=-1)
    if lengths.max() > _MAX_GROUPS:
        raise MaskError(f"compressed run-lengths hold a number of {lengths.max()} groups, at most {_MAX_GROUPS} fit")
    first = last - lengths + 1
    place = np.arange(letters.size) - np.repeat(first, lengths)
    numbers = np.add.reduceat(bits << (5 * place), first)
    numbers -= ((bits[last] & 0x10) > 0) * (1 << (5 * lengths))
    for start in (1, 2):  # differences to the run two before; the very first run is written as it is
        numbers[start::2] = np.cumsum(numbers[start::2])
    return Rle(height, width, cast("NDArray[np.uint32]", numbers))


def to_coco(rle: Rle, *, compressed: bool = True) -> dict[str, Any]:
    """A COCO `segmentation`: {"size": [height, width], "counts": str, or list of int if not `compressed`}."""
    return {"size": [rle.height, rle.width], "counts": to_string(rle) if compressed else rle.counts.tolist()}


def from_coco(segmentation: Mapping[str, Any]) -> Rle:
    """A mask from a COCO `segmentation` with run-lengths.

    Args:
        segmentation: {"size": [height, width], "counts": compressed str or bytes, or sequence of int}.

    Raises:
        MaskError: A key is missing, `size` is not two positive integers, or the run-lengths are not valid.
    """
    missing = [key for key in ("size", "counts") if key not in segmentation]
    if missing:
        raise MaskError(f"a COCO segmentation with run-lengths has no {' and no '.join(map(repr, missing))}")
    try:
        height, width = (index(side) for side in segmentation["size"])
    except (TypeError, ValueError):
        raise MaskError(f"size must be [height, width] in whole pixels, not {segmentation['size']!r}") from None
    counts = segmentation["counts"]
    return from_string(counts, height, width) if isinstance(counts, str | bytes) else Rle(height, width, counts)


# ------------------------------------------------------------------------------------------------------- set operations


def intersections(a: Sequence[Rle], b: Sequence[Rle]) -> Ints:
    """Shared pixels of every pair, counted on the runs.

    Returns:
        Int64 (len(a), len(b)).

    Raises:
        MaskError: The masks are not all of one size.
    """
    _check_same_size([*a, *b])
    table = np.zeros((len(a), len(b)), np.int64)
    edges = [_edges(rle) for rle in a]
    filled = [row for row, found in enumerate(edges) if found.size]
    if not filled:
        return table
    firsts = np.cumsum([0] + [edges[row].size for row in filled[:-1]])
    joined = np.concatenate([edges[row] for row in filled])
    for column, rle in enumerate(b):
        below = _pixels_below(rle, joined)
        # Pixels of b in [start, end) are those below its end less those below its start.
        below[0::2] *= -1
        table[filled, column] = np.add.reduceat(below, firsts)
    return table


def iou(a: Sequence[Rle], b: Sequence[Rle]) -> Floats:
    """Intersection over union of every pair; 0 where both are empty, as in COCO.

    Returns:
        Float64 (len(a), len(b)) in [0, 1].

    Raises:
        MaskError: The masks are not all of one size.
    """
    shared = intersections(a, b)
    together = _areas(a)[:, None] + _areas(b)[None, :] - shared
    return _share(shared, together)


def containment(a: Sequence[Rle], b: Sequence[Rle]) -> Floats:
    """Share of each a that lies inside each b, |a and b| / |a|; 0 where a is empty.

    This is the location test of Eq. 4 (arXiv 2305.10724): a small defect has a tiny IoU with the object it lies on.

    Returns:
        Float64 (len(a), len(b)) in [0, 1].

    Raises:
        MaskError: The masks are not all of one size.
    """
    return _share(intersections(a, b), _areas(a)[:, None])


def union(masks: Sequence[Rle]) -> Rle:
    """Pixels that are in any of the masks.

    Raises:
        MaskError: No mask at all, or masks of different sizes.
    """
    if not masks:
        raise MaskError("the union of no masks has no size")
    _check_same_size(masks)
    edges = [_edges(rle) for rle in masks]
    starts = np.sort(np.concatenate([edge[0::2] for edge in edges]))
    ends = np.sort(np.concatenate([edge[1::2] for edge in edges]))
    # With both sorted, everything begun is closed again at ends[i] when starts[i + 1] lies beyond it.
    gap = starts[1:] > ends[:-1]
    gaps = np.stack([ends[:-1][gap], starts[1:][gap]], axis=1)
    return _from_edges(np.r_[starts[:1], gaps.ravel(), ends[-1:]], *masks[0].size)


# --------------------------------------------------------------------------------------------------------------- inside


def _edges(rle: Rle) -> Ints:
    """Foreground intervals as start, end, start, end, ...: int64, pixel numbers in column-major order."""
    bounds = np.cumsum(rle.counts, dtype=np.int64)
    return bounds[: bounds.size // 2 * 2]


def _from_edges(edges: Ints, height: int, width: int) -> Rle:
    counts = np.diff(edges, prepend=0, append=height * width)
    return Rle(height, width, cast("NDArray[np.uint32]", counts))


def _columns(rle: Rle, x0: int, x1: int) -> Bools:
    """Pixels of the columns x0 to x1 (exclusive): bool (x1 - x0, H), one image column a row."""
    bounds = np.r_[0, np.cumsum(rle.counts, dtype=np.int64)].clip(x0 * rle.height, x1 * rle.height)
    foreground = np.arange(rle.counts.size) % 2 == 1
    return np.repeat(foreground, np.diff(bounds)).reshape(x1 - x0, rle.height)


def _pixels_below(rle: Rle, positions: Ints) -> Ints:
    """For each pixel number, how many foreground pixels of the mask come before it."""
    bounds = np.r_[0, np.cumsum(rle.counts, dtype=np.int64)]
    foreground = rle.counts.astype(np.int64)
    foreground[0::2] = 0
    # Linear between the bounds with a slope of exactly 0 or 1, so floating point loses nothing below 2**53.
    return np.interp(positions, bounds, np.r_[0, np.cumsum(foreground)]).astype(np.int64)


def _shortest(counts: Ints) -> Ints:
    """The same mask without empty runs, except a first one."""
    if counts[1:].all():
        return counts
    ends, foreground = np.cumsum(counts), np.arange(counts.size) % 2 == 1
    solid = counts > 0
    ends, foreground = ends[solid], foreground[solid]
    lengths = np.diff(ends[np.r_[foreground[1:] != foreground[:-1], True]], prepend=0)
    return np.r_[0, lengths] if foreground[0] else lengths


def _nearest(old: int, new: int) -> Ints:
    """For each of `new` pixels, the one of `old` pixels under its centre."""
    return (2 * np.arange(new, dtype=np.int64) + 1) * old // (2 * new)


def _areas(masks: Sequence[Rle]) -> Ints:
    return np.array([rle.area for rle in masks], np.int64)


def _share(part: Ints, whole: Ints) -> Floats:
    """The quotient, 0 where both are 0."""
    share: Floats = part / np.maximum(whole, 1)
    return share


def _letters(text: str | bytes) -> Ints:
    """The six-bit values of compressed run-lengths."""
    raw = text.encode("utf-8") if isinstance(text, str) else text
    letters = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    wrong = np.flatnonzero((letters < 0) | (letters > 63))
    if wrong.size:
        position = int(wrong[0])
        raise MaskError(f"compressed run-lengths hold the byte {raw[position : position + 1]!r} at {position}")
    return letters


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise MaskError(f"a mask needs at least one pixel, not {height} x {width}")
    if height * width > _MAX_PIXELS:
        raise MaskError(f"a mask of {height} x {width} has more pixels than a 32-bit run can hold")


def _checked_counts(counts: Any, height: int, width: int) -> Ints:
    runs = np.asarray(counts)
    if runs.ndim != 1 or not np.issubdtype(runs.dtype, np.integer):
        raise MaskError(f"run-lengths are a flat list of whole numbers, not {runs.dtype} {runs.shape}")
    pixels = height * width
    wrong = np.flatnonzero((runs < 0) | (runs > pixels))
    if wrong.size:
        raise MaskError(f"run {wrong[0]} of {height} x {width} pixels cannot be {runs[wrong[0]]} long")
    total = int(runs.sum(dtype=np.int64))
    if total != pixels:
        raise MaskError(f"the runs hold {total} pixels, {height} x {width} has {pixels}")
    return runs.astype(np.int64)


def _check_same_size(masks: Sequence[Rle]) -> None:
    sizes = {rle.size for rle in masks}
    if len(sizes) > 1:
        raise MaskError(f"masks of different sizes: {' and '.join(f'{h} x {w}' for h, w in sorted(sizes))}")
