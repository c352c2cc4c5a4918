"""What nobody from outside can make the product do: reach it, leave its folders, run code, fill memory, see secrets."""

from __future__ import annotations

import ast
import inspect
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import httpx
import numpy as np
import pytest
from PIL import Image

from flows.cli.serve import serve
from integrations.blobs import BlobStore
from integrations.candidate_store import CandidateStore
from integrations.catalog import Catalog
from integrations.daemons import Program
from integrations.fiftyone import app as fiftyone_app
from integrations.fiftyone import mongod
from integrations.formats.names import image_stems, label_folders, leads_out
from integrations.image_sets import scan
from integrations.label_studio import server as label_studio
from integrations.label_studio.client import Client
from integrations.label_studio.images import Upload
from integrations.label_studio.payload import read_answer
from integrations.mask_reviews import read_masks
from integrations.outputs import RunFolder
from integrations.prefect_server import server_in
from integrations.refinery import report_folder
from integrations.settings import Settings
from saa_core import library
from saa_core.errors import BundleError, DatasetError, ImageError, ReviewError, SaaError, ServiceError, StoreError
from saa_core.images import load_image
from saa_core.models import build
from tests.echo import Echo
from tests.labelled_set import SIZE, LabelledSet, picture
from tests.plates import PRODUCT

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("saa_core", "integrations", "tasks", "flows")


# ------------------------------------------------------------------------------------------------------------ listeners


def launched(process: subprocess.Popen[bytes]) -> list[str]:
    """The command of a server that was started, which is ended at once."""
    process.kill()
    process.wait()
    return [str(word) for word in process.args]  # type: ignore[union-attr]


def after(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def test_the_servers_that_saa_starts_listen_on_loopback_and_are_told_no_secret(tmp_path: Path) -> None:
    sleeper = tmp_path / "server"
    sleeper.write_text("#!/bin/sh\nsleep 60\n")
    sleeper.chmod(0o700)
    home = label_studio.Home(tmp_path / "label-studio")
    prefect = server_in(tmp_path)
    studio = launched(label_studio.launch(sleeper, home, 8080))
    database = launched(mongod.launch(sleeper, tmp_path / "mongod", 27117))
    pages = launched(fiftyone_app.launch(tmp_path / "app", 5161, {}))
    api = launched(prefect.launch(Program(sleeper, "0"), 4300, []))
    assert after(studio, "--internal-host") == "127.0.0.1"
    assert after(database, "--bind_ip") == "127.0.0.1"
    assert "--nounixsocket" in database
    assert after(pages, "--address") == after(api, "--host") == "127.0.0.1"
    secrets = [home.token().get_secret_value(), home.password().get_secret_value()]
    assert not any(secret in word for secret in secrets for word in (*studio, *database, *pages, *api))
    for folder in (home.folder, tmp_path / "mongod", tmp_path / "app", prefect.place.folder):
        assert folder.stat().st_mode & 0o077 == 0


def test_the_service_listens_on_loopback_unless_it_is_told_otherwise() -> None:
    assert inspect.signature(serve).parameters["host"].default == "127.0.0.1"


def test_no_other_address_is_written_down() -> None:
    """Whatever listens is named where it is started; "anywhere" stands in no other place than the check for it."""
    found = {
        path.relative_to(ROOT).as_posix()
        for path, _ in sources()
        if re.search(r"0\.0\.0\.0|\"::\"", path.read_text("utf-8"))
    }
    assert found <= {"flows/cli/serve.py"}


def test_another_address_wants_the_secret(tmp_path: Path) -> None:
    code = "import sys; from flows.cli import main; sys.argv[0:1] = ['saa', 'serve']; main()"
    words = ["--host", "0.0.0.0", "--port", "0", "--workspace", str(tmp_path / "w"), "--json"]
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as service:
        try:
            assert service.stdout is not None
            said = "".join(service.stdout.readline() for _ in range(3))
            url = f"http://127.0.0.1:{json.loads(said)['url'].rpartition(':')[2]}"
            secret = (tmp_path / "w" / "secrets" / "webhook").read_text().strip()
            bearer = {"Authorization": f"Bearer {secret}"}
            assert httpx.get(f"{url}/metrics").status_code == 401
            assert httpx.post(f"{url}/label-studio/cap").status_code == 401
            assert httpx.get(f"{url}/metrics", headers=bearer).status_code == 200
            assert httpx.get(f"{url}/health").text == "up\n"
            assert secret not in said
        finally:
            service.kill()


# ---------------------------------------------------------------------------------------------------------------- paths

OUTSIDE = ("../up.png", "a/../../up.png", "/etc/up.png", "..\\up.png", "a/..")


def test_names_in_a_bucket_that_lead_out_are_no_images() -> None:
    bucket = fsspec.filesystem("memory")
    try:
        for name in ("good.png", "a/../../../up.png", "../up.png"):
            bucket.store[f"/set/{name}"] = bucket.open("/set/good.png", "wb")
        bucket.pipe_file("/set/good.png", picture(0))
        assert [ref.names for ref in scan("memory://set").refs] == [("good.png",)]
    finally:
        bucket.store.clear()


def test_a_list_that_leads_out_makes_names_that_do_not(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "up.png").write_bytes(picture(0))
    (inner / "in.png").write_bytes(picture(1))
    (inner / "list.txt").write_text("in.png\n../../up.png\n")
    names = [name for ref in scan(str(inner / "list.txt")).refs for name in ref.names]
    assert sorted(names) == ["a/b/in.png", "up.png"]
    folder = RunFolder(tmp_path / "run", names)
    assert all(folder.mask_file(name).resolve().is_relative_to(tmp_path / "run") for name in names)


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_of_exported_files_stay_inside(name: str) -> None:
    for found in (*image_stems({"1": name}).values(), *label_folders([name]).values()):
        assert not leads_out(found)
        assert "/" not in found
        assert found not in (".", "..")


@pytest.mark.parametrize("key", ["../up", "a/b", "..", ".hidden", "/etc/passwd", "a\0b"])
def test_keys_of_blobs_stay_inside(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="no name for a blob"):
        BlobStore(str(tmp_path)).put("features", key, b"")


@pytest.mark.parametrize("product", ["../../up", "/etc", "..", "a/../b"])
def test_products_of_bundles_make_no_path(tmp_path: Path, product: str) -> None:
    settings = Settings.load(workspace=tmp_path)
    (bundle,) = library.read_bundles(json.dumps({"product": product}), "a file").values()
    folder = report_folder(settings, bundle.product, "e" * 16, "c" * 16, bundle.id)
    assert folder.resolve().parent == (tmp_path / "refinements").resolve()


@pytest.mark.parametrize("upload", ["upload/7/../../../etc/passwd", "../../x-{key}.png/../../y", "http://elsewhere/x"])
def test_names_of_uploads_are_not_taken_for_ours(upload: str) -> None:
    key = "ab" * 32
    listed = [{"file": upload.format(key=key), "size": 5}]

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=listed)

    with Client("http://labels.test", "0" * 40, transport=httpx.MockTransport(answer)) as client:
        assert Upload(client, 7)._uploaded() == {}


