"""`saa services` and what `saa doctor` says of servers, with a real one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.doctor import Check, checks
from flows.services import wanted
from integrations.catalog import Catalog
from integrations.label_studio import lifecycle
from integrations.label_studio.server import Home
from integrations.settings import Settings
from saa_core.errors import ServiceError, SettingsError
from saa_core.models import ModelSetup
from tests.fiftyone_server import Mongod
from tests.label_studio_server import SERVICES, Server, free_port


@pytest.fixture
def workspace(label_studio_template: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A workspace whose server was used before; the program is installed."""
    monkeypatch.setenv("SAA_SERVICES", str(SERVICES))
    workspace = tmp_path / "workspace"
    home = lifecycle.home_in(workspace)
    shutil.copytree(label_studio_template.folder, home.folder)
    yield workspace
    lifecycle.down(home)


def saa(*words: str | Path) -> Any:
    result = CliRunner().invoke(app, ["services", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result


def told(verb: str, workspace: Path, *more: str) -> dict[str, Any]:
    return dict(json.loads(saa(verb, "label-studio", "--workspace", workspace, "--json", *more).stdout))


def doctor(workspace: Path, name: str = "label studio server", **settings: Any) -> Check:
    found = checks(Settings.load(workspace=workspace, **settings), ModelSetup(models="foundation"))
    return next(check for check in found if check.name == name)


@pytest.mark.slow
def test_up_status_down(workspace: Path) -> None:
    port = free_port()
    up = told("up", workspace, "--port", str(port))
    home = lifecycle.home_in(workspace)
    assert up == {
        "service": "label-studio",
        "state": "running",
        "url": f"http://127.0.0.1:{port}",
        "version": "1.23.2",
        "pid": up["pid"],
        "user": "expert@localhost",
        "password_file": str(home.password_file),
        "log": str(home.log),
        "started": True,
    }
    assert told("up", workspace) == up | {"started": False}
    assert told("status", workspace) == {name: value for name, value in up.items() if name != "started"}
    person = saa("status", "label-studio", "--workspace", workspace)
    again = saa("up", "label-studio", "--workspace", workspace)
    assert "it runs already, nothing was changed" in again.stderr
    for secret in (home.token(), home.password()):
        assert secret.get_secret_value() not in person.output + again.output
    assert up["url"] in person.stdout
    assert str(home.password_file) in person.stdout

    ok = doctor(workspace)
    assert ok.state == "ok"
    assert ok.detail.startswith(f"Label Studio 1.23.2 at {up['url']} accepts us as expert@localhost; ")

    assert told("down", workspace) == {"service": "label-studio", "state": "stopped", "stopped": True}
    assert told("down", workspace)["stopped"] is False
    assert told("status", workspace) == {"service": "label-studio", "state": "stopped"}
    assert "saa services up label-studio" in saa("status", "label-studio", "--workspace", workspace).stdout
    assert doctor(workspace).state == "absent"


@pytest.mark.slow
def test_status_of_a_server_that_does_not_take_our_token(workspace: Path) -> None:
    told("up", workspace, "--port", str(free_port()))
    lifecycle.home_in(workspace).token_file.write_text("0" * 40)
    result = CliRunner().invoke(app, ["services", "status", "label-studio", "--workspace", str(workspace)])
    assert isinstance(result.exception, ServiceError)
    assert "refuses the token" in str(result.exception)


@pytest.mark.slow
def test_the_server_outlives_its_command_and_its_terminal(workspace: Path) -> None:
    words = [sys.executable, "-c", "from flows.cli import main; main()", "services", "up", "label-studio"]
    command = subprocess.Popen([*words, "--workspace", str(workspace)], start_new_session=True)
    assert command.wait(300) == 0
    with contextlib.suppress(ProcessLookupError):
        os.killpg(command.pid, signal.SIGHUP)  # as a terminal that closes
    assert told("status", workspace)["state"] == "running"


@pytest.mark.slow
def test_fiftyone_up_status_down(mongod_program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAA_MONGOD", str(mongod_program))
    words = ("fiftyone", "--workspace", tmp_path / "workspace")
    port = free_port()
    try:
        up = json.loads(saa("up", *words, "--port", str(port), "--json").stdout)
        assert up == {
            "service": "fiftyone",
            "state": "running",
            "url": f"http://127.0.0.1:{port}",
            "version": up["version"],
            "pid": up["pid"],
            "database": "saa",
            "uri": up["uri"],
            "mongod": up["mongod"],
            "folder": str(tmp_path / "workspace" / "services" / "fiftyone"),
            "started": True,
        }
        assert json.loads(saa("status", *words, "--json").stdout) == {n: v for n, v in up.items() if n != "started"}
        person = saa("up", *words)
        assert "it runs already, nothing was changed" in person.stderr
        assert up["url"] in person.stdout
        assert up["uri"] in person.stdout

        os.killpg(up["mongod"]["pid"], signal.SIGKILL)
        while psutil.Process(up["mongod"]["pid"]).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert json.loads(saa("status", *words, "--json").stdout)["state"] == "partly"
        assert "a mongod that is stopped; `saa services up fiftyone` starts it" in saa("status", *words).stdout
        os.killpg(up["pid"], signal.SIGKILL)
        assert json.loads(saa("up", *words, "--json").stdout)["url"] == up["url"]
        assert json.loads(saa("down", *words, "--json").stdout)["stopped"] is True
        assert "saa services up fiftyone" in saa("status", *words).stdout
    finally:
        saa("down", *words)


def test_install_says_where(mongod_program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAA_SERVICES", str(SERVICES))
    told = json.loads(saa("install", "mongod", "--json").stdout)
    assert told == {"program": "mongod", "version": "6.0.5", "path": str(mongod_program)}
    assert str(mongod_program) in saa("install", "mongod").stdout.replace("\n", "")


@pytest.mark.parametrize("service", ["label-studio", "fiftyone"])
@pytest.mark.parametrize("verb", ["up", "status", "down"])
def test_help_teaches_by_example(verb: str, service: str) -> None:
    assert f"saa services {verb} {service}" in saa(verb, "--help").stdout


def test_a_workspace_that_runs_nothing_says_so_of_all(tmp_path: Path) -> None:
    words = ("--workspace", tmp_path / "w")
    names = ["prefect", "label-studio", "fiftyone", "serve"]
    assert json.loads(saa("status", *words, "--json").stdout) == {
        "services": [{"service": name, "state": "stopped"} for name in names]
    }
    assert "serve: stopped; `saa services up serve` starts it" in saa("status", *words).stdout
    stopped = [{"service": name, "state": "stopped", "stopped": False} for name in reversed(names)]
    assert json.loads(saa("down", *words, "--json").stdout) == {"services": stopped}
    assert not (tmp_path / "w").exists()


def test_a_port_is_for_one_service(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["services", "up", "--port", "9999", "--workspace", str(tmp_path)])
    assert isinstance(result.exception, SettingsError)


def test_servers_of_the_users_are_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert wanted(Settings()) == ["prefect", "label-studio", "fiftyone", "serve"]
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert wanted(Settings(label_studio_url="http://127.0.0.1:8080")) == ["fiftyone", "serve"]


def listeners(workspace: Path) -> set[str]:
    """Addresses on which processes of a workspace's services listen."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(workspace) in " ".join([*process.cmdline(), *process.environ().values()]):
                connections = process.net_connections("tcp")
                found.update(each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN)
    return found


@pytest.mark.slow
def test_a_newcomer_gets_everything_by_one_command_and_nothing_is_left(
    workspace: Path, mongod_program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SAA_MONGOD", str(mongod_program))
    monkeypatch.setenv("XDG_STATE_HOME", str(workspace.parent))
    words = ("--workspace", workspace, "--json")
    try:
        up = json.loads(saa("up", *words).stdout)["services"]
        assert [(each["service"], each["state"], each["started"]) for each in up] == [
            ("prefect", "running", True),
            ("label-studio", "running", True),
            ("fiftyone", "running", True),
            ("serve", "running", True),
        ]
        assert not any(each["started"] for each in json.loads(saa("up", *words).stdout)["services"])
        assert [each["url"] for each in json.loads(saa("status", *words).stdout)["services"]] == [
            each["url"] for each in up
        ]
        assert listeners(workspace) == {"127.0.0.1"}
        # A command uses the server that is there: the run is on its pages.
        saa_label = [sys.executable, "-m", "flows.cli", "pull", "masks", str(workspace), "--product", "cap"]
        Catalog(Settings.load(workspace=workspace).catalog_url).close()
        subprocess.run([*saa_label, "--workspace", str(workspace)], check=False)
        runs = httpx.post(f"{up[0]['url']}/api/flow_runs/filter", json={}).json()
        assert "collect-masks-cap" in [run["name"] for run in runs]
    finally:
        down = json.loads(saa("down", *words).stdout)["services"]
    assert all(each["stopped"] for each in down)
    assert listeners(workspace) == set()


class TestDoctor:
    def test_without_a_server(self, tmp_path: Path) -> None:
        absent = doctor(tmp_path / "w")
        assert absent.state == "absent"
        assert "saa services up label-studio" in absent.advice
        assert "SAA_LABEL_STUDIO_URL" in absent.advice

    def test_a_server_that_is_gone(self, tmp_path: Path) -> None:
        url = f"http://127.0.0.1:{free_port()}"
        broken = doctor(tmp_path / "w", label_studio_url=url, label_studio_token="hunter2")
        assert broken.state == "broken"
        assert url in broken.detail
        assert "hunter2" not in repr(broken)

    def test_half_a_configuration(self, tmp_path: Path) -> None:
        broken = doctor(tmp_path / "w", label_studio_token="hunter2")
        assert broken.state == "broken"
        assert "SAA_LABEL_STUDIO_URL" in broken.detail

    def test_a_token_that_is_not_accepted(self, tmp_path: Path, label_studio: Server) -> None:
        broken = doctor(tmp_path / "w", label_studio_url=label_studio.url, label_studio_token="0" * 40)
        assert broken.state == "broken"
        assert "401" in broken.detail
        assert label_studio.token not in repr(broken)


class TestDoctorOnMongod:
    NAME = "mongod, FiftyOne's database"

    def test_none(self, unfetched_mongod: Path, tmp_path: Path) -> None:
        absent = doctor(tmp_path / "w", self.NAME, services=tmp_path / "services")
        assert (absent.state, absent.advice) == ("absent", "`saa services install mongod`")
        assert "could not be fetched" in absent.detail

    def test_the_one_that_is_set(self, mongod_program: Path, tmp_path: Path) -> None:
        ok = doctor(tmp_path / "w", self.NAME, mongod=mongod_program)
        assert (ok.state, ok.detail) == ("ok", f"{mongod_program}, version 6.0.5")
        assert doctor(tmp_path / "w", self.NAME, mongod=tmp_path / "none").state == "broken"

    def test_a_server_of_the_users(self, mongod: Mongod, tmp_path: Path) -> None:
        assert doctor(tmp_path / "w", self.NAME, fiftyone_uri=mongod.uri).state == "ok"
        absent = f"mongodb://saa:hunter2@127.0.0.1:{free_port()}/?serverSelectionTimeoutMS=100"
        broken = doctor(tmp_path / "w", self.NAME, fiftyone_uri=absent)
        assert broken.state == "broken"
        assert "hunter2" not in repr(broken)
