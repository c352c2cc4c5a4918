import io
from collections.abc import Callable

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest

from integrations.pictures import as_png, is_same, shown_as
from saa_core.errors import ImageError
from saa_core.images import load_image

RGB = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8))
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def saved(picture: PIL.Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def oriented(value: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[0x0112] = value
    return exif


def with_text(keyword: str, text: str) -> bytes:
    """A PNG with compressed text, which may say how it is to be turned."""
    info = PIL.PngImagePlugin.PngInfo()
    info.add_itxt(keyword, text, zip=True)
    return saved(RGB, "PNG", pnginfo=info)


def deep_grey() -> bytes:
    """Grey of 10 bits in a file of 16, which browsers show as black."""
    return saved(PIL.Image.fromarray(np.arange(54, dtype=np.uint16).reshape(6, 9) * 18), "PNG")


@pytest.mark.parametrize(
    ("suffix", "data"),
    [
        (".jpg", lambda: saved(RGB, "JPEG")),
        (".jpg", lambda: saved(RGB.convert("L"), "JPEG")),
        (".jpg", lambda: saved(RGB, "JPEG", exif=oriented(6))),
        (".jpg", lambda: saved(RGB, "JPEG", xmp=XMP % 1)),
        (".png", lambda: saved(RGB, "PNG")),
        (".png", lambda: saved(RGB.convert("L"), "PNG")),
        (".png", lambda: saved(RGB.convert("1"), "PNG")),
        (".png", lambda: saved(RGB.quantize(8), "PNG")),
    ],
)
def test_what_a_browser_shows_as_we_decode_it(suffix: str, data: Callable[[], bytes]) -> None:
    assert shown_as(data()) == suffix


@pytest.mark.parametrize(
    "data",
    [
        lambda: saved(RGB, "TIFF"),
        lambda: saved(RGB, "PPM"),
        lambda: saved(RGB, "JPEG2000"),
        lambda: saved(RGB, "BMP"),
        lambda: saved(RGB, "WEBP", lossless=True),
        lambda: saved(RGB, "GIF"),
        lambda: saved(RGB.convert("RGBA"), "PNG"),
        lambda: saved(RGB.convert("LA"), "PNG"),
        lambda: saved(RGB, "PNG", transparency=(1, 2, 3)),
        lambda: saved(RGB, "PNG", save_all=True, append_images=[RGB.rotate(180)]),
        lambda: saved(RGB, "PNG", exif=oriented(6)),
        lambda: with_text("XML:com.adobe.xmp", (XMP % 6).decode()),
        lambda: saved(RGB, "JPEG", xmp=XMP % 6),
        deep_grey,
    ],
)
def test_everything_else_becomes_a_png_of_the_same_pixels(data: Callable[[], bytes]) -> None:
    content = data()
    assert shown_as(content) is None
    png = as_png(content, "x")
    assert shown_as(png) == ".png"
    assert np.array_equal(load_image(png, "x").pixels, load_image(content, "x").pixels)
    assert is_same(png, content)


def test_deep_grey_is_not_shown_black() -> None:
    assert load_image(as_png(deep_grey(), "x"), "x").pixels.max() > 200


def test_a_damaged_file_is_named() -> None:
    with pytest.raises(ImageError, match=r"^a\.tif: "):
        as_png(b"II*\0damaged", "a.tif")


def test_another_file_or_none_is_not_the_same() -> None:
    plain, converted = saved(RGB, "PNG"), saved(RGB, "TIFF")
    assert is_same(plain, plain)
    assert not is_same(saved(RGB, "PNG", compress_level=0), plain)
    assert not is_same(saved(RGB.rotate(180), "PNG"), converted)
    assert not is_same(b"<html>", converted)
    assert not is_same(b"", plain)


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + bytes(17)])
def test_the_beginning_of_a_file_is_not_shown(data: bytes) -> None:
    assert shown_as(data) is None
