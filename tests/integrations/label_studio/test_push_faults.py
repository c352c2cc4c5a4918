"""Servers that die, lie, refuse and forget while a run is pushed: never a task twice, never one lost."""

from __future__ import annotations

import resource
from collections.abc import Callable

import httpx
import pytest

from integrations.label_studio.client import Client
from saa_core.errors import AnswerLostError, ServiceError, StoreError
from tests.desk import Desk, bundle

Answer = Callable[[], httpx.Response]


class Faulty(httpx.HTTPTransport):
    """The real server, with one fault at the first write whose path ends as given."""

    def __init__(self, ending: str, fault: Answer, *, store: bool) -> None:
        super().__init__()
        self.ending, self.fault, self.store = ending, fault, store
        self.sent = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET" or not request.url.path.endswith(self.ending):
            return super().handle_request(request)
        self.sent += 1
        if self.sent > 1:
            return super().handle_request(request)
        if self.store:
            super().handle_request(request).read()
        return self.fault()


def dropped() -> httpx.Response:
    raise httpx.RemoteProtocolError("Server disconnected without sending a response.")


def silent() -> httpx.Response:
    raise httpx.ReadTimeout("timed out")


def garbled() -> httpx.Response:
    return httpx.Response(201, text="<html><title>Welcome to the hotel's network</title></html>")


def faulty(desk: Desk, transport: Faulty) -> Client:
    return Client(desk.server.url, desk.server.token, transport=transport)


def everything_is_there_once(desk: Desk) -> None:
    assert sorted(desk.tasks()) == [item.name for item in desk.items]
    versions = [task["predictions_model_versions"] for task in desk.tasks().values()]
    assert versions == [desk.request().version] * len(desk.items)
    noted = desk.catalog.predictions(desk.target)
    assert {record.image for record in noted} == {item.ref.key for item in desk.items}
    assert desk.push().writes == 0


@pytest.mark.parametrize("fault", [dropped, silent, garbled])
def test_the_answer_is_lost_after_the_batch_was_stored(desk: Desk, fault: Answer) -> None:
    desk.photograph(4)
    transport = Faulty("/import", fault, store=True)
    with faulty(desk, transport) as client:
        report = desk.push(client=client)
    assert (report.tasks, report.predictions, transport.sent) == (4, 4, 1)
    everything_is_there_once(desk)


@pytest.mark.parametrize("fault", [dropped, silent])
def test_the_batch_is_lost_on_its_way(desk: Desk, fault: Answer) -> None:
    desk.photograph(4)
    transport = Faulty("/import", fault, store=False)
    with faulty(desk, transport) as client, pytest.raises(AnswerLostError):
        desk.push(client=client, patience=1)
    assert transport.sent == 1
    assert desk.tasks() == {}
    assert desk.push().tasks == 4
    everything_is_there_once(desk)


@pytest.mark.parametrize("store", [True, False])
def test_the_answer_to_predictions_is_lost(desk: Desk, store: bool) -> None:
    desk.photograph(4)
    first = desk.push().version
    desk.label_again("run2")
    transport = Faulty("/import/predictions", dropped, store=store)
    with faulty(desk, transport) as client:
        if store:
            assert desk.push(client=client).predictions == 4
        else:
            with pytest.raises(AnswerLostError):
                desk.push(client=client, patience=1)
            assert desk.push().predictions == 4
    for task in desk.tasks().values():
        assert sorted(task["predictions_model_versions"].split(",")) == sorted([first, desk.request().version])
    assert desk.push().writes == 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.Response(429, json={"detail": "slow down"}), "429|too many"),
        (httpx.Response(500, json={"detail": "broken"}), "500"),
        (httpx.Response(413, text="too large"), "413|too large"),
        (httpx.Response(500, text="<html><title>Bad day</title></html>"), "Bad day|500"),
        (httpx.Response(403, json={"detail": "no"}), "403|permission|not allowed"),
    ],
)
def test_a_refused_batch_ends_the_push_and_the_next_one_completes_it(
    desk: Desk, answer: httpx.Response, words: str
) -> None:
    desk.photograph(4)
    transport = Faulty("/import", lambda: answer, store=False)
    with faulty(desk, transport) as client, pytest.raises(ServiceError, match=words):
        desk.push(client=client)
    assert transport.sent == 1
    assert desk.catalog.predictions(desk.target) == ()
    assert desk.push().tasks == 4
    everything_is_there_once(desk)


