"""deploy/ says the same as the code: commands, ports, variables; and publishes nothing beyond this machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli.services import Service
from flows.services import FIRST_DOORBELL_PORT, serve_in
from integrations import prefect_server
from integrations.fiftyone import lifecycle as fiftyone
from integrations.fiftyone import mongod
from integrations.http_daemon import HttpDaemon
from integrations.label_studio import lifecycle as label_studio
from integrations.label_studio import server

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
PREFECT, SERVE = prefect_server.server_in(Path("w")), serve_in(Path("w"))
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]


def lines(unit: str) -> list[tuple[str, str]]:
    found = (line.partition("=") for line in (DEPLOY / unit).read_text().splitlines() if "=" in line and line[0] != "#")
    return [(name, value) for name, _, value in found]


def command(unit: str) -> list[str]:
    (found,) = (value for name, value in lines(unit) if name == "ExecStart")
    return found.split()


def environment(unit: str) -> dict[str, str]:
    return dict(value.split("=", 1) for name, value in lines(unit) if name == "Environment")


def words(daemon: HttpDaemon, port: int) -> list[str]:
    return ["-P", "-m", daemon.module, *(word.replace("{port}", str(port)) for word in daemon.arguments)]


def variables(daemon: HttpDaemon, port: int) -> dict[str, str]:
    """What its environment has to hold; where its home is, and that it is nobody's client, is the file's own."""
    named = {name: value.replace("{port}", str(port)) for name, value in daemon.variables.items()}
    return {name: value for name, value in named.items() if name not in ("PREFECT_HOME", "PREFECT_API_URL")}


def test_the_units_start_what_services_up_starts() -> None:
    port = prefect_server.FIRST_PORT
    assert command("saa-prefect.service") == ["/opt/saa/.venv/bin/python", *words(PREFECT, port)]
    assert variables(PREFECT, port).items() <= environment("saa-prefect.service").items()
    assert command("saa-serve.service") == ["/opt/saa/.venv/bin/saa", *SERVE.arguments[:2], str(FIRST_DOORBELL_PORT)]
    assert environment("saa-serve.service")["PREFECT_API_URL"] == f"http://127.0.0.1:{port}/api"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd to ask")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for unit in DEPLOY.glob("*.service"):  # with programs and users that are on this machine
        text = re.sub(r"/opt/saa/\.venv/bin/\w+", "/bin/true", unit.read_text()).replace("User=saa", "User=root")
        (tmp_path / unit.name).write_text(text)
    units = sorted(map(str, tmp_path.iterdir()))
    found = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")


def test_compose_runs_every_service_with_the_same_words() -> None:
    assert set(COMPOSE) == {*Service, "mongod"}
    port = prefect_server.FIRST_PORT
    inside = {"127.0.0.1": "0.0.0.0"}  # of a container; what is published is another matter
    assert COMPOSE["prefect"]["command"] == ["python", *(inside.get(word, word) for word in words(PREFECT, port))]
    wanted = variables(PREFECT, port) | {"PREFECT_SERVER_API_HOST": "0.0.0.0"}
    assert wanted.items() <= COMPOSE["prefect"]["environment"].items()
    assert COMPOSE["serve"]["command"][:2] == ["saa", SERVE.arguments[0]]
    assert COMPOSE["label-studio"]["image"].endswith(f":{server.VERSION}")
    assert COMPOSE["mongod"]["image"].endswith(f":{mongod.VERSION}")


@pytest.mark.parametrize(
    ("name", "port"),
    [
        (prefect_server.NAME, prefect_server.FIRST_PORT),
        (label_studio.NAME, label_studio.FIRST_PORT),
        (fiftyone.NAME, fiftyone.FIRST_APP_PORT),
        ("serve", FIRST_DOORBELL_PORT),
    ],
)
def test_compose_publishes_on_the_loopback_interface_alone(name: str, port: int) -> None:
    assert COMPOSE[name]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_nothing_else_is_published_and_no_secret_is_written_down() -> None:
    assert "ports" not in COMPOSE["mongod"]
    text = (DEPLOY / "compose.yaml").read_text()
    assert not any(word in text.lower() for word in ("token:", "password:", "secret:", "network_mode"))
