"""What comes back from a real server, and that it comes back once."""

from __future__ import annotations

import json
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from integrations.catalog import Catalog
from integrations.label_studio.client import Client
from integrations.label_studio.listing import _next_size, list_tasks
from integrations.label_studio.payload import KEY
from integrations.label_studio.pull import pull
from saa_core.errors import ServiceError, StoreError
from saa_core.reviews import evidence
from tests.desk import Desk, box, bundle, changed, row, verdict, words

BOTH = ("accepted", "accepted")


def outcomes(desk: Desk, name: str) -> tuple[str, ...]:
    return tuple(region.outcome for region in desk.review(name).regions)


def test_every_outcome(desk: Desk) -> None:
    desk.photograph(10)
    desk.push()
    names = [item.name for item in desk.items]
    _, shown = desk.shown(names[1])
    smaller = list(row(box(0, 0, 6, 4))["value"]["rle"])
    desk.answer(names[0])
    desk.answer(names[1], [changed(shown[0], rle=smaller), shown[1]])
    desk.answer(names[2], [desk.shown(names[2])[1][1]])
    desk.answer(names[3], [*desk.shown(names[3])[1], row(box(18, 20), "dent"), words("drawn-by-hand", "grease spot")])
    desk.answer(names[4], [changed(content, brushlabels=["dent"]) for content in desk.shown(names[4])[1]])
    desk.answer(names[5], skip=True)
    desk.answer(names[6], [])
    desk.answer(names[7], [verdict("unsure")])
    desk.answer(names[8], [*desk.shown(names[8])[1], verdict("defective")])
    report = desk.pull()
    assert outcomes(desk, names[0]) == BOTH
    assert outcomes(desk, names[1]) == ("adjusted", "accepted")
    assert desk.review(names[1]).regions[0].iou == 0.5
    assert outcomes(desk, names[2]) == ("rejected", "accepted")
    assert outcomes(desk, names[3]) == (*BOTH, "added")
    assert desk.review(names[3]).regions[2].reviewed is not None
    assert desk.review(names[3]).regions[2].reviewed.words == "grease spot"
    assert outcomes(desk, names[4]) == ("relabelled", "accepted")  # the second was a dent already
    assert (desk.review(names[5]).state, desk.review(names[5]).regions, desk.review(names[5]).finding) == (
        "skipped",
        (),
        None,
    )
    assert (outcomes(desk, names[6]), desk.review(names[6]).finding) == (("rejected", "rejected"), "good")
    assert (desk.review(names[7]).verdict, desk.review(names[7]).finding) == ("unsure", None)
    assert (desk.review(names[8]).verdict, desk.review(names[8]).finding) == ("defective", "defective")
    assert names[9] not in desk.reviews()
    assert dict(report.states) == {"submitted": 8, "skipped": 1}
    assert dict(report.outcomes) == {"accepted": 9, "adjusted": 1, "rejected": 3, "added": 1, "relabelled": 1}
    assert dict(report.findings) == {"defective": 6, "good": 1, "nothing": 1}


def test_untouched_masks_are_the_same_to_the_bit_and_the_facts_are_kept(desk: Desk) -> None:
    desk.photograph(1)
    desk.push()
    number = desk.answer("0000.png", seconds=31.25)
    desk.pull()
    review, item = desk.review("0000.png"), desk.items[0]
    assert [region.reviewed.mask for region in review.regions if region.reviewed] == [r.mask for r in item.regions]
    assert (review.lead_seconds, review.annotator) == (31.25, desk.server.email)
    assert review.id == f"{desk.tasks()['0000.png']['id']}/{number}"
    assert (review.run, review.bundle, review.aided) == ("run1", desk.bundle.id, True)
    annotation = desk.task("0000.png")["annotations"][0]
    assert review.updated == datetime.fromisoformat(annotation["updated_at"])


def test_a_second_pull_finds_nothing_new(desk: Desk) -> None:
    desk.photograph(3)
    desk.push()
    desk.answer("0000.png")
    desk.answer("0001.png", skip=True)
    assert desk.pull().states.total() == 2
    before = desk.reviews()
    report = desk.pull()
    assert (report.states.total(), report.sentence()) == (0, "nothing new")
    assert desk.reviews() == before
    desk.answer("0002.png")
    assert desk.pull().states.total() == 1


