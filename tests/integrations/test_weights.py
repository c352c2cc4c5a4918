"""Fetching weights from a server of this machine that cuts, lies and changes its mind, and not fetching them at all."""

import contextlib
import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from integrations.weights import download
from saa_core.checkpoints import Checkpoint
from saa_core.errors import CheckpointError, SaaError, ServiceError, StoreError

ROOT = Path(__file__).resolve().parents[2]
CONTENT = hashlib.shake_256(b"weights").digest(3_000_000)
OTHER = hashlib.shake_256(b"other weights").digest(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Shop:
    """What the server has and how it behaves.

    Args:
        content: The file.
        validators: Headers that name this state of the file.
        cut: Bytes of an answer after which the connection breaks; None for a whole answer.
        ranges: Whether it can send a part.
        shift: How far from the asked place its parts begin.
        status: Of every answer; 0 for the usual one.
        sized: Whether it says how long the answer is.
        content_type: Of the file.
        moved: Where it sends those who ask for a path, instead.
    """

    content: bytes = CONTENT
    validators: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    cut: int | None = None
    ranges: bool = True
    shift: int = 0
    status: int = 0
    sized: bool = True
    content_type: str = "application/octet-stream"
    moved: dict[str, str] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def part(self, headers: dict[str, str]) -> int | None:
        """Where the answer begins; None for a whole one."""
        known = headers.get("If-Range")
        changed = known is not None and known not in self.validators.values()
        if not self.ranges or changed or "Range" not in headers:
            return None
        return int(headers["Range"].removeprefix("bytes=").removesuffix("-"))

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        begin = self.part(headers)
        if path in self.moved:
            return 302, {"Location": self.moved[path]}, b""
        if self.status:
            return self.status, {}, b"an error"
        if begin is not None and begin >= len(self.content):
            return 416, {"Content-Range": f"bytes */{len(self.content)}"}, b""
        whole = {**self.validators, "Content-Type": self.content_type}
        if begin is None:
            return 200, whole, self.content
        start, last = begin + self.shift, len(self.content) - 1
        return 206, {**whole, "Content-Range": f"bytes {start}-{last}/{last + 1}"}, self.content[start:]


@pytest.fixture
def shop() -> Iterator[Shop]:
    """A server on this machine, and what it is to do."""
    shop = Shop()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shop.asked.append(dict(self.headers))
            status, headers, body = shop.answer(self.path, shop.asked[-1])
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if shop.sized:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # who refuses an answer hangs up
                self.wfile.write(body if shop.cut is None else body[: shop.cut])

        def log_message(self, *arguments: object) -> None:
            """The test's output is not the place."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        shop.url = f"http://127.0.0.1:{server.server_address[1]}/tiny.pth"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield shop
        server.shutdown()


@pytest.fixture(autouse=True)
def proxies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy of the machine may help or harm, and digests are remembered in a folder of the test."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def tiny(url: str, **fields: Any) -> Checkpoint:
    given = {"size": len(CONTENT), "sha256": DIGEST, "licence": "MIT", "source": "Tiny", "url": url}
    return Checkpoint("tiny", "tiny.pth", **{**given, **fields})


def fetch(checkpoint: Checkpoint, folder: Path) -> Path:
    return download(checkpoint, folder, lambda *step: None, offline=False)


def failure(kind: type[SaaError], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def left(folder: Path) -> set[str]:
    """What lies in the folder, but for the lock, which stays for the next one."""
    return {path.name for path in folder.iterdir()} - {".tiny.pth.lock", ".vocab.txt.lock"}


def cut_after(shop: Shop, folder: Path, count: int, **fields: Any) -> str:
    shop.cut = count
    said = failure(ServiceError, lambda: fetch(tiny(shop.url, **fields), folder))
    shop.cut = None
    return said


class TestAWholeFile:
    def test_it_comes_and_progress_is_told(self, shop: Shop, folder: Path) -> None:
        told: list[tuple[str, int, int]] = []
        path = download(tiny(shop.url), folder, lambda *step: told.append(step), offline=False)
        assert path == folder / "tiny.pth"
        assert path.read_bytes() == CONTENT
        assert left(folder) == {"tiny.pth"}
        assert told[0] == ("tiny.pth", 0, len(CONTENT))
        assert told[-1] == ("tiny.pth", len(CONTENT), len(CONTENT))
        assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})

    def test_it_is_not_fetched_again(self, shop: Shop, folder: Path) -> None:
        assert fetch(tiny(shop.url), folder) == fetch(tiny(shop.url), folder)
        assert len(shop.asked) == 1

    def test_a_wrong_file_in_its_place_is_replaced(self, shop: Shop, folder: Path) -> None:
        folder.mkdir()
        (folder / "tiny.pth").write_bytes(OTHER)
        assert fetch(tiny(shop.url), folder).read_bytes() == CONTENT

    def test_one_that_has_a_folder_is_put_there(self, shop: Shop, folder: Path) -> None:
        words = Checkpoint("words", "vocab.txt", shop.url, "MIT", "Words", len(CONTENT), DIGEST, folder=True)
        assert fetch(words, folder) == folder / "words"
        assert left(folder / "words") == {"vocab.txt"}

    def test_nothing_need_be_known_of_it(self, shop: Shop, folder: Path) -> None:
        told: list[tuple[str, int, int]] = []
        shop.sized = False
        checkpoint = tiny(shop.url, size=None, sha256=None)
        path = download(checkpoint, folder, lambda *step: told.append(step), offline=False)
        assert path.read_bytes() == CONTENT
        assert told[-1] == ("tiny.pth", len(CONTENT), 0)

    def test_two_at_once_fetch_it_once(self, shop: Shop, folder: Path) -> None:
        with ThreadPoolExecutor(2) as pool:
            paths = list(pool.map(lambda _: fetch(tiny(shop.url), folder), range(2)))
        assert [path.read_bytes() == CONTENT for path in paths] == [True, True]
        assert len(shop.asked) == 1

    def test_a_redirect_is_followed(self, shop: Shop, folder: Path) -> None:
        shop.moved = {"/tiny.pth": "/elsewhere/tiny.pth"}
        assert fetch(tiny(shop.url), folder).read_bytes() == CONTENT
        assert len(shop.asked) == 2


class TestACut:
    def test_the_next_call_goes_on_from_there(self, shop: Shop, folder: Path) -> None:
        said = cut_after(shop, folder, 1_234_567)
        assert said.startswith(f"{shop.url}: the connection broke after 1234567 bytes (")
        assert said.endswith("run again to go on from there")
        assert left(folder) == {"tiny.pth.part", "tiny.pth.part.json"}
        assert fetch(tiny(shop.url), folder).read_bytes() == CONTENT
        assert (shop.asked[1]["Range"], shop.asked[1]["If-Range"]) == ("bytes=1234567-", '"one"')
        assert left(folder) == {"tiny.pth"}

    def test_progress_goes_on_from_there_too(self, shop: Shop, folder: Path) -> None:
        cut_after(shop, folder, 2_000_000)
        told: list[tuple[str, int, int]] = []
        download(tiny(shop.url), folder, lambda *step: told.append(step), offline=False)
        assert told[0] == ("tiny.pth", 2_000_000, len(CONTENT))

    def test_several_cuts_do_no_harm(self, shop: Shop, folder: Path) -> None:
        for _ in range(3):
            cut_after(shop, folder, 700_000)
        assert fetch(tiny(shop.url), folder).read_bytes() == CONTENT
        assert shop.asked[-1]["Range"] == "bytes=2100000-"

    @pytest.mark.parametrize(
        ("validators", "sent"),
        [
            ({"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, "Mon, 01 Jan 2024 00:00:00 GMT"),
            ({"ETag": 'W/"weak"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, "Mon, 01 Jan 2024 00:00:00 GMT"),
            ({"ETag": '"strong"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, '"strong"'),
            ({}, None),
        ],
    )
    def test_the_state_of_the_file_is_told_by_what_the_server_gave(
        self, validators: dict[str, str], sent: str | None, shop: Shop, folder: Path
    ) -> None:
        shop.validators = validators
        cut_after(shop, folder, 1_000_000)
        assert fetch(tiny(shop.url), folder).read_bytes() == CONTENT
        assert shop.asked[1].get("If-Range") == sent
        assert shop.asked[1]["Range"] == "bytes=1000000-"

    def test_a_part_that_nothing_tells_from_another_files_is_not_kept(self, shop: Shop, folder: Path) -> None:
        shop.validators = {}
        said = cut_after(shop, folder, 1_000_000, sha256=DIGEST[:6])
        assert said.endswith("; run again")
        assert left(folder) == set()

    def test_a_server_that_cannot_send_a_part_sends_the_whole(self, shop: Shop, folder: Path) -> None:
        cut_after(shop, folder, 1_000_000)
        shop.ranges = False
        assert fetch(tiny(shop.url), folder).read_bytes() == CONTENT

    def test_a_part_from_another_place_than_asked_is_not_used(self, shop: Shop, folder: Path) -> None:
        cut_after(shop, folder, 1_000_000)
        shop.shift = 5
        assert fetch(tiny(shop.url), folder).read_bytes() == CONTENT
        assert ["Range" in headers for headers in shop.asked] == [False, True, False]

    def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(self, shop: Shop, folder: Path) -> None:
        shop.content, shop.validators = OTHER, {"ETag": '"old"'}
        cut_after(shop, folder, 1_000_000)
        shop.content, shop.validators = CONTENT, {"ETag": '"new"'}
        assert fetch(tiny(shop.url), folder).read_bytes() == CONTENT

    def test_a_mixture_of_two_states_is_thrown_away(self, shop: Shop, folder: Path) -> None:
        shop.content, shop.validators = OTHER, {}
        cut_after(shop, folder, 1_000_000)
        shop.content = CONTENT
        said = failure(CheckpointError, lambda: fetch(tiny(shop.url), folder))
        assert "is not the published file: its SHA-256 is " in said
        assert left(folder) == set()
        assert fetch(tiny(shop.url), folder).read_bytes() == CONTENT

    def test_a_part_of_another_address_is_not_gone_on_with(self, shop: Shop, folder: Path) -> None:
        cut_after(shop, folder, 1_000_000)
        assert fetch(tiny(f"{shop.url}?mirror"), folder).read_bytes() == CONTENT
        assert "Range" not in shop.asked[1]

    @pytest.mark.parametrize("note", [None, b"{", b"[]", b'"one"'])
    def test_a_part_without_its_note_is_not_gone_on_with(self, note: bytes | None, shop: Shop, folder: Path) -> None:
        cut_after(shop, folder, 1_000_000)
        (folder / "tiny.pth.part.json").unlink()
        if note is not None:
            (folder / "tiny.pth.part.json").write_bytes(note)
        assert fetch(tiny(shop.url), folder).read_bytes() == CONTENT
        assert "Range" not in shop.asked[1]

    def test_a_part_that_is_whole_already_needs_no_server(self, shop: Shop, folder: Path) -> None:
        cut_after(shop, folder, 1_000_000)
        (folder / "tiny.pth.part").write_bytes(CONTENT)
        assert fetch(tiny(shop.url), folder).read_bytes() == CONTENT
        assert len(shop.asked) == 1

    def test_a_part_longer_than_the_file_is_thrown_away(self, shop: Shop, folder: Path) -> None:
        cut_after(shop, folder, 1_000_000)
        (folder / "tiny.pth.part").write_bytes(CONTENT + b"more")
        assert fetch(tiny(shop.url), folder).read_bytes() == CONTENT
        assert ["Range" in headers for headers in shop.asked] == [False, True, False]

    def test_an_end_that_comes_too_early_is_a_cut(self, shop: Shop, folder: Path) -> None:
        shop.sized = False
        assert "the server ended after 1000000 bytes; run again to go on" in cut_after(shop, folder, 1_000_000)
        assert fetch(tiny(shop.url), folder).read_bytes() == CONTENT

    def test_nothing_at_all_is_no_file(self, shop: Shop, folder: Path) -> None:
        shop.content = b""
        said = failure(ServiceError, lambda: fetch(tiny(shop.url, size=None, sha256=None), folder))
        assert "the server ended after 0 bytes; run again" in said
        assert left(folder) == set()


class TestARefusal:
    @pytest.mark.parametrize("status", [404, 403, 500, 503])
    def test_a_status_is_told(self, status: int, shop: Shop, folder: Path) -> None:
        shop.status = status
        with pytest.raises(ServiceError, match=f"{shop.url}: the server answered {status} ") as caught:
            fetch(tiny(shop.url), folder)
        assert caught.value.status == status
        assert left(folder) == set()

    def test_a_server_in_trouble_costs_no_part(self, shop: Shop, folder: Path) -> None:
        cut_after(shop, folder, 1_000_000)
        shop.status = 500
        failure(ServiceError, lambda: fetch(tiny(shop.url), folder))
        shop.status = 0
        assert fetch(tiny(shop.url), folder).read_bytes() == CONTENT
        assert shop.asked[-1]["Range"] == "bytes=1000000-"

    def test_a_part_that_nobody_asked_for_is_refused(self, shop: Shop, folder: Path) -> None:
        shop.status = 206
        assert "answered 206 " in failure(ServiceError, lambda: fetch(tiny(shop.url), folder))

    def test_a_wrong_file_is_thrown_away(self, shop: Shop, folder: Path) -> None:
        shop.content = OTHER
        said = failure(CheckpointError, lambda: fetch(tiny(shop.url), folder))
        assert said.startswith(f"tiny.pth: what came from {shop.url} is not the published file: its SHA-256 is ")
        assert said.endswith("; it was thrown away")
        assert left(folder) == set()

    def test_a_wrong_file_does_not_replace_what_is_there(self, shop: Shop, folder: Path) -> None:
        folder.mkdir()
        (folder / "tiny.pth").write_bytes(b"mine")
        shop.content = OTHER
        failure(CheckpointError, lambda: fetch(tiny(shop.url), folder))
        assert (folder / "tiny.pth").read_bytes() == b"mine"

    def test_a_file_of_another_size_is_not_fetched(self, shop: Shop, folder: Path) -> None:
        shop.content = CONTENT[:-1]
        said = failure(CheckpointError, lambda: fetch(tiny(shop.url), folder))
        assert f"offers {len(CONTENT) - 1} bytes; the published file has {len(CONTENT)}" in said
        assert left(folder) == set()

    def test_a_web_page_is_no_file(self, shop: Shop, folder: Path) -> None:
        shop.content_type = "text/html; charset=utf-8"
        said = failure(ServiceError, lambda: fetch(tiny(shop.url, size=None, sha256=None), folder))
        assert "the server answered with a web page" in said
        assert left(folder) == set()

    def test_a_server_that_is_not_there_is_told(self, shop: Shop, folder: Path) -> None:
        # Port 9 is for a service that nobody runs; were it there, its answer would not be the file.
        said = failure(ServiceError, lambda: fetch(tiny("http://127.0.0.1:9/tiny.pth"), folder))
        assert said.startswith("http://127.0.0.1:9/tiny.pth: cannot be reached (")
        assert f"fetch it on another machine and put it into {folder}" in said

    def test_only_https_leaves_the_machine(self, folder: Path) -> None:
        said = failure(ServiceError, lambda: fetch(tiny("http://weights.test/tiny.pth"), folder))
        assert said == "http://weights.test: is not https; weights are fetched no other way"

    def test_a_redirect_to_plain_http_is_not_followed(self, shop: Shop, folder: Path) -> None:
        shop.moved = {"/tiny.pth": "http://weights.test/tiny.pth?signature=abc"}
        said = failure(ServiceError, lambda: fetch(tiny(shop.url), folder))
        assert said == "http://weights.test: is not https; weights are fetched no other way"

    def test_redirects_without_end_are_not_followed(self, shop: Shop, folder: Path) -> None:
        shop.moved = {"/tiny.pth": "/tiny.pth"}
        assert "redirects" in failure(ServiceError, lambda: fetch(tiny(shop.url), folder))

    def test_a_secret_in_the_address_is_not_shown(self, shop: Shop, folder: Path) -> None:
        shop.status = 404
        said = failure(ServiceError, lambda: fetch(tiny(f"{shop.url}?token=hunter2"), folder))
        assert "hunter2" not in said

    def test_a_folder_that_cannot_be_made_is_told(self, shop: Shop, tmp_path: Path) -> None:
        (tmp_path / "weights").touch()
        said = failure(StoreError, lambda: fetch(tiny(shop.url), tmp_path / "weights"))
        assert str(tmp_path / "weights") in said
        assert shop.asked == []

    def test_a_full_disk_is_told_and_the_part_is_kept(self, shop: Shop, folder: Path) -> None:
        # A limit of the process on the size of its files stands for the disk.
        limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))"
        done = in_a_process(f"{limit}\n{FETCH}", tiny(shop.url), folder)
        assert "CheckpointError" in done.stderr
        assert "tiny.pth.part: the disk is full after 1500000 bytes; free some space, run again to go on" in done.stderr
        assert fetch(tiny(shop.url), folder).read_bytes() == CONTENT
        assert shop.asked[1]["Range"] == "bytes=1500000-"


NO_SOCKETS = """
import socket

tried = []

class Closed(socket.socket):
    def connect(self, address):
        tried.append(address)
        raise AssertionError(f"a connection to {address}")

    connect_ex = connect

def resolve(*arguments, **options):
    Closed().connect(arguments)

socket.socket, socket.getaddrinfo = Closed, resolve
"""
"""Makes every try to connect an error, and remembers it should the error be swallowed."""


class TestOffline:
    def test_nothing_is_fetched_and_no_socket_made(self, folder: Path) -> None:
        code = f"""
{NO_SOCKETS}
download(checkpoint, folder, lambda *step: None, offline=True)
"""
        done = in_a_process(code, tiny("https://weights.test/tiny.pth"), folder)
        assert "CheckpointError: tiny.pth: not fetched, since SAA_OFFLINE forbids connections; fetch" in done.stderr
        assert f"put it into {folder}" in done.stderr
        assert not folder.exists()

    def test_without_it_a_socket_is_tried(self, folder: Path) -> None:
        done = in_a_process(f"{NO_SOCKETS}\n{FETCH}", tiny("https://weights.test/tiny.pth"), folder)
        assert "AssertionError: a connection to" in done.stderr

    def test_weights_that_are_there_are_used(self, folder: Path) -> None:
        content = save({"module.weight": np.ones(3, np.float32)})
        folder.mkdir()
        (folder / "tiny.safetensors").write_bytes(content)
        code = f"""
{NO_SOCKETS}
ensure_offline()
path = find(checkpoint, folder)
print(verify(checkpoint, path), load_state(path), tried)
"""
        digest = hashlib.sha256(content).hexdigest()
        checkpoint = Checkpoint("tiny", "tiny.safetensors", "", "MIT", "Tiny", len(content), digest)
        done = in_a_process(code, checkpoint, folder)
        assert done.stdout.strip() == f"{digest} {{'weight': tensor([1., 1., 1.])}} []", done.stderr

    @pytest.mark.parametrize(("first", "tries"), [("ensure_offline()", False), ("", True)])
    def test_the_hub_of_hugging_face_does_not_connect(self, first: str, tries: bool, folder: Path) -> None:
        code = f"""
{NO_SOCKETS}
{first}
from huggingface_hub import hf_hub_download
try:
    hf_hub_download("someone/tiny", "tiny.pth")
except BaseException:
    print(bool(tried))
"""
        done = in_a_process(code, tiny(""), folder)
        assert done.stdout.strip() == str(tries), done.stderr

    @pytest.mark.slow
    def test_transformers_and_timm_do_not_connect(self, folder: Path) -> None:
        code = f"""
{NO_SOCKETS}
ensure_offline()
import timm
from transformers import AutoTokenizer
for load in (AutoTokenizer.from_pretrained, lambda name: timm.create_model(name, pretrained=True)):
    for name in ("bert-base-uncased", "test_resnet"):
        try:
            load(name)
            print("loaded", name)
        except Exception:
            pass
print(tried)
"""
        done = in_a_process(code, tiny(""), folder)
        assert done.stdout.strip() == "[]", done.stderr

    def test_it_must_come_before_their_import(self, folder: Path) -> None:
        done = in_a_process("import huggingface_hub.constants\nensure_offline()", tiny(""), folder)
        assert "SettingsError: SAA_OFFLINE: huggingface_hub was imported before" in done.stderr


FETCH = "download(checkpoint, folder, lambda *step: None, offline=False)"


def in_a_process(code: str, checkpoint: Checkpoint, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code that has a checkpoint and a folder in a fresh interpreter."""
    head = f"""
from pathlib import Path
from integrations.weights import download
from saa_core.checkpoints import Checkpoint, ensure_offline, find, load_state, verify
checkpoint, folder = {checkpoint!r}, Path({str(folder)!r})
"""
    command = [sys.executable, "-c", head + code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
