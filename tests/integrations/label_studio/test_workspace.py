"""A workspace's runs on a real server: which run, in which order of review, with which pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from integrations.catalog import Catalog, RunImage, RunRecord
from integrations.label_studio.client import Client
from integrations.label_studio.doorbell import HEADER
from integrations.label_studio.payload import KEY
from integrations.label_studio.planning import PushReport
from integrations.label_studio.webhook import webhook_secret
from integrations.label_studio.workspace import pull_product, push_run, register_doorbell
from integrations.outputs import RunFolder
from integrations.settings import Settings
from saa_core.errors import ImageError, ServiceError, StoreError
from saa_core.priority import Judged, chance, priorities
from saa_core.prompts import LanguagePrompt, Phrase, PromptBundle
from saa_core.types import AnomalyResult, ImageRef, Region
from tests.desk import HEIGHT, WIDTH, box, picture
from tests.label_studio_server import Server

BUNDLE = PromptBundle(
    product="cap", language=LanguagePrompt(specific=(Phrase(text="scratch"), Phrase(text="dent")))
).changed(language={"agnostic": ["anomaly", "flaw"]}, decision={"region_floor": 0.3})
MODELS = {"generator": "lexical", "refiner": "contour"}
Found = Mapping[str, tuple[float, Mapping[str, float]]]
Vector = NDArray[np.float32]

# By image: confidence of its region and what each phrase scored on it.
FOUND: Found = {
    "sure.png": (0.9, {"scratch": 0.8, "dent": 0.0, "anomaly": 0.0, "flaw": 0.0}),
    "doubtful.png": (0.31, {"scratch": 0.8, "dent": 0.0, "anomaly": 0.0, "flaw": 0.0}),
    "two-labels.png": (0.9, {"scratch": 0.8, "dent": 0.8, "anomaly": 0.0, "flaw": 0.0}),
    "synonyms.png": (0.9, {"scratch": 0.0, "dent": 0.0, "anomaly": 0.8, "flaw": 0.8}),
}


@dataclass
class Place:
    """A workspace beside a server; `refs` are its images by name."""

    folder: Path
    catalog: Catalog
    client: Client
    settings: Settings
    refs: dict[str, ImageRef] = field(default_factory=dict)

    def label(self, run: str = "run1", found: Found = FOUND, product: str = "cap", *, done: bool = True) -> None:
        """A run as `label` leaves it, on images with one region each."""
        for number, name in enumerate(found):
            data = picture(number)
            self.folder.mkdir(exist_ok=True)
            (self.folder / name).write_bytes(data)
            self.refs[name] = ImageRef(hashlib.sha256(data).hexdigest(), str(self.folder / name), (name,))
        self.catalog.add_bundle(BUNDLE)
        self.catalog.begin_run(RunRecord(run, product, BUNDLE.id, "batch", MODELS, "0"))
        refs = [self.refs[name] for name in found]
        rows = [RunImage.of(ref, "labelled", height=HEIGHT, width=WIDTH) for ref in refs]
        self.catalog.record_images(run, rows)
        folder = RunFolder(self.settings.runs / run, list(found))
        for ref in refs:
            folder.write(ref, result(ref, *found[ref.names[0]]), (HEIGHT, WIDTH))
        folder.close(refs, {"run": run, "models": MODELS})
        if done:
            figures = {"labelled": len(refs), "reused": 0, "quarantined": 0, "regions": len(refs), "model_calls": 0}
            self.catalog.finish_run(run, **figures, seconds=1.0)

    def push(self, describe: Callable[[ImageRef], Vector] | None = None, **options: Any) -> PushReport:
        product, run = options.pop("product", "cap"), options.pop("run", None)
        looks = describe or (lambda ref: np.zeros(2, np.float32))
        return push_run(self.settings, product, run, looks, lambda *step: None, **options)

    def scores(self, report: PushReport) -> dict[str, float]:
        """Score of the pushed version's prediction, which is the order of review, by image name."""
        query = {"project": report.project, "fields": "all"}
        tasks = self.client.get("/api/tasks/", query)["tasks"]
        return {
            task["data"]["title"]: prediction["score"]
            for task in tasks
            for prediction in task["predictions"]
            if prediction["model_version"] == report.version
        }

    def images(self, report: PushReport) -> dict[str, str]:
        """URLs of the tasks' pictures by image key."""
        tasks = self.client.get("/api/tasks/", {"project": report.project, "fields": "all"})["tasks"]
        return {task["data"][KEY]: task["data"]["image"] for task in tasks}


def result(ref: ImageRef, confidence: float, scores: Mapping[str, float]) -> AnomalyResult:
    rle = box(2, 3)
    x0, y0, x1, y1 = map(float, rle.box)
    label = max(scores, key=lambda phrase: scores[phrase])
    region = Region(rle, (x0, y0, x1, y1), label, 1.0, confidence, dict(scores), 0.5, rle.area, 0)
    return AnomalyResult(ref.key, BUNDLE.id, np.zeros((3, 4), np.float32), True, 0, (region,), {})


