"""Projects on the real Label Studio: found, made, kept in shape."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import httpx
import pytest

from integrations.label_studio.client import Client
from integrations.label_studio.labeling_config import build, labels_in, merge
from integrations.label_studio.projects import (
    TABS,
    Project,
    activate,
    apply_config,
    ensure_tabs,
    find_or_make,
    read_project,
)
from saa_core.errors import AnswerLostError, ServiceError
from tests.label_studio_server import Server

LABELS = ("crack", "defect")


@pytest.fixture
def client(label_studio: Server, project_cleanup: None) -> Iterator[Client]:
    with Client(label_studio.url, label_studio.token) as connected:
        yield connected


def find(
    client: Client, product: str = "bottle", *, labels: Sequence[str] = LABELS, remembered: int | None = None
) -> Project:
    return find_or_make(client, product, labels, remembered=remembered)


def row(label: str = "crack") -> dict[str, Any]:
    return {
        "id": "r1",
        "from_name": "mask",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": 1,
        "original_height": 1,
        "image_rotation": 0,
        # One pixel that is on: 4 words, of 8 bits, in one run.
        "value": {"format": "rle", "rle": [0, 0, 0, 4, 57, 27, 252, 15, 248], "brushlabels": [label]},
    }


def add_task(client: Client, project: Project, score: float | None, version: str = "v1") -> int:
    predictions = [] if score is None else [{"model_version": version, "score": score, "result": [row()]}]
    task = {"data": {"image": "/data/x.png", "title": "x"}, "predictions": predictions}
    path = f"/api/projects/{project.id}/import"
    return int(client.post(path, [task], {"return_task_ids": "true"})["task_ids"][0])


def tabs(client: Client, project: Project) -> list[dict[str, Any]]:
    return list(client.get("/api/dm/views/", {"project": project.id}))


def listed(client: Client, view: int) -> list[int]:
    """Ids of tasks as the data manager lists them under a tab."""
    return [task["id"] for task in client.get("/api/tasks/", {"view": view, "page_size": 100})["tasks"]]


# ------------------------------------------------------------------------------------------------------- found and made


def test_a_product_without_a_project_gets_one(client: Client) -> None:
    project = find(client)
    assert project.made
    assert (project.title, project.version, project.notes) == ("bottle (saa)", "", ())
    assert (project.config.xml, project.config.changed) == (build(LABELS), False)
    content = read_project(client, project.id)
    assert content["description"].splitlines()[0] == "saa product: bottle"
    assert content["show_collab_predictions"] is True
    assert content["control_weights"]["mask"]["labels"].keys() == set(LABELS)


def test_a_project_is_found_by_its_description_whatever_its_title(client: Client) -> None:
    made = find(client)
    mine = "Ask Anna first.\r\n  saa product:  bottle \nThank you."
    client.patch(f"/api/projects/{made.id}/", {"title": "Line 4", "description": mine})
    found = find(client)
    assert (found.id, found.made, found.title) == (made.id, False, "Line 4")
    assert read_project(client, made.id)["description"] == mine


def test_products_whose_names_are_alike_are_kept_apart(client: Client) -> None:
    names = ("bottle", "bottle cap", "Bottle", "bottle: large", "Flasche größe ½ <&>", "x", "long " * 30)
    made = [find(client, name) for name in names]
    assert len({project.id for project in made}) == len(names)
    assert [find(client, name).id for name in names] == [project.id for project in made]
    assert all(3 <= len(project.title) <= 50 for project in made)
    assert made[-1].title.endswith("… (saa)")


def test_a_product_name_of_several_lines_is_one(client: Client) -> None:
    assert find(client, "bottle\nsaa product: cap").id == find(client, "bottle saa product: cap").id
    assert find(client, "cap").made


def test_projects_on_later_pages_are_found(label_studio: Server, client: Client) -> None:
    class ShortPages(httpx.HTTPTransport):
        """Lets the server give two projects at a time."""

        asked: ClassVar[list[str]] = []

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            self.asked += request.url.params.get_list("page")
            request.url = request.url.copy_merge_params({"page_size": "2"})
            return super().handle_request(request)

    made = [find(client, product).id for product in ("bottle", "cap", "can", "crate", "label")]
    with Client(label_studio.url, label_studio.token, transport=ShortPages()) as paging:
        assert [find(paging, product).id for product in ("bottle", "cap", "can", "crate", "label")] == made
        assert find(paging, "other").made
    assert ShortPages.asked[:3] == ["1", "2", "3"]


def test_of_several_projects_the_remembered_one_is_used_or_else_the_oldest(client: Client) -> None:
    old = find(client)
    copy = {"title": "copy", "description": "saa product: bottle", "label_config": build(LABELS)}
    new = client.post("/api/projects/", copy)["id"]
    note = f"projects {old.id}, {new} all have the line 'saa product: bottle'; "
    assert (find(client).id, find(client).notes) == (old.id, (f"{note}{old.id} is used",))
    remembered = find(client, remembered=new)
    assert (remembered.id, remembered.notes) == (new, (f"{note}{new} is used",))


def test_a_remembered_project_that_was_deleted_is_made_anew_and_said(client: Client) -> None:
    gone = find(client).id
    client.delete(f"/api/projects/{gone}/")
    project = find(client, remembered=gone)
    assert project.made
    assert project.id != gone
    assert project.notes[0].startswith(f"project {gone}, used before, is not used: it was deleted, or its description")


def test_a_remembered_number_that_is_somebody_elses_project_is_left_alone(client: Client) -> None:
    theirs = client.post("/api/projects/", {"title": "theirs"})
    project = find(client, remembered=theirs["id"])
    assert project.made
    assert project.id != theirs["id"]
    assert read_project(client, theirs["id"])["label_config"] == theirs["label_config"]


def test_a_project_that_hides_predictions_is_noted(client: Client) -> None:
    made = find(client)
    client.patch(f"/api/projects/{made.id}/", {"show_collab_predictions": False})
    assert find(client).notes == (
        f"project {made.id} shows experts no predictions; turn them on under Settings > Annotation",
    )


def test_a_project_whose_making_got_no_answer_is_found_the_next_time(label_studio: Server, client: Client) -> None:
    class Dropping(httpx.HTTPTransport):
        """Hands the request on and loses the answer."""

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            response = super().handle_request(request)
            if request.method == "POST":
                response.close()
                raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
            return response

    with Client(label_studio.url, label_studio.token, transport=Dropping()) as unlucky, pytest.raises(AnswerLostError):
        find(unlucky)
    assert not find(client).made
    assert client.get("/api/projects/")["count"] == 1


# -------------------------------------------------------------------------------------------------------- configuration


def test_new_labels_are_added_and_a_second_time_nothing_is_written(client: Client) -> None:
    made = find(client)
    assert not apply_config(client, made.id, made.config)
    project = find(client, labels=("dent", "defect"))
    assert (project.config.added, project.config.kept) == (("dent",), ("crack",))
    assert apply_config(client, project.id, project.config)
    again = find(client, labels=("dent", "defect"))
    assert not again.config.changed
    assert not apply_config(client, again.id, again.config)
    assert labels_in(read_project(client, made.id)["label_config"]) == ("crack", "defect", "dent")


def test_labels_with_any_characters_arrive_as_they_are(client: Client) -> None:
    labels = (
        "a < b & c > \"d\" 'e'",
        "]]>",
        "<!-- x -->",
        "&amp;",
        "傷 ひび",
        "🙂",
        "x" * 200,
        "Crack",
        "crack",
        'name="mask"',
    )
    made = find(client, labels=labels)
    content = read_project(client, made.id)
    assert labels_in(content["label_config"]) == labels
    assert tuple(content["parsed_label_config"]["mask"]["labels"]) == labels
    assert not find(client, labels=labels).config.changed


def test_labels_are_added_beside_annotations_which_stay(client: Client) -> None:
    made = find(client)
    task = add_task(client, made, 0.5)
    annotation = client.post(f"/api/tasks/{task}/annotations/", {"result": [row()]})
    project = find(client, labels=("dent",))
    assert apply_config(client, made.id, project.config)
    kept = client.get(f"/api/tasks/{task}/annotations/")
    assert [(each["id"], each["result"]) for each in kept] == [(annotation["id"], [row()])]


def test_a_renamed_control_is_said_with_project_and_cure(client: Client) -> None:
    made = find(client)
    client.patch(f"/api/projects/{made.id}/", {"label_config": build(LABELS).replace('name="mask"', 'name="brush"')})
    with pytest.raises(ServiceError) as caught:
        find(client)
    assert str(caught.value) == (
        f"{client.url} project {made.id}: its labeling configuration: it has no control named 'mask', but masks need "
        '<BrushLabels name="mask" toName="image">; put it back under Settings > Labeling Interface, then push again'
    )


def test_removed_controls_come_back(client: Client) -> None:
    made = find(client)
    bare = '<View><Image name="image" value="$image"/><BrushLabels name="mask" toName="image"><Label value="crack"/>'
    client.patch(f"/api/projects/{made.id}/", {"label_config": f"{bare}</BrushLabels></View>"})
    project = find(client)
    assert (project.config.restored, project.config.added) == (("why", "verdict"), ("defect",))
    assert apply_config(client, project.id, project.config)
    assert read_project(client, made.id)["parsed_label_config"].keys() == {"mask", "why", "verdict"}


def test_labels_that_came_in_meanwhile_are_not_lost(client: Client) -> None:
    made = find(client)
    stale = find(client, labels=("dent",)).config
    meanwhile = merge(made.config.xml, ("by hand",)).xml
    client.patch(f"/api/projects/{made.id}/", {"label_config": meanwhile})
    with pytest.raises(ServiceError, match=r"labels were added meanwhile \(by hand\); push again"):
        apply_config(client, made.id, stale)
    assert read_project(client, made.id)["label_config"] == meanwhile


# ----------------------------------------------------------------------------------------------------------------- tabs


def test_tabs_are_made_once(client: Client) -> None:
    project = find(client)
    assert ensure_tabs(client, project.id) == 2
    before = tabs(client, project)
    assert [tab["data"]["title"] for tab in before] == list(TABS)
    assert ensure_tabs(client, project.id) == 0
    assert tabs(client, project) == before


def test_a_tab_that_somebody_changed_is_left_and_one_that_was_deleted_comes_back(client: Client) -> None:
    project = find(client)
    ensure_tabs(client, project.id)
    first, second = tabs(client, project)
    client.patch(f"/api/dm/views/{first['id']}/", {"data": first["data"] | {"ordering": ["tasks:id"]}})
    client.delete(f"/api/dm/views/{second['id']}/")
    assert ensure_tabs(client, project.id) == 1
    assert tabs(client, project)[0]["data"]["ordering"] == ["tasks:id"]


def test_the_first_tab_lists_the_highest_priority_first_and_the_second_those_without_masks(client: Client) -> None:
    project = find(client)
    scores = (0.2, 0.9, None, 0.5, 1.0, 0.0)
    tasks = {add_task(client, project, score): score for score in scores}
    ensure_tabs(client, project.id)
    activate(client, project.id, "v1")
    by_priority, without = tabs(client, project)
    order = [tasks[task] for task in listed(client, by_priority["id"])]
    assert order == [1.0, 0.9, 0.5, 0.2, 0.0, None]
    assert [tasks[task] for task in listed(client, without["id"])] == [None]
    assert tasks[next_task(client, project, by_priority)] == 1.0


def next_task(client: Client, project: Project, tab: dict[str, Any]) -> int:
    """The task that the button "Label All Tasks" opens; it sends what the tab says."""
    query = {"id": "next_task", "project": project.id, "tabID": tab["id"]}
    body = {key: tab["data"][key] for key in ("ordering", "filters")}
    everything: dict[str, Any] = {"selectedItems": {"all": True, "excluded": []}}
    return int(client.post("/api/dm/actions/", body | everything, query)["id"])


def test_the_order_is_that_of_the_active_version(client: Client) -> None:
    project = find(client)
    first, second = add_task(client, project, 0.9), add_task(client, project, 0.1)
    for task, score in ((first, 0.2), (second, 0.8)):
        body = {"task": task, "model_version": "v2", "score": score, "result": [row()]}
        client.post("/api/predictions/", body)
    ensure_tabs(client, project.id)
    view = tabs(client, project)[0]["id"]
    activate(client, project.id, "v1")
    assert listed(client, view) == [first, second]
    activate(client, project.id, "v2")
    assert listed(client, view) == [second, first]


# ---------------------------------------------------------------------------------------------------------- the version


def test_the_version_that_experts_see_is_written_once(client: Client) -> None:
    project = find(client)
    add_task(client, project, 0.5, "bundle-a run-1")
    add_task(client, project, 0.5, "bundle-b run-2")
    assert find(client).version == "bundle-a run-1"  # by the server itself, at the first import
    assert activate(client, project.id, "bundle-b run-2")
    assert not activate(client, project.id, "bundle-b run-2")
    assert find(client).version == "bundle-b run-2"


def test_a_version_without_predictions_is_refused(client: Client) -> None:
    project = find(client)
    with pytest.raises(ServiceError, match="Model version doesn't exist") as caught:
        activate(client, project.id, "v9")
    assert caught.value.status == 400


# ----------------------------------------------------------------------------------------------------------------- gone


def test_a_deleted_project_is_said_to_be_deleted(client: Client) -> None:
    project = find(client)
    changed = find(client, labels=("dent",)).config
    client.delete(f"/api/projects/{project.id}/")
    for call in (
        lambda: read_project(client, project.id),
        lambda: apply_config(client, project.id, changed),
        lambda: ensure_tabs(client, project.id),
        lambda: activate(client, project.id, "v1"),
    ):
        with pytest.raises(
            ServiceError, match="the project was deleted; `saa push label-studio` makes another"
        ) as caught:
            call()
        assert caught.value.status == 404
        assert caught.value.name == f"{client.url} project {project.id}"


def test_another_refusal_is_not_taken_for_a_deleted_project(label_studio: Server) -> None:
    with Client(label_studio.url, "f" * 40) as stranger, pytest.raises(ServiceError) as caught:
        read_project(stranger, 1)
    assert caught.value.status == 401
    assert json.dumps(str(caught.value)).isascii()
