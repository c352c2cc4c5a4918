"""What every way to show images in Label Studio must do, on the real server.

A test class inherits the suite and says how a source is made (`source`) and where its images lie (`gallery`).
"""

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import PIL.Image
import pytest

from integrations.label_studio.client import Client
from integrations.label_studio.images import ImageSource, PublishedImage
from saa_core.errors import ImageError, ServiceError
from saa_core.images import load_image
from tests.label_studio_server import Server

CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="mask" toName="image"><Label value="defect"/>'
    "</BrushLabels></View>"
)
AWKWARD = [
    "Größe 测试.png",
    "50% of #3.png",
    "a/../b.png",
    "a&b=c+d;e.png",
    "..hidden..png",
    'quote".png',
    f"{'long' * 50}.png",
]


def encoded(seed: int, kind: str = "PNG", size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    """A file of noise, `size` being width and height; no two seeds give the same."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@dataclass
class Gallery:
    """Image files, and the URI under which a source finds each."""

    folder: Path
    uri: Callable[[Path], str] = str

    def put(self, name: str, data: bytes) -> PublishedImage:
        path = self.folder / name.replace("/", "_")
        path.write_bytes(data)
        pixels = load_image(data, name).pixels
        return PublishedImage(hashlib.sha256(data).hexdigest(), name, self.uri(path), *pixels.shape[:2])

    def path(self, image: PublishedImage) -> Path:
        return self.folder / image.name.replace("/", "_")


class ImageSourceContract:
    @pytest.fixture
    def source(self) -> Callable[[], ImageSource]:
        """Makes a source for the project, as each push does."""
        raise NotImplementedError

    @pytest.fixture
    def gallery(self, tmp_path: Path) -> Gallery:
        folder = tmp_path / "gallery"
        folder.mkdir()
        return Gallery(folder)

    @pytest.fixture
    def client(self, label_studio: Server) -> Iterator[Client]:
        with Client(label_studio.url, label_studio.token) as client:
            yield client

    @pytest.fixture
    def project(self, client: Client) -> Iterator[int]:
        made = client.post("/api/projects/", {"title": "image source", "label_config": CONFIG})["id"]
        yield made
        client.delete(f"/api/projects/{made}/")

    def served(self, client: Client, project: int, url: str) -> httpx.Response:
        """What the expert's browser gets."""
        return client.fetch(url)

    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_what_the_browser_gets_is_the_file_to_the_byte(
        self, client: Client, project: int, source: Callable[[], ImageSource], gallery: Gallery, kind: str
    ) -> None:
        image = gallery.put(f"a.{kind.lower()}", encoded(1, kind))
        published = source().publish([image])
        assert published.refused == ()
        response = self.served(client, project, published.urls[image.key])
        assert hashlib.sha256(response.content).hexdigest() == image.key
        assert response.headers["Content-Type"] == f"image/{kind.lower()}"
        source().check(image, published.urls[image.key])

    def test_a_jpeg_that_the_browser_turns_by_itself_goes_as_it_is(
        self, client: Client, project: int, source: Callable[[], ImageSource], gallery: Gallery
    ) -> None:
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        image = gallery.put("turned.jpg", encoded(1, "JPEG", exif=exif))
        assert (image.height, image.width) == (40, 30)
        url = source().publish([image]).urls[image.key]
        assert hashlib.sha256(self.served(client, project, url).content).hexdigest() == image.key
        source().check(image, url)

    def test_a_second_push_writes_nothing_and_gives_the_same_urls(
        self, source: Callable[[], ImageSource], gallery: Gallery
    ) -> None:
        images = [gallery.put(f"{number}.png", encoded(number)) for number in range(3)]
        first = source().publish(images)
        again = source()
        assert again.publish(images) == first
        assert again.writes == 0

    def test_a_push_that_was_cut_short_adds_what_is_missing(
        self, source: Callable[[], ImageSource], gallery: Gallery
    ) -> None:
        images = [gallery.put(f"{number}.png", encoded(number)) for number in range(4)]
        first = source().publish(images[:3])
        assert source().publish(images).urls.items() > first.urls.items()

    def test_names_of_any_letters(
        self, client: Client, project: int, source: Callable[[], ImageSource], gallery: Gallery
    ) -> None:
        images = {name: gallery.put(name, encoded(number)) for number, name in enumerate(AWKWARD)}
        urls = source().publish(list(images.values())).urls
        served = {name: self.served(client, project, urls[image.key]).content for name, image in images.items()}
        assert served == {name: gallery.path(image).read_bytes() for name, image in images.items()}

    def test_what_vanished_or_changed_is_refused_and_the_others_go_on(
        self, source: Callable[[], ImageSource], gallery: Gallery
    ) -> None:
        kept, gone, changed = (gallery.put(f"{number}.png", encoded(number)) for number in range(3))
        gallery.path(gone).unlink()
        gallery.path(changed).write_bytes(encoded(9))
        published = source().publish([gone, kept, changed])
        assert list(published.urls) == [kept.key]
        assert [refused.name for refused in published.refused] == ["1.png", "2.png"]
        assert "cannot be read" in published.refused[0].reason
        assert "changed since" in published.refused[1].reason

    def test_the_check_sees_another_picture(self, source: Callable[[], ImageSource], gallery: Gallery) -> None:
        image, other = gallery.put("a.png", encoded(1)), gallery.put("b.png", encoded(2, size=(20, 10)))
        urls = source().publish([image, other]).urls
        with pytest.raises(ServiceError, match=r"serves something else|another size"):
            source().check(image, urls[other.key])

    def test_nothing_to_publish(self, source: Callable[[], ImageSource]) -> None:
        assert source().publish([]).urls == {}


class ConvertingContract(ImageSourceContract):
    """Sources that keep copies of their own can show files that browsers cannot."""

    def test_a_file_that_browsers_do_not_show_becomes_our_own_decode(
        self, client: Client, project: int, source: Callable[[], ImageSource], gallery: Gallery
    ) -> None:
        image = gallery.put("a.tif", encoded(1, "TIFF"))
        url = source().publish([image]).urls[image.key]
        response = self.served(client, project, url)
        assert response.headers["Content-Type"] == "image/png"
        expected = load_image(gallery.path(image).read_bytes(), "a.tif").pixels
        assert np.array_equal(load_image(response.content, "served").pixels, expected)
        source().check(image, url)
        again = source()
        assert again.publish([image]).urls[image.key] == url
        assert again.writes == 0

    def test_the_check_needs_our_own_copy(self, source: Callable[[], ImageSource], gallery: Gallery) -> None:
        image = gallery.put("a.png", encoded(1))
        url = source().publish([image]).urls[image.key]
        gallery.path(image).unlink()
        with pytest.raises(ImageError, match=r"a\.png: cannot be read"):
            source().check(image, url)