@pytest.fixture
def place(label_studio: Server, tmp_path: Path, project_cleanup: None) -> Iterator[Place]:
    settings = Settings.load(
        workspace=tmp_path / "w",
        label_studio_url=label_studio.url,
        label_studio_token=label_studio.token,
        unaided_share=0.0,
    )
    with Catalog(settings.catalog_url) as catalog, Client(label_studio.url, label_studio.token) as client:
        yield Place(tmp_path / "photographs", catalog, client, settings)


# ----------------------------------------------------------------------------------------------------- order of review


def test_the_order_of_review_reaches_the_server(place: Place) -> None:
    place.label()
    looks = {ref.key: np.array([number, number**2], np.float32) for number, ref in enumerate(place.refs.values())}
    report = place.push(lambda ref: looks[ref.key])
    judged = [Judged(place.refs[name].key, 0.0, (found,), (scores,)) for name, (found, scores) in FOUND.items()]
    expected = priorities(judged, np.stack(list(looks.values())), 0.3, ["anomaly", "flaw"])
    assert place.scores(report) == pytest.approx(dict(zip(FOUND, expected, strict=True)), abs=1e-5)


def test_doubt_and_rival_labels_come_first_and_synonyms_are_no_rivals(place: Place) -> None:
    place.label(found={"first.png": FOUND["sure.png"], **FOUND})  # of images that look alike, the first is new
    scores = place.scores(place.push())
    told = {name: score - 0.1 * chance(place.refs[name].key) for name, score in scores.items()}
    assert told["doubtful.png"] - told["sure.png"] == pytest.approx(0.5 / 5, abs=1e-5)
    assert told["two-labels.png"] - told["sure.png"] == pytest.approx(0.2, abs=1e-5)
    assert told["synonyms.png"] == pytest.approx(told["sure.png"], abs=1e-5)


def test_what_looks_new_comes_earlier(place: Place) -> None:
    same = dict.fromkeys(FOUND, (0.9, FOUND["sure.png"][1]))
    place.label(found=same)
    alike = place.scores(place.push())
    odd = place.refs["synonyms.png"].key
    place.label("run2", same)
    again = place.push(lambda ref: np.array([ref.key == odd, 0], np.float32))
    gained = {name: score - alike[name] for name, score in place.scores(again).items()}
    assert max(gained, key=lambda name: gained[name]) == "synonyms.png"
    assert gained["synonyms.png"] > 0.1


# ------------------------------------------------------------------------------------------------------------ pictures


def test_a_photograph_that_is_gone_is_refused_and_the_others_go_on(place: Place) -> None:
    place.label()
    (place.folder / "sure.png").unlink()
    for tasks, present in ((3, 0), (0, 3)):
        report = place.push()
        assert (report.tasks, report.present) == (tasks, present)
        assert [name for name, _ in report.refused] == ["sure.png"]
    assert sorted(place.scores(report)) == ["doubtful.png", "synonyms.png", "two-labels.png"]


def test_a_photograph_that_cannot_be_described_any_more_spoils_nothing(place: Place) -> None:
    """As after an update of saa, which describes images anew, when a photograph was deleted meanwhile."""
    place.label()
    gone = place.refs["sure.png"]
    Path(gone.uri).unlink()

    def describe(ref: ImageRef) -> Vector:
        if not Path(ref.uri).exists():
            raise ImageError(ref.names[0], "no such file")
        return np.array([1.0, 2.0], np.float32)

    report = place.push(describe)
    assert report.tasks == 3
    assert [name for name, _ in report.refused] == ["sure.png"]
    for path in place.folder.iterdir():
        path.unlink()
    assert place.push(describe).present == 3


def test_pictures_by_local_files_stay_when_the_photographs_go(place: Place, label_studio: Server) -> None:
    place.label()
    data = {ref.key: Path(ref.uri).read_bytes() for ref in place.refs.values()}
    place.settings = place.settings.model_copy(update={"label_studio_files": label_studio.files})
    report = place.push()
    for path in place.folder.iterdir():
        path.unlink()
    again = place.push()
    assert (again.present, again.refused, again.writes) == (4, [], 0)
    urls = place.images(report)
    assert all(url.startswith("/data/local-files/") for url in urls.values())
    assert {key: place.client.fetch(url).content for key, url in urls.items()} == data


def test_images_that_were_set_aside_are_not_pushed(place: Place) -> None:
    place.label()
    broken = RunImage.of(ImageRef("0" * 64, "/data/broken.png", ("broken.png",)), "quarantined", reason="truncated")
    place.catalog.record_images("run1", [broken])
    assert place.push().tasks == len(FOUND)


def test_a_run_without_images(place: Place) -> None:
    place.label(found={})
    report = place.push()
    assert (report.tasks, report.predictions, report.refused) == (0, 0, [])