def test_a_payload_cannot_name_files_or_sizes() -> None:
    row = {"from_name": "mask", "to_name": "image", "type": "brushlabels", "id": "../../x"}
    value: dict[str, Any] = {"format": "rle", "rle": [255] * 60, "brushlabels": ["../../etc"]}
    for height, width in ((24, 33), (2**31, 2**31), (-24, 32)):
        hostile = {**row, "value": value, "original_height": height, "original_width": width}
        with pytest.raises(ReviewError):
            read_answer([hostile], "task/annotation 1/1", (24, 32))
    for rows in ([1], [{}], [{**row, "value": None}], [{**row, "value": {"rle": "/etc/passwd"}}]):
        try:
            assert read_answer(rows, "task/annotation 1/1", (24, 32)).regions == ()  # type: ignore[arg-type]
        except ReviewError:
            continue


# ------------------------------------------------------------------------------------------------------- running code

SAFE = {"np.load": ("allow_pickle", False), "torch.load": ("weights_only", True)}
NEVER = {
    "eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.load",
    "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "joblib.load", "marshal.loads", "dill.loads",
    "cloudpickle.loads", "np.fromregex", "shelve.open",
}  # fmt: skip


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            yield path, ast.parse(path.read_text("utf-8"))


def calls() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every call in the product: where, what, and its named arguments that are constants."""
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                constants = {
                    each.arg: each.value.value
                    for each in node.keywords
                    if each.arg and isinstance(each.value, ast.Constant)
                }
                yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), constants


def test_nothing_that_is_read_is_executed() -> None:
    for place, called, constants in calls():
        assert called not in NEVER, place
        assert constants.get("shell") is not True, place
        assert constants.get("trust_remote_code") is not True, place
        if called in SAFE:
            name, value = SAFE[called]
            assert constants.get(name) is value, place
        if constants.get("persist_result"):
            assert constants.get("result_serializer") == "json", place


class Careless:
    """Makes a folder when a careless unpickler meets it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


TAGS = (
    "!!python/object/apply:os.mkdir [{folder}]",
    "product: !!python/object/new:os.mkdir [{folder}]",
    "bundles: {{a: !!python/object/apply:os.mkdir [{folder}]}}",
)


