"""The webhook of a project on a real server: made once, corrected where it differs, refused with advice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from integrations.label_studio import server
from integrations.label_studio.client import Client
from integrations.label_studio.webhook import ACTIONS, register, webhook_secret
from saa_core.errors import ServiceError, SettingsError, StoreError
from tests.label_studio_server import Server

URL = "http://127.0.0.1:8765/label-studio/cap"
OTHERS = "http://127.0.0.1:9999/somebody-else"
CONFIG = """<View><Image name="image" value="$image"/><Choices name="verdict" toName="image"><Choice value="good"/>
</Choices></View>"""


class Door:
    """A client whose writes are counted, a project, and what the server says of its webhooks."""

    def __init__(self, running: Server, http: httpx.Client) -> None:
        self.http = http
        self.writes = 0
        self.client = Client(running.url, running.token, transport=_Counted(self))
        self.project = int(http.post("/api/projects/", json={"title": "door", "label_config": CONFIG}).json()["id"])

    def hooks(self) -> list[dict[str, Any]]:
        hooks = self.http.get("/api/webhooks/", params={"project": self.project}).raise_for_status().json()
        return sorted(hooks, key=lambda hook: int(hook["id"]))

    def add(self, **fields: Any) -> int:
        answer = self.http.post("/api/webhooks/", json={"project": self.project, **fields}).raise_for_status()
        return int(answer.json()["id"])


class _Counted(httpx.BaseTransport):
    def __init__(self, door: Door) -> None:
        self._door = door
        self._network = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._door.writes += request.method != "GET"
        return self._network.handle_request(request)

    def close(self) -> None:
        self._network.close()


@pytest.fixture
def door(label_studio: Server) -> Iterator[Door]:
    with label_studio.http() as http:
        door = Door(label_studio, http)
        with door.client:
            yield door
        http.delete(f"/api/projects/{door.project}/").raise_for_status()


def test_a_webhook_is_made_once(door: Door) -> None:
    assert register(door.client, door.project, URL, "s1") is True
    (hook,) = door.hooks()
    assert hook["url"] == URL
    assert hook["headers"] == {"X-SAA-Secret": "s1"}
    assert sorted(hook["actions"]) == sorted(ACTIONS)
    assert (hook["send_payload"], hook["send_for_all_actions"], hook["is_active"]) == (False, False, True)
    assert register(door.client, door.project, URL, "s1") is False
    assert door.hooks() == [hook]
    assert door.writes == 1


@pytest.mark.parametrize(
    "change",
    [
        {"headers": {"X-SAA-Secret": "old"}},
        {"actions": ["ANNOTATION_CREATED"]},
        {"actions": [*ACTIONS, "TASKS_CREATED"]},
        {"send_payload": True},
        {"send_for_all_actions": True},
        {"is_active": False},
        {"url": "http://127.0.0.1:1/label-studio/cap"},
    ],
)
def test_what_differs_is_corrected(door: Door, change: dict[str, Any]) -> None:
    register(door.client, door.project, URL, "s1")
    (right,) = door.hooks()
    # Without its actions the server would clear them, and every case would be the same one.
    changed = {"actions": list(ACTIONS), **change}
    door.http.patch(f"/api/webhooks/{right['id']}/", json=changed).raise_for_status()
    assert register(door.client, door.project, URL, "s1") is True
    (hook,) = door.hooks()
    assert {**hook, "updated_at": None} == {**right, "updated_at": None}
    assert register(door.client, door.project, URL, "s1") is False
    assert door.writes == 2


def test_a_second_one_of_ours_goes_and_those_of_others_stay(door: Door) -> None:
    foreign = door.add(url=OTHERS, headers={"X-Hook-Secret": "theirs"}, actions=["TASKS_CREATED"])
    first = door.add(url=URL, headers={"X-SAA-Secret": "s1"}, send_payload=False, actions=list(ACTIONS))
    door.add(url=URL, headers={}, actions=[])
    door.add(url="http://127.0.0.1:1/old", headers={"X-SAA-Secret": "s0"}, actions=[])
    assert register(door.client, door.project, URL, "s1") is True
    assert [hook["id"] for hook in door.hooks()] == [foreign, first]
    assert register(door.client, door.project, URL, "s1") is False


def test_webhooks_of_another_project_are_not_ours(door: Door) -> None:
    register(door.client, door.project, URL, "s1")
    body = {"title": "another", "label_config": CONFIG}
    another = int(door.http.post("/api/projects/", json=body).json()["id"])
    assert register(door.client, another, URL, "s2") is True
    assert [hook["headers"]["X-SAA-Secret"] for hook in door.hooks()] == ["s1"]
    door.http.delete(f"/api/projects/{another}/").raise_for_status()


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("http://doorbell:8765/label-studio/cap", "no host name without a dot"),
        ("http://[::1]:8765/label-studio/cap", "knows no IPv6"),
        ("http://doorbell.invalid:8765/label-studio/cap", "cannot find this host"),
    ],
)
def test_an_address_that_the_server_does_not_take(door: Door, url: str, advice: str) -> None:
    with pytest.raises(ServiceError, match=advice) as error:
        register(door.client, door.project, url, "s1")
    assert url in str(error.value)
    assert "s1" not in str(error.value)
    assert door.hooks() == []


@pytest.mark.slow
def test_a_server_with_its_guard_up_says_which_setting_lets_it_ring(own_label_studio: Server) -> None:
    own = own_label_studio
    with own.http() as http:
        project = http.post("/api/projects/", json={"title": "guarded", "label_config": CONFIG}).json()["id"]
    own.kill()
    guard = {"LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS": "true"}
    process = own.process = server.launch(own.program, own.home, own.port, extra=guard)
    server.wait(own.home, own.port, lambda: process.poll() is None)
    with Client(own.url, own.token) as client, pytest.raises(ServiceError, match="BANNED_SUBNETS=false") as error:
        register(client, project, URL, "s1")
    assert error.value.status == 403


@pytest.mark.parametrize(
    "url",
    [
        "ftp://bell/label-studio/cap",
        "bell:8765/label-studio/cap",
        "http:///label-studio/cap",
        "http://bell/label-studio/cap?secret=s1",
        "http://bell/label-studio/cap#s1",
        "http://me:hunter2@bell/label-studio/cap",
        "http://hunter2@bell/label-studio/cap",
        "http://bell:port/hunter2",
        "",
    ],
)
def test_what_is_no_address_is_not_sent_and_not_shown(url: str) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise AssertionError("something was sent")

    with (
        Client("http://server", "token", transport=httpx.MockTransport(refuse)) as client,
        pytest.raises(SettingsError) as error,
    ):
        register(client, 7, url, "s1")
    assert "hunter2" not in str(error.value)
    assert "s1" not in str(error.value)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_other_refusals_are_told_as_they_are(status: int) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json=[])
        assert json.loads(request.content)["headers"] == {"X-SAA-Secret": "s1"}
        return httpx.Response(status, json={"detail": "You do not have permission"})

    with (
        Client("http://server", "token", transport=httpx.MockTransport(answer)) as client,
        pytest.raises(ServiceError, match="You do not have permission") as error,
    ):
        register(client, 7, URL, "s1")
    assert error.value.status == status
    assert "s1" not in str(error.value)


def test_the_secret_of_a_workspace_is_made_once_and_for_nobody_else(tmp_path: Path) -> None:
    made = webhook_secret(tmp_path)
    assert len(made) >= 40
    assert webhook_secret(tmp_path) == made != webhook_secret(tmp_path / "another")
    assert (tmp_path / "secrets" / "webhook").stat().st_mode & 0o777 == 0o600


def test_a_secret_that_no_header_holds_is_refused(tmp_path: Path) -> None:
    webhook_secret(tmp_path)
    path = tmp_path / "secrets" / "webhook"
    path.write_text("two wörds")
    with pytest.raises(StoreError, match="no header") as error:
        webhook_secret(tmp_path)
    assert "wörds" not in str(error.value)