# ---------------------------------------------------------------------------------------------------------- which run


def test_the_latest_finished_run_or_the_one_that_is_named(place: Place) -> None:
    place.label("aaaa1")
    place.label("bbbb2")
    place.label("cccc3", done=False)
    place.label("dddd4", product="nut")
    versions = f"lexical+contour {BUNDLE.id}@{{}}"
    assert place.push(dry=True).version == versions.format("bbbb2")
    assert place.push(dry=True, run="aaaa").version == versions.format("aaaa1")
    reasons = {
        ("cap", "cccc3"): "cccc3: is not finished; run its `saa label` again",
        ("cap", "dddd"): "dddd4: is a run of 'nut', not of 'cap'",
        ("cap", "eeee"): "eeee: no such run",
        ("bolt", None): "bolt: has no finished run; `saa label IMAGES --product bolt` makes one",
    }
    for (product, run), reason in reasons.items():
        with pytest.raises(StoreError, match=f"^{reason}"):
            place.push(product=product, run=run)
    assert place.client.get("/api/projects/")["results"] == []


def test_what_a_run_lost_is_named(place: Place) -> None:
    place.label()
    (place.settings.runs / "run1" / "regions.jsonl").unlink()
    with pytest.raises(StoreError, match=r"regions\.jsonl"):
        place.push()


# -------------------------------------------------------------------------------------------------- pull and doorbell


def test_only_chosen_images_get_a_task(place: Place) -> None:
    place.label()
    chosen = ["sure.png", place.refs["synonyms.png"].key]
    assert place.push(only=chosen, dry=True).tasks == 2
    report = place.push(only=chosen)
    assert (report.tasks, report.predictions, report.present) == (2, 2, 0)
    assert set(place.scores(report)) == {"sure.png", "synonyms.png"}
    report = place.push(only=["doubtful.png"])
    assert (report.tasks, report.present) == (1, 2)
    assert place.push().tasks == 1


def test_tasks_of_other_images_are_brought_up_to_date(place: Place) -> None:
    """A project shows one version of the masks: those of all tasks are of that version."""
    place.label()
    place.push(only=["sure.png"])
    place.label("run2")
    report = place.push(only=["doubtful.png"])
    assert (report.tasks, report.predictions) == (1, 2)
    assert set(place.scores(report)) == {"sure.png", "doubtful.png"}


def test_a_chosen_image_that_the_run_lacks(place: Place) -> None:
    place.label()
    with pytest.raises(StoreError, match=r"none\.png: run run1 has no usable image of this name or key"):
        place.push(only=["sure.png", "none.png"])


def test_the_unaided_are_drawn_from_the_whole_run(place: Place) -> None:
    place.label()
    settings = place.settings.model_copy(update={"unaided_share": 0.5})
    whole = replace(place, settings=settings).push(dry=True)
    assert whole.unaided == 2
    alone = [replace(place, settings=settings).push(only=[name], dry=True).unaided for name in FOUND]
    assert sum(alone) == 2


def test_pull_needs_a_push_to_the_same_server(place: Place) -> None:
    place.label()
    with pytest.raises(ServiceError, match="nothing of 'cap' was pushed there from this workspace"):
        pull_product(place.settings, "cap", lambda *step: None)
    report = place.push()
    assert pull_product(place.settings, "cap", lambda *step: None).project == report.project
    # The same server under another name is another one: what was noted of it cannot be known to hold.
    elsewhere = str(place.settings.label_studio_url).replace("127.0.0.1", "localhost")
    with pytest.raises(ServiceError, match="nothing of 'cap' was pushed"):
        pull_product(place.settings.model_copy(update={"label_studio_url": elsewhere}), "cap", lambda *step: None)


def test_a_doorbell_is_registered_once(place: Place) -> None:
    place.label(product="cap / blue")
    report = place.push(product="cap / blue")
    assert report.project is not None
    url = "http://127.0.0.1:9"
    written, note = register_doorbell(place.settings, "cap / blue", report.project, url)
    assert written
    assert note == f"the project rings {url} when an expert saves, but nothing answers there yet; `saa serve` does"
    assert not register_doorbell(place.settings, "cap / blue", report.project, url)[0]
    (hook,) = place.client.get("/api/webhooks/", {"project": report.project})
    assert hook["url"] == f"{url}/label-studio/cap%20%2F%20blue"
    assert hook["headers"] == {HEADER: webhook_secret(place.settings.workspace)}


def test_two_pushes_at_once_make_everything_once(place: Place) -> None:
    place.label()
    with ThreadPoolExecutor(2) as both:
        reports = [each.result() for each in [both.submit(place.push), both.submit(place.push)]]
    assert sorted(report.tasks for report in reports) == [0, len(FOUND)]
    assert len({report.project for report in reports}) == 1
    (project,) = place.client.get("/api/projects/")["results"]
    assert project["task_number"] == len(FOUND)
