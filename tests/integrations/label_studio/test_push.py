"""What a push leaves on a real server, and that it leaves it once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrations.batches import batches
from integrations.catalog import Catalog
from integrations.label_studio.listing import KnownTask
from integrations.label_studio.payload import KEY, check_item, prediction_json, read_answer
from integrations.label_studio.planning import PushRequest, draw, make_plan
from integrations.label_studio.push import BATCH_BYTES, BATCH_ITEMS, dry_push, push
from integrations.push_items import PushItem
from saa_core.errors import ImageError, ServiceError
from saa_core.masks import Rle, encode
from saa_core.reviews import PredictedRegion
from saa_core.types import ImageRef
from tests.desk import HEIGHT, SCRATCHES, WIDTH, Desk, Straight, box, bundle, relabelled


def test_a_run_arrives_whole(any_desk: Desk) -> None:
    desk = any_desk
    desk.photograph(3)
    report = desk.push()
    assert (report.tasks, report.predictions, report.present, report.unaided) == (3, 3, 0, 0)
    assert report.refused == []
    task = desk.task("0001.png")
    item = desk.items[1]
    assert task["data"] | {"image": ""} == {"image": "", "title": "0001.png", KEY: item.ref.key}
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == report.version == f"lexical+contour {SCRATCHES.id}@run1"
    assert prediction["score"] == pytest.approx(item.priority, abs=1e-6)
    answer = read_answer(prediction["result"], "", (HEIGHT, WIDTH))
    assert [(region.id, region.label, region.mask) for region in answer.regions] == [
        (region.id, region.label, region.mask) for region in item.regions
    ]
    assert [row["score"] for row in prediction["result"]] == [0.9, 0.775]
    assert prediction["result"][0]["meta"]["phrase_scores"] == {"scratch": 0.9, "dirt": 0.1}
    assert prediction["result"][0]["meta"]["text"] == ["scratch 0.90\ndirt 0.10"]


def test_the_expert_is_shown_the_version_in_order_of_priority(desk: Desk) -> None:
    desk.photograph(5)
    report = desk.push()
    project = desk.client.get(f"/api/projects/{report.project}/")
    assert project["model_version"] == report.version
    first_tab = desk.client.get("/api/dm/views/", {"project": report.project})[0]
    assert first_tab["data"]["title"] == "by review priority"
    listed = desk.client.get("/api/tasks/", {"view": first_tab["id"], "include": "id,data", "fields": "all"})["tasks"]
    by_priority = sorted(desk.items, key=lambda item: -item.priority)
    assert [task["data"][KEY] for task in listed] == [item.ref.key for item in by_priority]


def test_a_second_push_writes_nothing(any_desk: Desk) -> None:
    any_desk.photograph(12)
    first = any_desk.push(unaided=0.3)
    assert first.writes > 0
    before = any_desk.catalog.predictions(any_desk.target)
    second = any_desk.push(unaided=0.3)
    assert (second.writes, second.tasks, second.predictions, second.present) == (0, 0, 0, 12)
    assert second.unaided == first.unaided
    assert any_desk.catalog.predictions(any_desk.target) == before


def test_pictures_are_uploaded_once_and_looked_at(desk: Desk) -> None:
    desk.photograph(2, pictures=True)
    assert desk.push(upload=True).tasks == 2
    image = desk.task("0000.png")["data"]["image"]
    assert desk.client.fetch(image).content == (desk.folder / "0000.png").read_bytes()
    assert desk.push(upload=True).writes == 0


def test_an_image_that_is_gone_is_refused_and_the_others_go_on(desk: Desk) -> None:
    desk.photograph(3, pictures=True)
    (desk.folder / "0001.png").unlink()
    report = desk.push(upload=True)
    assert report.tasks == 2
    assert [name for name, _ in report.refused] == ["0001.png"]
    assert sorted(desk.tasks()) == ["0000.png", "0002.png"]


def test_a_new_bundle_adds_predictions_and_keeps_what_experts_worked_from(any_desk: Desk) -> None:
    desk = any_desk
    desk.photograph(3)
    old = desk.push()
    parent, _ = desk.shown("0000.png")
    desk.answer("0000.png")
    desk.label_again("run2", bundle("scratch", "dent", "rust"))
    new = desk.push()
    assert (new.tasks, new.predictions, new.present) == (0, 3, 0)
    assert new.notes == [
        "labels added to the labeling config: rust",
        f"experts now see these masks, no longer those of {old.version}",
    ]
    versions = {version for task in desk.tasks().values() for version in task["predictions_model_versions"].split(",")}
    assert versions == {old.version, new.version}
    assert desk.client.get(f"/api/projects/{new.project}/")["model_version"] == new.version
    assert desk.task("0000.png")["annotations"][0]["parent_prediction"] == parent
    assert desk.push().writes == 0


def test_an_image_without_regions_is_pushed_with_an_empty_prediction(any_desk: Desk) -> None:
    any_desk.photograph(1, regions=0)
    assert any_desk.push().predictions == 1
    assert any_desk.task("0000.png")["predictions"][0]["result"] == []


def test_a_share_of_the_images_gets_no_masks_and_keeps_getting_none(desk: Desk) -> None:
    desk.photograph(40)
    report = desk.push(unaided=0.25)
    alone = {name for name, task in desk.tasks().items() if not task["predictions_model_versions"]}
    assert len(alone) == report.unaided == 10
    drawn = draw("plate", [item.ref.key for item in desk.items], 10)
    assert alone == {item.name for item in desk.items if item.ref.key in drawn}
    noted = desk.catalog.predictions(desk.target)
    assert {record.image for record in noted if not record.aided} == {
        item.ref.key for item in desk.items if item.name in alone
    }
    assert all(record.regions for record in noted)  # what was withheld is known
    desk.label_again("run2")
    assert desk.push(unaided=0.0).unaided == len(alone)
    assert {name for name, task in desk.tasks().items() if not task["predictions_model_versions"]} == alone
    titles = [view["data"]["title"] for view in desk.client.get("/api/dm/views/", {"project": desk.project})]
    assert titles == ["by review priority", "without masks"]


def test_what_would_be_done_is_said_and_not_done(desk: Desk) -> None:
    desk.photograph(3)
    said = dry_push(desk.client, desk.catalog, desk.request())
    assert (said.project, said.tasks, said.predictions, said.writes) == (None, 3, 3, 0)
    assert desk.client.get("/api/projects/")["results"] == []
    desk.push()
    desk.label_again("run2")
    said = dry_push(desk.client, desk.catalog, desk.request())
    assert (said.project, said.tasks, said.predictions, said.present) == (desk.project, 0, 3, 0)
    assert {task["predictions_model_versions"] for task in desk.tasks().values()} == {
        f"lexical+contour {SCRATCHES.id}@run1"
    }


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda item: relabelled(item, "rust"), "its label 'rust' is not one of the project's"),
        (lambda item: replace(item, height=HEIGHT + 1), "a mask of 32 x 24 pixels on an image of 32 x 25"),
        (lambda item: replace(item, regions=(item.regions[0],) * 2), "two of its regions have the same id"),
        (lambda item: replace(item, priority=1.1), "its review priority is 1.1, not in [0, 1]"),
        (lambda item: replace(item, priority=float("nan")), "its review priority is nan, not in [0, 1]"),
        (
            lambda item: replace(item, regions=(replace(item.regions[0], score=float("nan")), item.regions[1])),
            "a region's score is nan, not in [0, 1]",
        ),
        (
            lambda item: replace(item, regions=(replace(item.regions[0], mask=box(0, 0, 0, 0)), item.regions[1])),
            "one of its regions has no pixel",
        ),
    ],
)
def test_what_the_editor_would_show_wrong_is_never_sent(
    any_desk: Desk, spoil: Callable[[PushItem], PushItem], reason: str
) -> None:
    any_desk.photograph(2)
    any_desk.items[0] = spoil(any_desk.items[0])
    report = any_desk.push()
    assert report.refused == [("0000.png", reason)]
    assert list(any_desk.tasks()) == ["0001.png"]


def test_a_label_that_an_expert_added_by_hand_stays(desk: Desk) -> None:
    desk.photograph(1)
    report = desk.push()
    path = f"/api/projects/{report.project}/"
    config = desk.client.get(path)["label_config"]
    desk.client.patch(path, {"label_config": config.replace("</BrushLabels>", '<Label value="grease"/></BrushLabels>')})
    desk.label_again("run2", bundle("rust"))
    notes = desk.push().notes
    assert "labels that this bundle does not use are kept: scratch, dent, grease" in notes
    for label in ("scratch", "dent", "grease", "rust", "defect"):
        assert f'value="{label}"' in desk.client.get(path)["label_config"]


def test_two_products_have_two_projects(desk: Desk) -> None:
    desk.photograph(1)
    first = desk.push()
    other = replace(desk.request(), product="plate 2")
    second = push(desk.client, desk.catalog, other, lambda _: Straight())
    assert second.project != first.project


# ------------------------------------------------------------------------------------------------- without a server


def test_batches_are_bounded_by_count_and_bytes() -> None:
    def cut(sizes: list[int]) -> list[list[int]]:
        found = batches(((None, bytes(size)) for size in sizes), BATCH_ITEMS, BATCH_BYTES)
        return [[len(content) for _, content in batch] for batch in found]

    assert [len(batch) for batch in cut([1] * 501)] == [250, 250, 1]
    big = BATCH_BYTES // 2 + 1
    assert cut([big, big, 5, BATCH_BYTES + 1, 5]) == [[big], [big, 5], [BATCH_BYTES + 1], [5]]
    assert cut([]) == []


masks = st.builds(
    lambda height, width, seed, share: encode(np.random.default_rng(seed).random((height, width)) < share),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 2**32),
    st.floats(0.05, 1),
)


@given(masks, st.text(min_size=1), st.floats(0, 1))
def test_what_is_sent_reads_back_the_same(mask: Rle, word: str, score: float) -> None:
    region = PredictedRegion("r1", word, word, score, mask)
    item = PushItem(ImageRef("k" * 64, "", ("a.png",)), mask.height, mask.width, score, (region,), ({word: score},))
    sent = json.loads(prediction_json(item, 7, "v"))
    (back,) = read_answer(sent["result"], "", mask.size).regions
    assert (back.id, back.label, back.mask) == ("r1", word, mask)
    if mask.area:
        check_item(item, [word])
    else:
        with pytest.raises(ImageError, match="no pixel"):
            check_item(item, [word])


@given(st.sets(st.text(), max_size=30), st.integers(0, 30), st.integers(0, 30), st.text())
def test_a_larger_draw_holds_a_smaller_one(images: set[str], one: int, other: int, product: str) -> None:
    small, large = (draw(product, images, number) for number in sorted((one, other)))
    assert set(small) <= set(large) <= images
    assert len(large) == min(len(images), max(one, other))
    assert draw(product, sorted(images, reverse=True), one) == draw(product, images, one)


def test_every_image_is_drawn_as_often() -> None:
    drawn = Counter(image for product in range(2000) for image in draw(str(product), "abcdefghij", 3))
    assert all(510 < number < 690 for number in drawn.values())  # 600 are expected, four standard deviations are 82


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.1, 3), (0.5, 14), (1.0, 28)])
def test_the_share_holds_for_small_sets_too(share: float, expected: int) -> None:
    items = [PushItem(ImageRef(f"{number:064}", "", (str(number),)), 4, 4, 0.5, (), ()) for number in range(28)]
    assert len(make_plan(PushRequest("plate", "r", "m", SCRATCHES, items, share), {}, {}).unaided) == expected


def test_the_most_telling_images_are_made_first() -> None:
    items = [PushItem(ImageRef(str(n) * 64, "", (str(n),)), 4, 4, n / 7, (), ()) for n in (2, 5, 1, 7)]
    plan = make_plan(PushRequest("plate", "r", "m", SCRATCHES, items, 0.0), {}, {})
    assert [item.name for item in plan.fresh] == ["7", "5", "2", "1"]


def test_a_plan_puts_each_image_in_one_place(desk_items: tuple[PushRequest, list[str]]) -> None:
    request, keys = desk_items
    known = {
        keys[0]: KnownTask(1, predicted=True, unaided=False),
        keys[1]: KnownTask(2, predicted=False, unaided=False),
    }
    known[keys[2]] = KnownTask(3, predicted=False, unaided=True)
    plan = make_plan(request, known, {})
    assert [item.ref.key for item in plan.present] == [keys[0], keys[2]]
    assert [item.ref.key for item in plan.lacking] == [keys[1]]
    assert [item.ref.key for item in plan.fresh] == keys[3:]
    assert plan.unaided == {keys[2]}


@pytest.fixture
def desk_items() -> tuple[PushRequest, list[str]]:
    items = [PushItem(ImageRef(letter * 64, "", (letter,)), 4, 4, 0.5, (), ()) for letter in "abcde"]
    return PushRequest("plate", "r", "m", SCRATCHES, items, 0.0), [item.ref.key for item in items]


def test_the_catalog_knows_what_was_pushed_where(desk: Desk) -> None:
    desk.photograph(2)
    report = desk.push()
    tasks = {name: task["id"] for name, task in desk.tasks().items()}
    for record in desk.catalog.predictions(desk.target):
        item = next(item for item in desk.items if item.ref.key == record.image)
        assert (record.run, record.bundle, record.version) == ("run1", SCRATCHES.id, report.version)
        assert record.task == tasks[item.name]
        assert record.regions == item.regions
        assert record.priority == item.priority


def test_a_lost_catalog_is_made_good_from_the_server(desk: Desk) -> None:
    desk.photograph(20)
    first = desk.push(unaided=0.3)
    with Catalog(f"sqlite:///{desk.folder / 'other.sqlite'}") as catalog:
        desk.catalog = catalog
        desk.note_run()
        again = desk.push(unaided=0.0)
        assert (again.writes, again.present, again.unaided) == (0, 20, first.unaided)
        assert len(catalog.predictions(desk.target)) == 20


def test_a_brush_that_was_renamed_is_an_error_that_says_what_to_do(desk: Desk) -> None:
    desk.photograph(1)
    path = f"/api/projects/{desk.push().project}/"
    desk.client.delete(f"{path}model-versions/", {"model_version": desk.request().version})
    config = desk.client.get(path)["label_config"]
    desk.client.patch(path, {"label_config": config.replace('name="mask"', 'name="brush"')})
    with pytest.raises(ServiceError, match=r'masks need <BrushLabels name="mask"'):
        desk.push()


@pytest.mark.slow
def test_many_versions_are_told_apart(desk: Desk) -> None:
    """The server's own list of a task's versions is cut off at 500 characters."""
    desk.photograph(2, regions=1)
    for number in range(12):
        desk.label_again(f"run{number}-{'x' * 60}")
        assert desk.push().predictions == 2
        assert desk.push().writes == 0
    assert len(desk.task("0000.png")["predictions"]) == 12


def test_a_prediction_that_the_server_dropped_is_added_and_the_slice_stays_random(desk: Desk) -> None:
    desk.photograph(30)
    report = desk.push(unaided=0.2)
    desk.client.delete(f"/api/projects/{desk.project}/model-versions/", {"model_version": report.version})
    with Catalog(f"sqlite:///{desk.folder / 'other.sqlite'}") as catalog:  # as if the push had ended before it noted
        desk.catalog = catalog
        desk.note_run()
        again = desk.push(unaided=0.2)
    assert (again.predictions, again.unaided) == (report.predictions, report.unaided)


def test_all_pictures_gone_is_said_with_the_reasons(desk: Desk) -> None:
    desk.photograph(2, pictures=True)
    for item in desk.items:
        (desk.folder / item.name).unlink()
    report = desk.push(upload=True)
    assert sorted(name for name, _ in report.refused) == ["0000.png", "0001.png"]
    assert (report.tasks, report.predictions) == (0, 0)


def test_the_version_is_active_as_soon_as_its_first_tasks_are_there(desk: Desk) -> None:
    desk.photograph(260, regions=0)
    seen = []

    def look(step: str, done: int, total: int) -> None:
        if step == "pushing tasks":
            seen.append(desk.client.get(f"/api/projects/{desk.project}/")["model_version"])

    desk.push(advance=look)
    assert seen == [desk.request().version] * 2
