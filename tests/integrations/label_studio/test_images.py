import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import fsspec
import httpx
import pytest

from integrations.image_sets import read_bytes
from integrations.label_studio.client import Client
from integrations.label_studio.images import ByUrl, ImageSource, LocalFiles, Published, Upload, image_source
from saa_core.errors import AnswerLostError, ServiceError, SettingsError, StoreError
from saa_core.types import ImageRef
from tests.contracts.image_source import ConvertingContract, Gallery, ImageSourceContract, encoded
from tests.label_studio_server import Server

# --------------------------------------------------------------------------------------------------------- local files


class TestLocalFiles(ConvertingContract):
    @pytest.fixture
    def source(self, client: Client, project: int, label_studio: Server) -> Callable[[], LocalFiles]:
        return lambda: LocalFiles(client, project, label_studio.files)

    def storages(self, client: Client, project: int) -> list[dict[str, object]]:
        found: list[dict[str, object]] = client.get("/api/storages/localfiles", {"project": project})
        return found

    def test_the_storage_is_registered_once(
        self, client: Client, project: int, source: Callable[[], LocalFiles], gallery: Gallery
    ) -> None:
        for number in range(2):
            source().publish([gallery.put(f"{number}.png", encoded(number))])
        assert len(self.storages(client, project)) == 1

    def test_a_storage_of_a_folder_above_will_do(
        self, client: Client, project: int, label_studio: Server, gallery: Gallery
    ) -> None:
        root = label_studio.files / "shared" / "deep"
        root.mkdir(parents=True, exist_ok=True)
        client.post("/api/storages/localfiles", {"project": project, "path": str(root.parent), "use_blob_urls": True})
        LocalFiles(client, project, root).publish([])
        assert [storage["path"] for storage in self.storages(client, project)] == [str(root.parent)]

    def test_syncing_the_storage_makes_no_tasks(
        self, client: Client, project: int, source: Callable[[], LocalFiles], gallery: Gallery
    ) -> None:
        source().publish([gallery.put("a.png", encoded(1))])
        (storage,) = self.storages(client, project)
        client.patch(f"/api/storages/localfiles/{storage['id']}", {**storage, "recursive_scan": True})
        client.post(f"/api/storages/localfiles/{storage['id']}/sync")
        assert client.get("/api/tasks/", {"project": project})["total"] == 0

    def test_no_second_copy_on_the_same_disk_and_no_remains(
        self, source: Callable[[], LocalFiles], gallery: Gallery, label_studio: Server
    ) -> None:
        image = gallery.put("a.png", encoded(104))
        published = source().publish([image])
        (file,) = files_of(label_studio, published)
        assert file.samefile(gallery.path(image))
        assert [path.name for path in file.parent.iterdir() if path.name.startswith(".")] == []

    def test_a_link_in_the_set_is_followed(self, source: Callable[[], LocalFiles], gallery: Gallery) -> None:
        image = gallery.put("a.png", encoded(105))
        target = gallery.path(image).with_name("target.png")
        gallery.path(image).rename(target)
        gallery.path(image).symlink_to(target)
        url = source().publish([image]).urls[image.key]
        source().check(image, url)

    def test_what_cannot_be_linked_is_copied(self, source: Callable[[], LocalFiles], gallery: Gallery) -> None:
        image = gallery.put("a.png", encoded(106))
        data = gallery.path(image).read_bytes()
        memory = fsspec.filesystem("memory")
        memory.pipe_file("/bucket/a.png", data)
        remote = type(image)(image.key, image.name, "memory://bucket/a.png", image.height, image.width)
        source().check(remote, source().publish([remote]).urls[image.key])
        memory.rm_file("/bucket/a.png")

    def test_a_file_that_was_changed_in_place_is_published_anew(
        self, source: Callable[[], LocalFiles], gallery: Gallery, label_studio: Server
    ) -> None:
        image = gallery.put("a.png", encoded(107))
        published = source().publish([image])
        (file,) = files_of(label_studio, published)
        data = file.read_bytes()
        gallery.path(image).write_bytes(b"changed")  # the same file by another name
        assert file.read_bytes() == b"changed"
        gallery.path(image).unlink()
        gallery.path(image).write_bytes(data)
        again = source()
        assert again.publish([image]) == published
        assert again.writes == 1
        again.check(image, published.urls[image.key])

    def test_another_document_root_is_named(
        self, client: Client, project: int, gallery: Gallery, tmp_path: Path
    ) -> None:
        elsewhere = LocalFiles(client, project, tmp_path / "elsewhere")
        with pytest.raises(ServiceError, match=r"LOCAL_FILES_DOCUMENT_ROOT=.*elsewhere.*label_studio_files") as caught:
            elsewhere.publish([gallery.put("a.png", encoded(1))])
        assert caught.value.status == 400
        assert not list((tmp_path / "elsewhere").rglob("*.png"))

    def test_a_server_that_lost_the_folder_is_told_apart(
        self, client: Client, project: int, source: Callable[[], LocalFiles], gallery: Gallery, label_studio: Server
    ) -> None:
        image = gallery.put("a.png", encoded(108))
        published = source().publish([image])
        (file,) = files_of(label_studio, published)
        file.unlink()
        with pytest.raises(ServiceError, match=r"does not serve a\.png \(404\).*LOCAL_FILES_DOCUMENT_ROOT") as caught:
            source().check(image, published.urls[image.key])
        assert caught.value.status == 404

    def test_a_server_that_is_down_is_not_taken_for_a_wrong_setting(self, gallery: Gallery, tmp_path: Path) -> None:
        def refuse(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("refused")

        with Client("http://127.0.0.1:1", "token", transport=httpx.MockTransport(refuse), sleep=lambda _: None) as down:
            source = LocalFiles(down, 1, tmp_path)
            with pytest.raises(ServiceError, match="no connection"):
                source.publish([])
            with pytest.raises(ServiceError, match="no connection"):
                source.check(gallery.put("a.png", encoded(1)), "/data/local-files/?d=x")

    def test_a_folder_that_cannot_be_written(
        self, source: Callable[[], LocalFiles], gallery: Gallery, label_studio: Server
    ) -> None:
        image = gallery.put("a.png", encoded(111))
        in_the_way = label_studio.files / "saa" / image.key[:2]
        source().publish([])
        in_the_way.write_text("")
        with pytest.raises(StoreError, match="cannot be written"):
            source().publish([image])
        in_the_way.unlink()

    @pytest.mark.skipif(sys.platform == "win32", reason="needs limits on file sizes")
    def test_a_full_disk_leaves_no_part(
        self, project: int, source: Callable[[], LocalFiles], gallery: Gallery, label_studio: Server
    ) -> None:
        image = gallery.put("a.tif", encoded(112, "TIFF"))
        arguments = [label_studio.url, str(project), str(label_studio.files), image.key, image.uri]
        done = subprocess.run(
            [sys.executable, "-c", PUBLISH_PAST_THE_LIMIT, *arguments],
            env=os.environ | {"TOKEN": label_studio.token},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "free some space" in done.stdout
        folder = label_studio.files / "saa" / image.key[:2]
        assert [path for path in folder.iterdir() if path.name.startswith((".", image.key))] == []
        source().check(image, source().publish([image]).urls[image.key])


PUBLISH_PAST_THE_LIMIT = """
import os, resource, sys
from pathlib import Path
from integrations.label_studio.client import Client
from integrations.label_studio.images import LocalFiles, PublishedImage
from saa_core.errors import StoreError
url, project, root, key, uri = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with Client(url, os.environ["TOKEN"]) as client:
    try:
        LocalFiles(client, int(project), Path(root)).publish([PublishedImage(key, "a.tif", uri, 30, 40)])
    except StoreError as error:
        print(error.reason)
"""


def files_of(server: Server, published: Published) -> list[Path]:
    return [server.files / url.removeprefix("/data/local-files/?d=") for url in published.urls.values()]


# -------------------------------------------------------------------------------------------------------------- upload


class TestUpload(ConvertingContract):
    @pytest.fixture
    def source(self, client: Client, project: int) -> Callable[[], Upload]:
        return lambda: Upload(client, project)

    def uploads(self, client: Client, project: int) -> list[str]:
        return [file["file"] for file in client.get(f"/api/projects/{project}/file-uploads", {"all": "true"})]

    def test_no_task_is_made(
        self, client: Client, project: int, source: Callable[[], Upload], gallery: Gallery
    ) -> None:
        source().publish([gallery.put("a.png", encoded(1))])
        assert client.get("/api/tasks/", {"project": project})["total"] == 0

    def test_more_files_than_the_server_takes_at_once(
        self, client: Client, project: int, source: Callable[[], Upload], gallery: Gallery
    ) -> None:
        images = [gallery.put(f"{number}.png", encoded(number, size=(4, 3))) for number in range(200)]
        upload = source()
        assert len(upload.publish(images).urls) == 200
        assert upload.writes == 3
        assert len(self.uploads(client, project)) == 200

    def test_more_bytes_than_one_request_shall_have(self, source: Callable[[], Upload], gallery: Gallery) -> None:
        images = [gallery.put(f"{number}.png", encoded(number, size=(1500, 1300))) for number in range(4)]
        assert 5_000_000 < gallery.path(images[0]).stat().st_size < 8_000_000
        upload = source()
        assert len(upload.publish(images).urls) == 4
        assert upload.writes == 2

    def test_an_upload_whose_answer_was_lost_is_not_sent_again(
        self, client: Client, project: int, label_studio: Server, source: Callable[[], Upload], gallery: Gallery
    ) -> None:
        images = [gallery.put(f"{number}.png", encoded(number)) for number in range(3)]
        with (
            Client(label_studio.url, label_studio.token, transport=LosesAnswersToWrites()) as deaf,
            pytest.raises(AnswerLostError),
        ):
            Upload(deaf, project).publish(images)
        again = source()
        assert len(again.publish(images).urls) == 3
        assert again.writes == 0
        assert len(self.uploads(client, project)) == 3

    def test_of_two_uploads_of_one_image_the_first_is_used(
        self, client: Client, project: int, source: Callable[[], Upload], gallery: Gallery
    ) -> None:
        image = gallery.put("a.png", encoded(1))
        url = source().publish([image]).urls[image.key]
        file = (f"{image.key}.png", gallery.path(image).read_bytes(), "image/png")
        client.post(f"/api/projects/{project}/import", params={"commit_to_project": "false"}, files={"x": file})
        assert len(self.uploads(client, project)) == 2
        assert source().publish([image]).urls[image.key] == url

    def test_uploads_of_other_people_and_programs_are_left_alone(
        self, client: Client, project: int, source: Callable[[], Upload], gallery: Gallery
    ) -> None:
        file = ("photo.png", encoded(2), "image/png")
        client.post(f"/api/projects/{project}/import", params={"commit_to_project": "false"}, files={"x": file})
        image = gallery.put("photo.png", encoded(1))
        source().check(image, source().publish([image]).urls[image.key])

    def test_what_the_server_lost_is_uploaded_again(
        self, source: Callable[[], Upload], gallery: Gallery, label_studio: Server
    ) -> None:
        image = gallery.put("a.png", encoded(1))
        stored_file(label_studio, source().publish([image]).urls[image.key]).unlink()
        again = source()
        again.check(image, again.publish([image]).urls[image.key])
        assert again.writes == 1

    def test_a_damaged_upload_is_seen(
        self, source: Callable[[], Upload], gallery: Gallery, label_studio: Server
    ) -> None:
        image = gallery.put("a.png", encoded(1))
        url = source().publish([image]).urls[image.key]
        stored_file(label_studio, url).write_bytes(b"damaged")
        with pytest.raises(ServiceError, match=r"serves something else than was uploaded for a\.png"):
            source().check(image, url)

    def test_a_server_that_stores_less_than_it_was_sent(self, gallery: Gallery) -> None:
        def forget(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, json=[] if request.method == "GET" else {"file_upload_ids": [1]})

        images = [gallery.put(f"{number}.png", encoded(number)) for number in range(2)]
        with Client("http://server", "token", transport=httpx.MockTransport(forget)) as client:
            with pytest.raises(ServiceError, match="stored 1 of 2"):
                Upload(client, 1).publish(images)
            with pytest.raises(ServiceError, match=r"took the upload of 0\.png and does not list it"):
                Upload(client, 1).publish(images[:1])


class LosesAnswersToWrites(httpx.HTTPTransport):
    """The server gets every request; its answers to writes never arrive."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if request.method == "GET":
            return response
        response.close()
        raise httpx.ReadError("connection reset", request=request)


def stored_file(server: Server, url: str) -> Path:
    return server.home.data / "media" / url.removeprefix("/data/")


# ---------------------------------------------------------------------------------------------------------------- URLs


class Host:
    """A web server of pictures on the loopback interface, which also plays a bucket of S3 (path-style requests)."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.allowed, self.tokens = folder, "*", list[str]()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.tokens += self.headers.get_all("Authorization", [])
                file = outer.folder / unquote(urlsplit(self.path).path).rpartition("/")[2]
                data = file.read_bytes() if file.is_file() else b""
                self.send_response(200 if data or self.command == "HEAD" else 404)
                kind = "image/jpeg" if file.suffix in (".jpg", ".jpeg") else "image/png"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                if outer.allowed:
                    self.send_header("Access-Control-Allow-Origin", outer.allowed)
                self.end_headers()
                self.wfile.write(data)

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:
                """Nothing on the terminal."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def read(self, ref: ImageRef) -> bytes:
        """The bytes of an image as an fsspec driver would read them."""
        name = unquote(ref.uri).rpartition("/")[2]
        return read_bytes(ImageRef(ref.key, str(self.folder / name), ref.names))


class UrlContract(ImageSourceContract):
    @pytest.fixture
    def host(self, tmp_path: Path) -> Iterator[Host]:
        folder = tmp_path / "host"
        folder.mkdir()
        host = Host(folder)
        yield host
        host.server.shutdown()
        host.server.server_close()

    @pytest.fixture
    def source(self, client: Client, project: int, host: Host) -> Callable[[], ByUrl]:
        return lambda: ByUrl(client, project, host.read)

    def test_files_that_browsers_do_not_show_are_refused_with_a_way_out(
        self, source: Callable[[], ByUrl], gallery: Gallery
    ) -> None:
        plain, tiff = gallery.put("a.png", encoded(1)), gallery.put("b.tif", encoded(2, "TIFF"))
        published = source().publish([tiff, plain])
        assert list(published.urls) == [plain.key]
        ((name, reason),) = [(refused.name, refused.reason) for refused in published.refused]
        assert name == "b.tif"
        assert "label_studio_images=upload" in reason

    def test_a_host_without_cors_is_told_apart(
        self, source: Callable[[], ByUrl], gallery: Gallery, host: Host, label_studio: Server
    ) -> None:
        image = gallery.put("a.png", encoded(1))
        url = source().publish([image]).urls[image.key]
        host.allowed = ""
        with pytest.raises(ServiceError, match=r"Access-Control-Allow-Origin: http://127.*CORS"):
            source().check(image, url)
        host.allowed = "https://another.example"
        with pytest.raises(ServiceError, match="CORS"):
            source().check(image, url)
        host.allowed = label_studio.url
        source().check(image, url)

    def test_the_token_stays_with_the_server(
        self, source: Callable[[], ByUrl], gallery: Gallery, host: Host, label_studio: Server
    ) -> None:
        image = gallery.put("a.png", encoded(1))
        source().check(image, source().publish([image]).urls[image.key])
        assert label_studio.token not in str(host.tokens)

    def test_what_is_no_image_any_more(self, source: Callable[[], ByUrl], gallery: Gallery) -> None:
        image = gallery.put("a.png", encoded(1))
        url = source().publish([image]).urls[image.key]
        gallery.path(image).write_bytes(b"<html>please log in</html>")
        with pytest.raises(ServiceError, match="something else than an image"):
            source().check(image, url)


class TestHttp(UrlContract):
    @pytest.fixture
    def gallery(self, host: Host) -> Gallery:
        return Gallery(host.folder, lambda path: f"{host.url}/pictures/{quote(path.name)}")

    def test_a_missing_picture_is_named_with_its_url(self, source: Callable[[], ByUrl], gallery: Gallery) -> None:
        image = gallery.put("a.png", encoded(1))
        gallery.path(image).unlink()
        with pytest.raises(ServiceError, match=r"/pictures/.*404"):
            source().check(image, image.uri)

    def test_http_pictures_on_an_https_page_are_blocked_by_browsers(self, gallery: Gallery) -> None:
        image = gallery.put("a.png", encoded(1))
        answer = httpx.Response(200, content=encoded(1), headers={"Access-Control-Allow-Origin": "*"})
        transport = httpx.MockTransport(lambda request: answer)
        with (
            Client("https://server.example", "token", transport=transport) as client,
            pytest.raises(ServiceError, match="browsers block http images"),
        ):
            ByUrl(client, 1).check(image, image.uri)


class TestBucket(UrlContract):
    """The bucket is a double; storage, signed URL and redirect are the real server's."""

    @pytest.fixture
    def gallery(self, host: Host) -> Gallery:
        return Gallery(host.folder, lambda path: f"s3://pictures/lot 7/größe/{path.name}")

    @pytest.fixture(autouse=True)
    def storage(self, client: Client, project: int, host: Host) -> None:
        storage = {"project": project, "bucket": "pictures", "use_blob_urls": True, "presign": True}
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "y", "region_name": "us-east-1"}
        client.post("/api/storages/s3", {**storage, **keys, "s3_endpoint": host.url})

    def served(self, client: Client, project: int, url: str) -> httpx.Response:
        """The editor gets a task's data with an address of the server in place of the bucket's."""
        imported = client.post(f"/api/projects/{project}/import", [{"image": url}], {"return_task_ids": "true"})
        return client.fetch(client.get(f"/api/tasks/{imported['task_ids'][0]}/")["data"]["image"])

    def test_names_that_the_server_cuts_short(self, source: Callable[[], ByUrl], gallery: Gallery) -> None:
        published = source().publish([gallery.put("what?.png", encoded(1))])
        assert published.urls == {}
        assert "rename" in published.refused[0].reason

    def test_a_bucket_without_storage(self, source: Callable[[], ByUrl], gallery: Gallery, project: int) -> None:
        image = gallery.put("a.png", encoded(1))
        with pytest.raises(ServiceError, match=rf"project {project} has no import storage.*add one for s3://other "):
            source().check(image, "s3://other/a.png")

    def test_a_storage_that_does_not_give_the_file(self, source: Callable[[], ByUrl], gallery: Gallery) -> None:
        image = gallery.put("a.png", encoded(1))
        gallery.path(image).unlink()
        with pytest.raises(ServiceError, match=r"storage \d+ of the project does not give s3://pictures/.* \(404\)"):
            source().check(image, image.uri)


# ------------------------------------------------------------------------------------------------------------- setting


def test_each_setting_has_its_source(tmp_path: Path) -> None:
    def kind(mode: str, files: Path | None = None) -> type[ImageSource]:
        with Client("http://server", "token") as client:
            return type(image_source(mode, client, 1, files))  # type: ignore[arg-type]

    assert kind("upload") is Upload
    assert kind("url") is ByUrl
    assert kind("local-files", tmp_path) is LocalFiles
    with pytest.raises(SettingsError, match=r"label_studio_files: .*LOCAL_FILES_DOCUMENT_ROOT"):
        kind("local-files")


def test_a_local_file_has_no_url(tmp_path: Path) -> None:
    image = Gallery(tmp_path).put("a.png", encoded(1))
    assert hashlib.sha256(Path(image.uri).read_bytes()).hexdigest() == image.key
    with Client("http://server", "token") as client:
        published = ByUrl(client, 1).publish([image])
    assert published.urls == {}
    assert "has no URL" in published.refused[0].reason
