"""Every mode that must work and every kind of file that must be refused, made here byte by byte."""

import hashlib
import io
import pickle
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import ExifTags, ImageFile

from saa_core.errors import ImageError, SaaError
from saa_core.images import MAX_PIXELS, load_image, read_image, upright_format

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def encode(picture: PIL.Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, rows: bytes = b"", *, bits: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pixels(data: bytes) -> np.ndarray:
    return load_image(data, "image").pixels


def grey_of(data: bytes) -> np.ndarray:
    """The one channel of a grey image; that all three are equal is checked on the way."""
    rgb = pixels(data)
    assert np.array_equal(rgb[..., 0], rgb[..., 1])
    assert np.array_equal(rgb[..., 0], rgb[..., 2])
    return rgb[..., 0]


class TestImage:
    def test_is_addressed_by_its_bytes_not_its_name(self) -> None:
        data = encode(PIL.Image.fromarray(RGB))
        one, other = load_image(data, "a.png"), load_image(data, "b.png")
        assert one.key == other.key == hashlib.sha256(data).hexdigest()
        assert (one.name, other.name) == ("a.png", "b.png")

    def test_has_read_only_contiguous_pixels_and_their_size(self) -> None:
        image = load_image(encode(PIL.Image.fromarray(RGB)), "a.png")
        assert (image.height, image.width, image.frames) == (5, 7, 1)
        assert image.pixels.dtype == np.uint8
        assert image.pixels.flags.c_contiguous
        assert not image.pixels.flags.writeable

    def test_is_read_from_a_path(self, tmp_path: Path) -> None:
        path = tmp_path / "with space ü.png"
        path.write_bytes(encode(PIL.Image.fromarray(RGB)))
        image = read_image(path)
        assert image.name == str(path)
        assert np.array_equal(image.pixels, RGB)


class TestModes:
    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
    def test_rgb(self, kind: str) -> None:
        assert np.array_equal(pixels(encode(PIL.Image.fromarray(RGB), kind)), RGB)

    @pytest.mark.parametrize("kind", ["WEBP", "JPEG2000"])
    def test_rgb_of_formats_with_a_lossless_switch(self, kind: str) -> None:
        options = {"lossless": True} if kind == "WEBP" else {"irreversible": False}
        assert np.array_equal(pixels(encode(PIL.Image.fromarray(RGB), kind, **options)), RGB)

    def test_jpeg(self) -> None:
        flat = PIL.Image.new("RGB", (16, 16), (200, 100, 50))
        assert np.abs(pixels(encode(flat, "JPEG", quality=95)).astype(int) - (200, 100, 50)).max() <= 3

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM", "GIF"])
    def test_grey(self, kind: str) -> None:
        assert np.array_equal(grey_of(encode(PIL.Image.fromarray(GREY), kind)), GREY)

    def test_one_bit(self) -> None:
        black_and_white = PIL.Image.fromarray(GREY > 127)
        assert black_and_white.mode == "1"
        assert np.array_equal(grey_of(encode(black_and_white)), np.where(GREY > 127, 255, 0))

    def test_palette(self) -> None:
        palette = PIL.Image.new("P", (2, 1))
        palette.putpalette([10, 20, 30, 40, 50, 60])
        palette.putdata([0, 1])
        assert pixels(encode(palette)).tolist() == [[[10, 20, 30], [40, 50, 60]]]

    @pytest.mark.parametrize("transparency", [1, b"\xff\x00"], ids=["one index", "alpha per entry"])
    def test_transparent_palette_entry_turns_white(self, transparency: int | bytes) -> None:
        palette = PIL.Image.new("P", (2, 1))
        palette.putpalette([10, 20, 30, 40, 50, 60])
        palette.putdata([0, 1])
        assert pixels(encode(palette, transparency=transparency)).tolist() == [[[10, 20, 30], [255, 255, 255]]]

    def test_alpha_is_composited_on_white(self) -> None:
        rgba = np.array([[[9, 9, 9, 255], [0, 0, 0, 0], [0, 100, 200, 51]]], dtype=np.uint8)
        expected = [[9, 9, 9], [255, 255, 255], [204, 224, 244]]  # 255 - 51 / 255 * (255 - c)
        assert pixels(encode(PIL.Image.fromarray(rgba)))[0].tolist() == expected

    def test_opaque_alpha_changes_nothing(self) -> None:
        opaque = PIL.Image.fromarray(RGB)
        opaque.putalpha(255)
        assert np.array_equal(pixels(encode(opaque)), RGB)

    def test_grey_with_alpha(self) -> None:
        grey = PIL.Image.new("LA", (2, 1), (80, 255))
        grey.putpixel((1, 0), (0, 0))
        assert grey_of(encode(grey)).tolist() == [[80, 255]]

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_colour_that_is_marked_as_transparent(self, kind: str) -> None:
        rgb = PIL.Image.new("RGB", (2, 1), (0, 0, 0))
        rgb.putpixel((1, 0), (7, 8, 9))
        expected = [255, 255, 255] if kind == "PNG" else [0, 0, 0]  # TIFF knows no such mark
        assert pixels(encode(rgb, kind, transparency=(0, 0, 0)))[0].tolist() == [expected, [7, 8, 9]]

    def test_cmyk(self) -> None:
        cmyk = PIL.Image.new("CMYK", (4, 4), (255, 0, 0, 0))
        assert pixels(encode(cmyk, "TIFF"))[0, 0].tolist() == [0, 255, 255]

    def test_cmyk_jpeg_whose_inks_are_stored_inverted(self) -> None:
        white = pixels(encode(PIL.Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"))
        black = pixels(encode(PIL.Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG"))
        assert white.min() >= 250
        assert black.max() <= 5

    def test_lab(self) -> None:
        white = pixels(encode(PIL.Image.new("LAB", (2, 2), (255, 128, 128)), "TIFF"))
        assert white.min() >= 250

    def test_several_frames_give_the_first_and_their_number(self) -> None:
        frames = [PIL.Image.new("L", (3, 2), value) for value in (10, 20, 30)]
        image = load_image(encode(frames[0], "TIFF", save_all=True, append_images=frames[1:]), "stack.tif")
        assert image.frames == 3
        assert np.unique(image.pixels).tolist() == [10]

    def test_animation_gives_its_first_frame(self) -> None:
        frames = [PIL.Image.new("L", (3, 2), value) for value in (10, 20)]
        image = load_image(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), "a.gif")
        assert image.frames == 2
        assert np.unique(image.pixels).tolist() == [10]


class TestDeepGrey:
    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
    def test_sixteen_bits_are_divided_by_257(self, kind: str) -> None:
        values = np.array([[0, 128, 129, 257, 32767, 32768, 65535]], dtype=np.uint16)
        assert grey_of(encode(PIL.Image.fromarray(values), kind)).tolist() == [[0, 0, 1, 1, 127, 128, 255]]

    @pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
    def test_full_scale_is_the_depth_that_holds_the_brightest_pixel(self, bits: int) -> None:
        full = 2**bits - 1
        values = np.array([[0, full // 2, full]], dtype=np.uint16)
        assert grey_of(encode(PIL.Image.fromarray(values))).tolist() == [[0, round(255 * (full // 2) / full), 255]]

    def test_big_endian_tiff(self) -> None:
        big = PIL.Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 257, 65535))
        assert grey_of(encode(big, "TIFF")).tolist() == [[1, 255]]

    def test_integers_beyond_sixteen_bits_have_their_maximum_as_scale(self) -> None:
        values = np.array([[-5, 0, 500_000, 1_000_000]], dtype=np.int32)
        assert grey_of(encode(PIL.Image.fromarray(values), "TIFF")).tolist() == [[0, 0, 128, 255]]

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([0.0, 0.5, 1.0], [0, 128, 255]),
            ([0.0, 2.0, 255.0], [0, 2, 255]),
            ([-1.0, 0.0, 1e6], [0, 0, 255]),
            ([np.nan, -np.inf, 1.0], [0, 0, 255]),
            ([np.inf, 0.0, 51.0], [0, 0, 51]),
            ([0.0, 0.0, 0.0], [0, 0, 0]),
        ],
    )
    def test_floats(self, values: list[float], expected: list[int]) -> None:
        picture = PIL.Image.fromarray(np.array([values], dtype=np.float32))
        assert grey_of(encode(picture, "TIFF")).tolist() == [expected]

    def test_sixteen_bit_colour_keeps_its_high_byte(self) -> None:
        row = b"\0" + struct.pack(">HHH", 0x1234, 0xFF00, 0x00FF)
        assert pixels(png(1, 1, row, bits=16)).tolist() == [[[0x12, 0xFF, 0x00]]]


# What a viewer must do for each value of EXIF tag 0x0112 (EXIF 2.3, table 6), in Pillow's words.
TO_UPRIGHT = {
    1: None,
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
FROM_UPRIGHT = {
    **TO_UPRIGHT,
    6: PIL.Image.Transpose.ROTATE_90,
    8: PIL.Image.Transpose.ROTATE_270,
}


def stored(upright: np.ndarray, orientation: int, kind: str) -> bytes:
    """A file that holds the picture as a turned camera does: other pixels, and the tag that says so."""
    picture = PIL.Image.fromarray(upright)
    turn = FROM_UPRIGHT[orientation]
    exif = PIL.Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encode(picture if turn is None else picture.transpose(turn), kind, exif=exif)


class TestOrientation:
    @given(
        upright=st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(lambda size: arrays(np.uint8, (*size, 3))),
        orientation=st.sampled_from(sorted(TO_UPRIGHT)),
        kind=st.sampled_from(["PNG", "TIFF"]),
    )
    def test_pixels_come_out_upright(self, upright: np.ndarray, orientation: int, kind: str) -> None:
        image = load_image(stored(upright, orientation, kind), "camera")
        assert np.array_equal(image.pixels, upright)
        assert image.pixels.flags.c_contiguous

    @pytest.mark.parametrize("orientation", sorted(TO_UPRIGHT))
    def test_jpeg_of_a_turned_camera(self, orientation: int) -> None:
        upright = np.zeros((16, 32, 3), dtype=np.uint8)
        upright[:8, :8] = 255
        difference = pixels(stored(upright, orientation, "JPEG")).astype(int) - upright
        assert np.abs(difference).max() < 20

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
    @pytest.mark.parametrize("orientation", sorted(TO_UPRIGHT))
    def test_what_its_metadata_turn_has_no_upright_format(self, orientation: int, kind: str) -> None:
        data = stored(np.zeros((2, 3, 3), np.uint8), orientation, kind)
        assert upright_format(data) == (kind if orientation == 1 else None)

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_value_without_a_meaning_is_passed_over(self, orientation: int) -> None:
        exif = PIL.Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        assert np.array_equal(pixels(encode(PIL.Image.fromarray(RGB), exif=exif)), RGB)
        assert upright_format(encode(PIL.Image.fromarray(RGB), exif=exif)) == "PNG"

    @pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
    def test_what_is_no_image_has_no_upright_format(self, data: bytes) -> None:
        assert upright_format(data) is None

    @pytest.mark.parametrize(
        "exif", [b"garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01"]
    )
    def test_unreadable_exif_leaves_a_readable_picture(self, exif: bytes) -> None:
        assert np.array_equal(pixels(png(1, 1, b"\0abc", extra=chunk(b"eXIf", exif))), [[list(b"abc")]])

    def test_exif_after_the_pixels_counts(self) -> None:
        exif = PIL.Image.Exif()
        exif[ExifTags.Base.Orientation] = 2
        early = encode(PIL.Image.fromarray(RGB), exif=exif)
        end = early.index(b"eXIf") - 4
        size = struct.unpack(">I", early[end : end + 4])[0] + 12
        late = early[:end] + early[end + size : -12] + early[end : end + size] + early[-12:]
        assert late.index(b"eXIf") > late.index(b"IDAT")
        assert np.array_equal(pixels(late), RGB[:, ::-1])


def jpeg_of_no_size(offset: int) -> bytes:
    """A JPEG whose frame header says 0 rows (offset 5) or 0 columns (offset 7)."""
    data = encode(PIL.Image.fromarray(RGB), "JPEG")
    at = data.index(b"\xff\xc0") + offset
    return data[:at] + b"\0\0" + data[at + 2 :]


def tiff_of_64_bits() -> bytes:
    """A TIFF of one float64 sample per pixel, which no Pillow mode can hold."""
    tags = [(256, 3, 1), (257, 3, 1), (258, 3, 64), (259, 3, 1), (262, 3, 1), (273, 4, 8), (279, 4, 8), (339, 3, 3)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 16) + struct.pack("<d", 0.5) + struct.pack("<H", len(tags)) + entries + bytes(4)


# Incompressible, so that a file of it can be cut in the middle of the pixels.
NOISE = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)


class TestBadFiles:
    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            pytest.param(b"", "empty file", id="zero bytes"),
            pytest.param(b"hello, this is a text file\n", "not an image", id="text"),
            pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image", id="PostScript"),
            pytest.param(b"\0" * 4096, "not an image", id="zeros"),
            pytest.param(png(0, 5), "0 pixels", id="0 x 5 PNG"),
            pytest.param(png(5, 0), "0 pixels", id="5 x 0 PNG"),
            pytest.param(jpeg_of_no_size(5), "0 pixels", id="JPEG without rows"),
            pytest.param(jpeg_of_no_size(7), "0 pixels", id="JPEG without columns"),
            pytest.param(b"P6 0 5 255\n", "0 pixels", id="0 x 5 PPM"),
            pytest.param(png(60_000, 60_000), "decompression bomb", id="bomb"),
            pytest.param(tiff_of_64_bits(), "unsupported mode", id="64-bit TIFF"),
            pytest.param(png(2, 2), "truncated", id="PNG without pixels"),
            pytest.param(encode(PIL.Image.fromarray(NOISE))[:-2000], "truncated", id="truncated PNG"),
            pytest.param(encode(PIL.Image.fromarray(NOISE), "JPEG")[:-500], "truncated", id="truncated JPEG"),
            pytest.param(encode(PIL.Image.fromarray(NOISE), "JPEG")[:40], "truncated", id="JPEG cut in its header"),
            pytest.param(encode(PIL.Image.fromarray(NOISE), "TIFF")[:-500], "damaged", id="truncated TIFF"),
            pytest.param(encode(PIL.Image.fromarray(NOISE), "WEBP")[:-500], "damaged", id="truncated WebP"),
            pytest.param(encode(PIL.Image.fromarray(NOISE), "BMP")[:-500], "truncated", id="truncated BMP"),
        ],
    )
    def test_is_refused_by_name_and_reason(self, data: bytes, reason: str) -> None:
        with pytest.raises(ImageError) as caught:
            load_image(data, "bad.png")
        assert caught.value.name == "bad.png"
        assert reason in caught.value.reason
        assert "\n" not in caught.value.reason
        assert "0x" not in caught.value.reason  # no address of an object in memory

    @given(st.data())
    def test_damage_anywhere_is_an_image_error_or_an_image(self, draw: st.DataObject) -> None:
        kind = draw.draw(st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"]))
        data = bytearray(encode(PIL.Image.fromarray(NOISE), kind))
        for _ in range(draw.draw(st.integers(1, 4))):
            data[draw.draw(st.integers(0, min(400, len(data) - 1)))] = draw.draw(st.integers(0, 255))
        try:
            assert load_image(bytes(data), "damaged", max_pixels=10**6).pixels.shape[2] == 3
        except ImageError as error:
            assert error.reason  # noqa: PT017 - either outcome is right; what is wrong is any other exception

    def test_size_is_judged_before_anything_is_decoded(self) -> None:
        hundred_without_pixels = png(100, 100)
        with pytest.raises(ImageError, match="more than 9999 pixels"):
            load_image(hundred_without_pixels, "bomb", max_pixels=9999)
        with pytest.raises(ImageError, match="truncated"):
            load_image(hundred_without_pixels, "bomb", max_pixels=10_000)

    def test_size_between_pillows_warning_and_ours_is_no_warning(self) -> None:
        assert PIL.Image.MAX_IMAGE_PIXELS < 10_000 * 10_000 < MAX_PIXELS
        with pytest.raises(ImageError, match="truncated"):
            load_image(png(10_000, 10_000), "large")

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"gone\.png: cannot be read: No such file"):
            read_image(tmp_path / "gone.png")

    def test_folder_that_is_named_like_an_image(self, tmp_path: Path) -> None:
        """Unreadable for everyone; a file of mode 000 would be readable for root, as whom containers run."""
        folder = tmp_path / "folder.png"
        folder.mkdir()
        with pytest.raises(ImageError, match=r"folder\.png: cannot be read: Is a directory"):
            read_image(folder)

    def test_permission_denied(self, tmp_path: Path) -> None:
        path = tmp_path / "secret.png"
        path.write_bytes(encode(PIL.Image.fromarray(RGB)))
        path.chmod(0)
        if may_read(path):
            pytest.skip("this user reads files of mode 000 (root does)")
        with pytest.raises(ImageError, match=r"secret\.png: cannot be read: Permission denied"):
            read_image(path)

    def test_error_survives_a_process_boundary(self) -> None:
        error = pickle.loads(pickle.dumps(ImageError("a.png", "empty file")))
        assert isinstance(error, SaaError)
        assert (str(error), error.name, error.reason) == ("a.png: empty file", "a.png", "empty file")


def may_read(path: Path) -> bool:
    try:
        path.read_bytes()
    except PermissionError:
        return False
    return True


class TestGlobalState:
    def test_of_pillow_and_of_warnings_is_left_alone(self) -> None:
        before = (PIL.Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
        pixels(encode(PIL.Image.fromarray(RGB)))
        with pytest.raises(ImageError):
            pixels(png(60_000, 60_000))
        assert (PIL.Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before

    def test_of_warnings_is_left_alone_by_many_threads(self) -> None:
        before = list(warnings.filters)
        data = encode(PIL.Image.fromarray(NOISE))
        threads = [threading.Thread(target=lambda: [pixels(data) for _ in range(50)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert list(warnings.filters) == before

    def test_odd_metadata_warns_nobody(self) -> None:
        """Pillow warns of a TIFF tag whose data lies beyond the end; the suite turns warnings into errors."""
        tiff = encode(PIL.Image.fromarray(RGB), "TIFF", software="x" * 40)
        at = tiff.index(struct.pack("<HHI", 305, 2, 41)) + 8
        broken = tiff[:at] + struct.pack("<I", len(tiff) + 999) + tiff[at + 4 :]
        with pytest.warns(UserWarning, match="Truncated File Read"), PIL.Image.open(io.BytesIO(broken)):
            pass
        assert np.array_equal(pixels(broken), RGB)