@pytest.mark.parametrize("tag", TAGS)
def test_a_bundle_file_and_saa_yaml_are_not_executed(tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tag.format(folder=tmp_path / "made")
    with pytest.raises(BundleError):
        library.read_bundles(text, "a file")
    (tmp_path / "saa.yaml").write_text(text)
    monkeypatch.setenv("SAA_CONFIG", str(tmp_path / "saa.yaml"))
    with pytest.raises(SaaError):
        Settings.load()
    assert not (tmp_path / "made").exists()


def test_a_stored_blob_is_not_executed(labelled_set: LabelledSet, tmp_path: Path) -> None:
    ref = labelled_set.add("a.png")
    store = CandidateStore(BlobStore(labelled_set.settings.blobs_url), build(), 10**6)
    pickled = pickle.dumps(Careless(tmp_path / "made"))
    inside = io.BytesIO()
    np.savez(inside, array=np.array([Careless(tmp_path / "made")], object), allow_pickle=True)
    for data in (pickled, inside.getvalue()):
        address = store.keys.features(ref.key)
        store.blobs.put(*address, data)
        with pytest.raises(StoreError):
            store.features(ref)
        store.blobs._remove(store.blobs._path(*address))
    assert not (tmp_path / "made").exists()


# ---------------------------------------------------------------------------------------------------------------- bombs


def bomb(side: int) -> bytes:
    """A PNG of a few kilobytes whose header promises side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")


def test_an_image_that_promises_too_much_is_not_decoded() -> None:
    with pytest.raises(ImageError, match="decompression bomb"):
        load_image(bomb(60_000), "bomb.png")
    with pytest.raises(ImageError, match="more than 1000000 pixels"):
        load_image(bomb(2_000), "bomb.png", max_pixels=1_000_000)


def test_a_mask_that_promises_too_much_is_not_decoded(labelled_set: LabelledSet, tmp_path: Path) -> None:
    labelled_set.add("a.png")
    labelled_set.label({})
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "a.png").write_bytes(bomb(9_000))  # within what Pillow lets pass
    found = read_masks(masks, PRODUCT, labelled_set.catalog, labelled_set.settings.runs)
    assert found.refused == (("a.png", f"the mask has 9000 x 9000 pixels, its image {SIZE[0]} x {SIZE[1]}"),)


def test_a_mask_that_its_metadata_turns_is_still_one(labelled_set: LabelledSet, tmp_path: Path) -> None:
    labelled_set.add("a.png")
    labelled_set.label({})
    masks = tmp_path / "masks"
    masks.mkdir()
    turned, exif = Image.new("L", (SIZE[0], SIZE[1]), 0), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned.save(masks / "a.png", exif=exif)
    assert not read_masks(masks, PRODUCT, labelled_set.catalog, labelled_set.settings.runs).refused


def test_a_bundle_file_that_would_grow() -> None:
    rows = "\n".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]" for n in range(1, 10))
    with pytest.raises(BundleError, match="aliases stand for more than"):
        library.read_bundles(f"x0: &x0 [lol]\n{rows}\nproduct: *x9", "a file")
    with pytest.raises(BundleError):
        library.read_bundles("[" * 100_000, "a file")


# -------------------------------------------------------------------------------------------------------------- secrets

TOKEN, PASSWORD, HOOK = "tok3n-Zq81xv", "passw0rd-Ht52", "h00k-Yx93"


def test_errors_of_settings_do_not_repeat_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAA_FIFTYONE_URI", f"http://saa:{PASSWORD}@host")
    monkeypatch.setenv("SAA_ALARM_WEBHOOK", f"ftp://host/{HOOK}")
    with pytest.raises(SaaError) as caught:
        Settings.load()
    assert PASSWORD not in str(caught.value)
    monkeypatch.delenv("SAA_FIFTYONE_URI")
    with pytest.raises(SaaError) as caught:
        Settings.load()
    assert HOOK not in str(caught.value)


@pytest.mark.parametrize("url", [f"mysql://me:{PASSWORD}@host/x", f"postgresql://me:{PASSWORD}@127.0.0.1:9/x"])
def test_errors_of_the_catalog_do_not_show_its_password(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        Catalog(url)
    assert PASSWORD not in f"{caught.value} {caught.value!r} {caught.value.__cause__}"


def test_a_set_that_cannot_be_listed_does_not_show_its_secret() -> None:
    with pytest.raises(DatasetError) as caught:
        scan(f"nonsense://bucket/x?token={TOKEN}")
    assert TOKEN not in str(caught.value)


def test_a_client_does_not_show_its_token() -> None:
    with Echo() as url, Client(url, TOKEN) as client, pytest.raises(ServiceError) as caught:
        client.get("/api/projects/")
    assert TOKEN not in f"{caught.value} {client!r} {vars(caught.value)}"