def test_a_changed_review_stands_beside_the_older_one(desk: Desk) -> None:
    desk.photograph(1)
    desk.push()
    number = desk.answer("0000.png")
    desk.pull()
    with desk.server.http() as http:
        http.patch(f"/api/annotations/{number}/", json={"result": []}).raise_for_status()
    assert desk.pull().states == {"submitted": 1}
    old, new = desk.reviews()["0000.png"]
    assert (old.finding, new.finding) == ("defective", "good")
    assert old.id == new.id
    assert [review.finding for review in evidence(desk.catalog.reviews("plate")).values()] == ["good"]


def test_contradictions_are_named(desk: Desk) -> None:
    desk.photograph(2)
    desk.push()
    desk.answer("0000.png", [*desk.shown("0000.png")[1], verdict("good")])
    desk.answer("0001.png", [verdict("good")])
    report = desk.pull()
    assert report.contradictory == ["0000.png"]
    assert report.remarks() == ["0000.png is called good and has regions; look at it again"]
    assert dict(report.findings) == {"nothing": 1, "good": 1}
    assert dict(report.outcomes) == {"rejected": 2}
    assert (
        report.sentence() == "2 new reviews: 2 submitted; images: 1 good, 0 defective, 1 undecided; regions: 2 rejected"
    )


def test_a_deleted_annotation_is_withdrawn_once(desk: Desk) -> None:
    desk.photograph(2)
    desk.push()
    number = desk.answer("0000.png")
    desk.answer("0001.png")
    desk.pull()
    desk.client.delete(f"/api/annotations/{number}/")
    assert desk.pull().states == {"withdrawn": 1}
    assert [review.state for review in desk.reviews()["0000.png"]] == ["submitted", "withdrawn"]
    assert [review.image for review in evidence(desk.catalog.reviews("plate")).values()] == [desk.items[1].ref.key]
    assert desk.pull().states.total() == 0


def test_a_deleted_task_is_noticed_its_reviews_kept_and_a_push_makes_it_again(desk: Desk) -> None:
    desk.photograph(2)
    desk.push()
    desk.answer("0000.png")
    desk.pull()
    desk.client.delete(f"/api/tasks/{desk.tasks()['0000.png']['id']}/")
    report = desk.pull()
    assert report.vanished == ["0000.png"]
    assert "1 tasks are gone from the project; their reviews are kept" in report.remarks()
    assert [review.state for review in desk.reviews()["0000.png"]] == ["submitted"]
    assert desk.push().tasks == 1
    assert sorted(desk.tasks()) == ["0000.png", "0001.png"]
    desk.answer("0000.png", [])
    assert desk.pull().vanished == []
    assert desk.review("0000.png").finding == "good"


def test_reviews_of_images_without_masks_are_compared_by_place(desk: Desk) -> None:
    desk.photograph(1)
    desk.push(unaided=1.0)
    drawn = row(box(0, 0, 6, 7), "scratch")
    desk.answer("0000.png", [drawn, row(box(18, 20), identity="other")])
    report = desk.pull()
    review = desk.review("0000.png")
    assert not review.aided
    assert outcomes(desk, "0000.png") == ("adjusted", "rejected", "added")
    assert (report.unaided, report.outcomes.total()) == (1, 0)  # nobody accepted or rejected anything


def test_regions_without_ids_are_found_by_place(desk: Desk) -> None:
    desk.photograph(2)
    desk.push()
    nameless = [{key: value for key, value in content.items() if key != "id"} for content in desk.shown("0000.png")[1]]
    desk.answer("0000.png", nameless, parent=None)
    desk.answer("0001.png", [row(box(0, 0, 6, 7), "scratch", "x"), row(box(18, 20), identity="y")], parent=None)
    desk.pull()
    assert outcomes(desk, "0000.png") == BOTH
    assert outcomes(desk, "0001.png") == ("adjusted", "rejected", "added")


def test_a_region_drawn_over_a_deleted_one_is_not_the_deleted_one(desk: Desk) -> None:
    desk.photograph(1)
    desk.push()
    desk.answer("0000.png", [row(box(0, 0), "scratch")])
    desk.pull()
    assert outcomes(desk, "0000.png") == ("rejected", "rejected", "added")


