"""Image files of any mode, decoded once to 8-bit RGB.

What becomes of a file, so that two people who read it get the same pixels:

- EXIF orientation is applied, whichever format carries it. Colour profiles are ignored.
- Grey, palette, 1-bit, CMYK, YCbCr, HSV and LAB pictures are converted to RGB.
- Alpha, and a palette entry or a colour marked as transparent, is composited on white: the colour stored under a
  transparent pixel is arbitrary, mostly black, and would look like a defect.
- Grey of more than 8 bits is divided by its full scale, the smallest of 2^8, 2^10, 2^12, 2^14 and 2^16 minus 1 that
  holds the brightest pixel, because 10- to 14-bit cameras write 16-bit files that would otherwise be black.
  A file that uses all 16 bits is thus divided by 257. Floats that stay within [0, 1] have full scale 1, values beyond
  16 bits their own maximum. What is negative, infinite or not a number counts as 0.
- Colour of 16 bits per channel keeps its high byte.
- Of several frames the first counts; `Image.frames` says how many there were.
"""

import hashlib
import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ExifTags, UnidentifiedImageError

from saa_core.errors import ImageError

MAX_PIXELS = 178_956_970
"""Most pixels of one image: 512 MiB of RGB, the size at which Pillow speaks of a decompression bomb."""

# Named, because Pillow would otherwise try all it knows, PostScript through an external interpreter among them.
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "JPEG2000", "PPM", "GIF")
_SIGNATURES = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG",
    b"II*\0",  # TIFF, little and big endian
    b"MM\0*",
    b"BM",
    b"RIFF",  # WebP
    b"\0\0\0\x0cjP",  # JPEG 2000
    b"GIF8",
    *(b"P%d" % kind for kind in range(1, 7)),  # PPM and its relatives
)

_DEEP_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_FULL_SCALES = (255.0, 1023.0, 4095.0, 16383.0, 65535.0)

# Where a file that is no TIFF may say how it is turned: EXIF as each format spells it, or XMP.
_METADATA = (b"Exif", b"eXIf", b"EXIF", b"exif", b"Orientation")

# EXIF 2.3, tag 0x0112: orientation -> transpose first, then flip (rows, columns).
_ORIENTATIONS = {
    2: (False, (1, -1)),
    3: (False, (-1, -1)),
    4: (False, (-1, 1)),
    5: (True, (1, 1)),
    6: (True, (1, -1)),
    7: (True, (-1, -1)),
    8: (True, (-1, 1)),
}


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """One decoded image.

    Attributes:
        name: What the user calls the file: a path or URL.
        key: SHA-256 of the file's bytes, 64 hexadecimal digits. Files of the same bytes are the same image.
        pixels: (height, width, 3) uint8 RGB in [0, 255], C-contiguous, read-only, upright.
        frames: Number of frames in the file, of which this is the first.
    """

    name: str
    key: str
    pixels: NDArray[np.uint8]
    frames: int = 1

    @property
    def height(self) -> int:
        """Rows of the upright image."""
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        """Columns of the upright image."""
        return self.pixels.shape[1]


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image:
    """Read and decode a local image file; the name of the image is the path as given.

    Raises:
        ImageError: The file cannot be read or cannot be used.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(str(path), f"cannot be read: {error.strerror}") from error
    return load_image(data, str(path), max_pixels)


def load_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode the bytes of an image file; see the module's text for what becomes of each kind.

    Args:
        data: The whole file.
        name: What the user calls it, for `Image.name` and for errors.
        max_pixels: Most pixels to accept, judged by the header before anything is decoded.

    Raises:
        ImageError: Empty, not an image, truncated or damaged, of 0 or too many pixels, of an unsupported mode.
    """
    if not data:
        raise ImageError(name, "empty file")
    try:
        with _no_pillow_warnings():
            pixels, frames = _decode(data, max_pixels)
    except Exception as error:  # a damaged file can make a decoder raise almost anything
        raise ImageError(name, _reason(error, data, max_pixels)) from error
    pixels.setflags(write=False)
    return Image(name, hashlib.sha256(data).hexdigest(), pixels, frames)


def upright_format(data: bytes) -> str | None:
    """Pillow's name of a file's format; None when it is no image, or is turned or mirrored by its own metadata.

    Nothing is decoded unless the file has metadata that may turn it.

    Args:
        data: The whole file.
    """
    try:
        with _no_pillow_warnings(), PIL.Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            # To ask a PNG without metadata decodes it whole.
            may_turn = picture.format == "TIFF" or any(mark in data for mark in _METADATA)
            return None if may_turn and _orientation(picture) in _ORIENTATIONS else picture.format
    except Exception:  # a damaged file can make a decoder raise almost anything
        return None


def _decode(data: bytes, max_pixels: int) -> tuple[NDArray[np.uint8], int]:
    with PIL.Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
        if picture.width * picture.height > max_pixels:
            raise PIL.Image.DecompressionBombError
        frames: int = getattr(picture, "n_frames", 1)
        picture.load()
        # Only now: a PNG may carry its orientation after the pixels, a TIFF is turned (and its tag dropped) on loading.
        return _upright(_rgb(picture), _orientation(picture)), frames


def _rgb(picture: PIL.Image.Image) -> NDArray[np.uint8]:
    if picture.mode in _DEEP_GREY:
        return np.repeat(_eight_bit(np.asarray(picture))[..., None], 3, axis=2)
    if picture.has_transparency_data:
        picture = _on_white(picture.convert("RGBA"))
    return np.asarray(picture.convert("RGB"))


def _on_white(picture: PIL.Image.Image) -> PIL.Image.Image:
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", picture.size, "white"), picture)


def _eight_bit(values: NDArray[np.integer | np.floating]) -> NDArray[np.uint8]:
    """Grey values (H, W) of any depth, divided by their full scale, to [0, 255]."""
    tame = np.where(np.isfinite(values) & (values > 0), values, 0).astype(np.float64)
    top = tame.max()
    scales = (1.0, *_FULL_SCALES) if np.issubdtype(values.dtype, np.floating) else _FULL_SCALES
    full = next((scale for scale in scales if top <= scale), top)
    return np.rint(tame * (255 / full)).astype(np.uint8)


def _orientation(picture: PIL.Image.Image) -> int:
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # unreadable metadata leaves a readable picture
        return 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    transpose, (rows, columns) = _ORIENTATIONS.get(orientation, (False, (1, 1)))
    turned = pixels.swapaxes(0, 1) if transpose else pixels
    return np.ascontiguousarray(turned[::rows, ::columns])


def _reason(error: Exception, data: bytes, max_pixels: int) -> str:
    if isinstance(error, PIL.Image.DecompressionBombError):
        return f"more than {max_pixels} pixels, a decompression bomb?"
    if not isinstance(error, UnidentifiedImageError):
        return f"truncated or damaged: {error or type(error).__name__}"
    if data.startswith(_SIGNATURES):
        return "unusable header: damaged, of 0 pixels, or of an unsupported mode"
    return f"not an image of a known format ({', '.join(_FORMATS)})"


_warnings_lock = threading.Lock()


@contextmanager
def _no_pillow_warnings() -> Iterator[None]:
    """Pillow warns of odd metadata and large sizes, which `load_image` judges itself.

    The filters that this sets aside belong to the whole process, hence the lock: decoding is one thread at a time.
    """
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