def test_a_server_that_stores_less_than_it_was_sent_is_not_believed(desk: Desk) -> None:
    desk.photograph(2)
    few = httpx.Response(201, json={"task_ids": [1], "task_count": 1, "prediction_count": 1})
    with (
        faulty(desk, Faulty("/import", lambda: few, store=False)) as client,
        pytest.raises(ServiceError, match="stored 1 of 2 tasks"),
    ):
        desk.push(client=client)


def test_the_server_is_down_before_the_push(own_desk: Desk) -> None:
    own_desk.photograph(2)
    own_desk.server.kill()
    with pytest.raises(ServiceError, match=r"does not answer|no connection|refused"):
        own_desk.push()
    own_desk.server.relaunch()
    assert own_desk.push().tasks == 2
    everything_is_there_once(own_desk)


def test_the_server_is_killed_between_batches(own_desk: Desk) -> None:
    own_desk.photograph(300, regions=1)

    def kill(step: str, done: int, total: int) -> None:
        if step == "pushing tasks":
            own_desk.server.kill()

    with pytest.raises(ServiceError):
        own_desk.push(advance=kill)
    own_desk.server.relaunch()
    assert len(own_desk.tasks()) == 250
    report = own_desk.push()
    assert (report.tasks, report.present) == (50, 250)
    everything_is_there_once(own_desk)


def test_the_project_is_deleted_between_batches(desk: Desk) -> None:
    desk.photograph(300, regions=0)

    def delete(step: str, done: int, total: int) -> None:
        if step == "pushing tasks":
            desk.client.delete(f"/api/projects/{desk.project}/")

    with pytest.raises(ServiceError, match="the project was deleted"):
        desk.push(advance=delete)
    report = desk.push()
    assert (report.tasks, report.present) == (300, 0)
    assert len(desk.tasks()) == 300


@pytest.mark.slow
def test_the_labels_are_changed_between_batches(desk: Desk) -> None:
    desk.photograph(300, regions=2)

    def change(step: str, done: int, total: int) -> None:
        if step == "pushing tasks" and done == 250:
            path = f"/api/projects/{desk.project}/"
            config = desk.client.get(path)["label_config"]
            desk.client.patch(path, {"label_config": config.replace('value="dent"', 'value="bump"')})

    with pytest.raises(ServiceError, match="its labeling config lost dent"):
        desk.push(advance=change)
    report = desk.push()
    assert report.tasks == 50
    assert "labels added to the labeling config: dent" in report.notes
    everything_is_there_once(desk)


def test_a_wrong_token_writes_nothing(desk: Desk) -> None:
    desk.photograph(1)
    with Client(desk.server.url, "0" * 40) as client, pytest.raises(ServiceError) as error:
        desk.push(client=client)
    assert error.value.status == 401
    assert desk.client.get("/api/projects/")["results"] == []


def test_our_disk_is_full_and_the_next_push_notes_what_the_server_has(desk: Desk) -> None:
    desk.photograph(3)
    desk.push()
    desk.label_again("run2", bundle("scratch", "dent", "rust"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        with pytest.raises(StoreError, match="disk"):
            desk.push()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    report = desk.push()
    assert (report.tasks, report.predictions, report.present) == (0, 0, 3)
    versions = [record.version for record in desk.catalog.predictions(desk.target)]
    assert versions.count(desk.request().version) == 3