def test_the_version_that_the_expert_worked_from_is_found(desk: Desk) -> None:
    desk.photograph(3)
    desk.push()
    old_parent, old_rows = desk.shown("0000.png")
    rejected_parent, _ = desk.shown("0001.png")
    desk.label_again("run2", bundle("scratch", "dent", "rust"))
    desk.push()
    desk.answer("0000.png", old_rows, parent=old_parent)
    desk.answer("0001.png", [], parent=rejected_parent)
    desk.answer("0002.png")
    desk.pull()
    assert [desk.review(name).run for name in ("0000.png", "0001.png", "0002.png")] == ["run1", "run1", "run2"]
    assert outcomes(desk, "0000.png") == outcomes(desk, "0002.png") == BOTH
    assert outcomes(desk, "0001.png") == ("rejected", "rejected")


def test_a_deleted_version_leaves_its_reviews_readable(desk: Desk) -> None:
    desk.photograph(2)
    report = desk.push()
    desk.answer("0000.png")
    desk.answer("0001.png", [])
    desk.client.delete(f"/api/projects/{report.project}/model-versions/", {"model_version": report.version})
    desk.pull()
    assert outcomes(desk, "0000.png") == BOTH
    assert outcomes(desk, "0001.png") == ("rejected", "rejected")


@contextmanager
def second_expert(desk: Desk) -> Iterator[httpx.Client]:
    """Another user of the server, with a token of their own."""
    body = {"email": "second@example.com", "username": "second", "first_name": "S"}
    with desk.server.http() as http:
        made = http.post("/api/users/", json=body).raise_for_status().json()
    database = next(desk.server.home.folder.rglob("*.sqlite3"))
    with sqlite3.connect(database) as connection:
        token = "f" * 40
        connection.execute("DELETE FROM authtoken_token WHERE user_id = ?", (made["id"],))
        connection.execute(
            "INSERT INTO authtoken_token (key, created, user_id) VALUES (?, ?, ?)",
            (token, "2026-01-01 00:00:00", made["id"]),
        )
    connection.close()
    headers = {"Authorization": f"Token {token}"}
    with httpx.Client(base_url=desk.server.url, headers=headers, trust_env=False, timeout=60) as http:
        yield http
    with desk.server.http() as http:
        http.delete(f"/api/users/{made['id']}/").raise_for_status()


def test_annotators_are_kept_apart_and_their_disagreement_is_reported(desk: Desk) -> None:
    desk.photograph(2)
    desk.push()
    with second_expert(desk) as second:
        desk.answer("0000.png")
        desk.answer("0000.png", [], http=second)
        desk.answer("0001.png")
        desk.answer("0001.png", http=second)
        report = desk.pull()
    people = {review.annotator for review in desk.reviews()["0000.png"]}
    assert people == {desk.server.email, "second@example.com"}
    (only,) = report.disagreements
    assert (only.image, only.annotators) == ("0000.png", tuple(sorted(people)))
    newest = evidence(desk.catalog.reviews("plate"))[desk.items[0].ref.key]
    assert (newest.annotator, newest.finding) == ("second@example.com", "good")


def test_what_cannot_be_read_is_refused_and_the_others_go_on(desk: Desk) -> None:
    desk.photograph(6)
    desk.push()
    _, shown = desk.shown("0000.png")
    desk.answer("0000.png", [{"foo": 1}])
    desk.answer("0001.png", [changed(shown[0], rle=[1, 2, 3])])
    desk.answer("0002.png", [{**shown[0], "original_width": 999}])
    desk.answer("0003.png", [shown[0], shown[0]])
    desk.answer("0004.png", [changed(shown[0], rle=[300, -5])])
    desk.answer("0005.png")
    report = desk.pull()
    assert len(report.refused) == 4
    assert all("cannot be read" in reason or "twice" in reason for _, reason in report.refused), report.refused
    assert outcomes(desk, "0005.png") == BOTH
    states = {name: desk.review(name).state for name in desk.reviews()}
    unreadable = dict.fromkeys(["0001.png", "0002.png", "0003.png", "0004.png"], "unreadable")
    assert states == {
        "0000.png": "submitted",
        **unreadable,
        "0005.png": "submitted",
    }  # a row that says nothing is empty


def test_what_is_no_mask_is_counted_and_left(desk: Desk) -> None:
    desk.photograph(1)
    desk.push()
    rectangle = {
        "id": "b1",
        "from_name": "box",
        "to_name": "image",
        "type": "rectanglelabels",
        "value": {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": 0, "rectanglelabels": ["dent"]},
    }
    desk.answer("0000.png", [*desk.shown("0000.png")[1], rectangle])
    with desk.server.http() as http:
        task = {"data": {"image": "/x.png", "title": "theirs"}, "annotations": [{"result": []}]}
        http.post(f"/api/projects/{desk.project}/import", json=[task]).raise_for_status()
    report = desk.pull()
    assert (report.ignored, report.foreign) == (1, 1)
    assert outcomes(desk, "0000.png") == BOTH


@pytest.mark.slow
def test_more_tasks_than_a_page(desk: Desk) -> None:
    desk.photograph(260, regions=1)
    desk.push()
    with desk.server.http() as http:
        items = {"all": True, "excluded": []}
        path = f"/api/dm/actions?project={desk.project}&id=predictions_to_annotations"
        http.post(path, json={"selectedItems": items, "project": desk.project}).raise_for_status()
    report = desk.pull()
    assert dict(report.outcomes) == {"accepted": 260}
    assert desk.pull().states.total() == 0


# -------------------------------------------------------------------------------------------------------------- faults


def test_nothing_was_pushed(desk: Desk) -> None:
    desk.photograph(1)
    desk.push()
    desk.client.delete(f"/api/projects/{desk.project}/")
    with pytest.raises(ServiceError, match="the project was deleted") as error:
        desk.pull()
    assert error.value.status == 404
    assert desk.push().notes[0].startswith("project ")
    assert desk.pull().states.total() == 0


class _Dated(httpx.HTTPTransport):
    """The server as if its clock were wrong."""

    def __init__(self, hours: float) -> None:
        super().__init__()
        self.hours = hours

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        wrong = datetime.now(UTC) + timedelta(hours=self.hours)
        response.headers["Date"] = wrong.strftime("%a, %d %b %Y %H:%M:%S GMT")
        return response


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_is_wrong_loses_no_review(desk: Desk, hours: float) -> None:
    desk.photograph(3)
    desk.push()
    with Client(desk.server.url, desk.server.token, transport=_Dated(hours)) as client:
        desk.answer("0000.png")
        assert desk.pull(client).states.total() == 1
        desk.answer("0001.png")
        assert desk.pull(client).states.total() == 1
    desk.answer("0002.png")
    assert desk.pull().states.total() == 1
    assert desk.pull().states.total() == 0


def test_a_full_disk_moves_no_cursor(desk: Desk) -> None:
    desk.photograph(1)
    desk.push()
    desk.answer("0000.png")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        with pytest.raises(StoreError):
            desk.pull()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert desk.reviews() == {}
    assert desk.pull().states.total() == 1


def test_tasks_that_are_made_and_deleted_between_pages_hide_no_other() -> None:
    ids = list(range(1, 201))
    pages = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal pages
        pages += 1
        (after,) = json.loads(request.url.params["query"])["filters"]["items"]
        found = [number for number in ids if number > after["value"]][: int(request.url.params["page_size"])]
        content: dict[str, Any] = {"total": len(ids), "tasks": [{"id": number} for number in found]}
        if pages == 1:
            ids.remove(3)  # all others move up a place
            ids.append(201)
        return httpx.Response(200, json=content)

    with Client("http://127.0.0.1:1", "t" * 40, transport=httpx.MockTransport(answer)) as client:
        seen = [task["id"] for task in list_tasks(client, 1, "id", most=60)]
    assert seen == list(range(1, 202))
    assert pages == 4


def test_a_page_that_takes_long_is_followed_by_smaller_ones() -> None:
    assert [_next_size(60, seconds, 250) for seconds in (0.1, 2, 9)] == [240, 60, 15]
    assert (_next_size(240, 0.1, 250), _next_size(2, 60, 250)) == (250, 1)


# ------------------------------------------------------------------------------------------- what a review brought up


def test_an_answer_that_came_before_its_task_was_noted_is_not_lost(desk: Desk) -> None:
    desk.photograph(4)
    desk.items, late = desk.items[:2], desk.items[2:]
    desk.push()
    first = desk.catalog
    desk.items += late
    with Catalog(f"sqlite:///{desk.folder / 'other.sqlite'}") as other:  # a push that was killed before it could note
        desk.catalog = other
        desk.note_run()
        desk.push()
        desk.answer("0003.png")
    desk.catalog = first
    assert desk.pull().foreign == 1
    assert desk.push().writes == 0
    assert desk.pull().states == {"submitted": 1}
    assert outcomes(desk, "0003.png") == BOTH


def test_an_answer_on_a_second_task_of_an_image_counts(desk: Desk) -> None:
    desk.photograph(1)
    desk.push()
    with desk.server.http() as http:
        again = [{"data": {"image": "/x.png", "title": "0000.png", KEY: desk.items[0].ref.key}}]
        path = f"/api/projects/{desk.project}/import?return_task_ids=true"
        (number,) = http.post(path, json=again).raise_for_status().json()["task_ids"]
        http.post(f"/api/tasks/{number}/annotations/", json={"result": []}).raise_for_status()
    assert desk.pull().findings == {"good": 1}
    assert desk.push().notes == ["1 tasks repeat an image; the oldest of each is used"]


def test_another_project_at_the_same_address_is_not_taken_for_ours(desk: Desk) -> None:
    desk.photograph(1)
    desk.push()
    with desk.server.http() as http:
        other = http.post("/api/projects/", json={"title": "theirs", "label_config": "<View/>"}).json()["id"]
    with pytest.raises(ServiceError, match="not the project that was pushed to"):
        pull(desk.client, desk.catalog, "plate", other)


def test_a_rebuilt_server_withdraws_nothing(own_desk: Desk) -> None:
    desk = own_desk
    desk.photograph(2)
    desk.push()
    desk.answer("0000.png")
    desk.pull()
    desk.server.kill()
    for file in desk.server.home.data.glob("*.sqlite3*"):
        file.unlink()
    shutil.copy(next(desk.fresh.glob("*.sqlite3")), desk.server.home.data)
    desk.server.relaunch()
    assert desk.push().tasks == 2
    assert desk.pull().states.total() == 0
    assert [review.finding for review in evidence(desk.catalog.reviews("plate")).values()] == ["defective"]


def test_other_controls_than_ours_are_not_read(desk: Desk) -> None:
    desk.photograph(1)
    desk.push()
    quality = {**verdict("good"), "id": "q", "from_name": "photo quality"}
    part = {**row(box(18, 20), "lid", "p1"), "from_name": "parts"}
    note = {**words(desk.items[0].regions[0].id, "see ticket 7"), "from_name": "note"}
    desk.answer("0000.png", [*desk.shown("0000.png")[1], quality, part, note])
    assert desk.pull().ignored == 3
    review = desk.review("0000.png")
    assert (outcomes(desk, "0000.png"), review.verdict, review.finding) == (BOTH, None, "defective")
    assert [region.reviewed.words for region in review.regions if region.reviewed] == ["", ""]


def test_what_cannot_be_read_any_more_does_not_count_any_more(desk: Desk) -> None:
    desk.photograph(1)
    desk.push()
    number = desk.answer("0000.png")
    desk.pull()
    with desk.server.http() as http:
        broken = {"result": [changed(row(box(0, 0)), rle=[1, 2, 3])]}
        http.patch(f"/api/annotations/{number}/", json=broken).raise_for_status()
    assert desk.pull().states == {"unreadable": 1}
    assert evidence(desk.catalog.reviews("plate")) == {}
    assert desk.pull().refused == []


def test_a_server_whose_clock_was_set_back_is_read_again(desk: Desk) -> None:
    desk.photograph(2)
    desk.push()
    desk.pull()
    ahead = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    desk.catalog.add_reviews([], cursor=(desk.target, ahead))
    desk.answer("0000.png")
    assert desk.pull().states.total() == 1
    desk.answer("0001.png")
    assert desk.pull().states.total() == 1


def test_versions_are_asked_for_together(desk: Desk) -> None:
    desk.photograph(30, regions=1)
    desk.push()
    desk.label_again("run2")
    desk.push()
    for name in list(desk.tasks())[:3]:
        desk.answer(name, [])
    asked: list[str] = []

    class Counting(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            asked.append(request.url.path)
            return super().handle_request(request)

    with Client(desk.server.url, desk.server.token, transport=Counting()) as client:
        desk.pull(client)
    assert [desk.review(name).run for name in list(desk.tasks())[:3]] == ["run2"] * 3
    assert len([path for path in asked if path == "/api/tasks/"]) == 2
    assert not [path for path in asked if path.startswith("/api/predictions")]
