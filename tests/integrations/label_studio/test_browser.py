"""What an expert sees in Label Studio's own editor, and what of the expert's work comes back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_sdk.converter.brush import decode_rle
from numpy.typing import NDArray
from PIL import Image

from integrations.catalog import Catalog, RunImage, RunRecord
from integrations.label_studio.client import Client
from integrations.label_studio.images import LocalFiles
from integrations.label_studio.planning import PushRequest
from integrations.label_studio.pull import PullReport, pull
from integrations.label_studio.push import push
from integrations.push_items import PushItem, region_id
from saa_core.masks import decode, encode
from saa_core.prompts import LanguagePrompt, PromptBundle
from saa_core.reviews import PredictedRegion, RegionReview, Review, evidence
from saa_core.types import ImageRef
from tests.browser.expert import Expert, Point, expert_at
from tests.label_studio_server import Server

Bools = NDArray[np.bool_]

BUNDLE = PromptBundle(product="plate", language=LanguagePrompt(specific=("scratch",)))
RUN = RunRecord("run1", BUNDLE.product, BUNDLE.id, "batch", {"features": "filter-bank@1"}, "0.1.0", "plates")
HEIGHT, WIDTH = 300, 420
CRESCENT, SPOT = (110, 180), (300, 90)  # centres, x and y


def disc(centre: tuple[int, int], radius: int) -> Bools:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.asarray((x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2)


DEFECTS: Mapping[str, Bools] = {
    "scratch": disc(CRESCENT, 60) & ~disc((135, 160), 35),
    "defect": disc(SPOT, 45),
}
"""Dark on every plate, by the label of the region that finds it. A picture that is turned or mirrored fits nowhere."""

BOTH = ("scratch", "defect")
FOUND: Mapping[str, tuple[str, ...]] = {
    "untouched.png": BOTH,
    "erased.png": BOTH,
    "deleted.png": BOTH,
    "added.png": ("scratch",),
    "relabelled.png": BOTH,
    "skipped.png": BOTH,
    "false alarm.png": ("defect",),
    "nothing found.png": (),
    "unaided.png": ("defect",),
    "shown.png": BOTH,
    "turned.jpg": BOTH,
}
"""What the run found on each image, the image most worth a review first."""


# ------------------------------------------------------------------------------------------------------- a pushed run


@dataclass(frozen=True, slots=True)
class Board:
    """A pushed run."""

    client: Client
    catalog: Catalog
    items: Mapping[str, PushItem]
    project: int
    tasks: Mapping[str, int]

    def result(self, name: str) -> list[dict[str, Any]]:
        """The rows of an image's only annotation, as the editor sent them."""
        (annotation,) = self.client.get(f"/api/tasks/{self.tasks[name]}")["annotations"]
        rows: list[dict[str, Any]] = annotation["result"]
        return rows


def photograph(name: str) -> bytes:
    """A light plate with both defects, and noise of its own."""
    pixels = np.random.default_rng(list(FOUND).index(name)).normal(170, 3, (HEIGHT, WIDTH))
    pixels[np.logical_or.reduce(list(DEFECTS.values()))] -= 90
    image, file, exif = Image.fromarray(pixels.astype(np.uint8)), BytesIO(), Image.Exif()
    if name == "turned.jpg":
        image, exif[0x0112] = image.transpose(Image.Transpose.ROTATE_90), 6  # to be shown turned back
    image.save(file, "JPEG" if name.endswith(".jpg") else "PNG", exif=exif)
    return file.getvalue()


def saved(folder: Path, name: str) -> ImageRef:
    data = photograph(name)
    (folder / name).write_bytes(data)
    return ImageRef(hashlib.sha256(data).hexdigest(), str(folder / name), (name,))


def item_of(ref: ImageRef) -> PushItem:
    regions = tuple(
        PredictedRegion(region_id(RUN.id, ref.key, rank), label, label, 0.9 - rank / 10, encode(DEFECTS[label]))
        for rank, label in enumerate(FOUND[ref.names[0]])
    )
    priority = 1 - list(FOUND).index(ref.names[0]) / len(FOUND)
    return PushItem(ref, HEIGHT, WIDTH, priority, regions, tuple({region.phrase: region.score} for region in regions))


@pytest.fixture(scope="module")
def client(label_studio: Server) -> Iterator[Client]:
    with Client(label_studio.url, label_studio.token) as opened:
        yield opened


@pytest.fixture(scope="module")
def board(label_studio: Server, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    folder = tmp_path_factory.mktemp("plates")
    items = {name: item_of(saved(folder, name)) for name in FOUND}
    with Catalog(f"sqlite:///{folder / 'catalog.sqlite'}") as catalog:
        catalog.add_bundle(BUNDLE)
        catalog.begin_run(RUN)
        images = [RunImage.of(item.ref, "labelled", height=HEIGHT, width=WIDTH) for item in items.values()]
        catalog.record_images(RUN.id, images)
        for unaided in (False, True):
            some = [item for name, item in items.items() if (name == "unaided.png") == unaided]
            request = PushRequest(RUN.product, RUN.id, "filter-bank", BUNDLE, some, unaided_share=float(unaided))
            report = push(client, catalog, request, lambda project: LocalFiles(client, project, label_studio.files))
        records = catalog.predictions(catalog.target(RUN.product, "label-studio", client.url) or "")
        task_of = {record.image: record.task for record in records}
        yield Board(client, catalog, items, report.project, {name: task_of[i.ref.key] for name, i in items.items()})
        client.delete(f"/api/projects/{report.project}/")


@pytest.fixture(scope="module")
def expert(label_studio: Server) -> Iterator[Expert]:
    with expert_at(label_studio.url, label_studio.email, label_studio.password) as expert:
        yield expert


# ------------------------------------------------------------------------------------------------------- what is seen


@pytest.mark.parametrize("name", ["shown.png", "turned.jpg"])
def test_masks_lie_on_the_defects(expert: Expert, board: Board, name: str) -> None:
    expert.open(board.project, board.tasks[name], regions=2)
    with_masks = expert.picture()
    expert.toggle_regions()
    plain = expert.picture()
    coloured = (with_masks != plain).any(axis=2)
    dark = plain.mean(axis=2) < 125
    assert overlap(coloured, np.logical_or.reduce(list(DEFECTS.values()))) > 0.9
    assert overlap(coloured, dark) > 0.9
    crescent, spot = (with_masks[mask].mean(axis=0) for mask in DEFECTS.values())
    assert np.abs(crescent - spot).max() > 50, "two labels in one colour"


def overlap(a: Bools, b: Bools) -> float:
    return float((a & b).sum() / (a | b).sum())


# ---------------------------------------------------------------------------------------------------- what comes back

ERASED: tuple[Point, Point] = ((SPOT[0] - 20, SPOT[1] - 60), (SPOT[0] - 20, SPOT[1] + 60))
DRAWN: tuple[Point, Point] = ((240, 220), (380, 260))


@dataclass(frozen=True, slots=True)
class Session:
    """What was pulled after an expert's session."""

    board: Board
    report: PullReport
    reviews: Mapping[str, Review]

    def outcomes(self, name: str) -> dict[str, str]:
        """What became of the regions of an image, by label."""
        regions = self.reviews[name].regions
        return {(region.predicted or region.reviewed).label: region.outcome for region in regions}

    def region(self, name: str, outcome: str) -> RegionReview:
        """The only region of an image with an outcome."""
        (found,) = (region for region in self.reviews[name].regions if region.outcome == outcome)
        return found


@pytest.fixture(scope="module")
def session(expert: Expert, board: Board) -> Session:
    def meet(name: str) -> None:
        expert.meet(board.tasks[name], len(FOUND[name]))

    # Each must be the next to come: the tab that opens first goes by priority.
    expert.label_all(board.project)
    meet("untouched.png")
    expert.submit()
    meet("erased.png")
    expert.erase("defect", *ERASED)
    expert.submit()
    meet("deleted.png")
    expert.delete("scratch")
    expert.say("defect", "a dent")
    expert.judge("defective")
    expert.submit()
    meet("added.png")
    expert.add("defect", "oil, not yet wiped off", *DRAWN)
    expert.submit()
    meet("relabelled.png")
    expert.relabel("defect", "scratch")
    expert.submit()
    meet("skipped.png")
    expert.skip()
    meet("false alarm.png")
    expert.delete("defect")
    expert.judge("good")
    expert.submit()
    meet("nothing found.png")
    expert.submit()
    expert.open(board.project, board.tasks["unaided.png"], regions=0)
    expert.add("defect", "", *scribble(SPOT, 40))
    expert.submit()
    report = pull(board.client, board.catalog, RUN.product, board.project)
    names = {item.ref.key: name for name, item in board.items.items()}
    return Session(board, report, {names[review.image]: review for review in board.catalog.reviews(RUN.product)})


def scribble(centre: tuple[int, int], radius: int) -> Iterator[Point]:
    """To and fro over a disc."""
    for number, y in enumerate(range(-radius, radius + 1, 5)):
        half = (radius**2 - y**2) ** 0.5
        for x in (-half, half) if number % 2 else (half, -half):
            yield centre[0] + x, centre[1] + y


def test_the_session_comes_back_complete(session: Session) -> None:
    assert set(session.reviews) == set(FOUND) - {"shown.png", "turned.jpg"}
    assert session.report.states == {"submitted": 8, "skipped": 1}
    assert session.report.refused == []
    assert session.report.ignored == 0
    assert pull(session.board.client, session.board.catalog, RUN.product, session.board.project).states == {}


def test_untouched_masks_are_accepted_bit_for_bit(session: Session) -> None:
    assert session.outcomes("untouched.png") == {"scratch": "accepted", "defect": "accepted"}
    for row in session.board.result("untouched.png"):
        channels = decode_rle(row["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)
        (label,) = row["value"]["brushlabels"]
        assert np.array_equal(channels, np.repeat(DEFECTS[label][..., None] * np.uint8(255), 4, axis=2))


def test_an_erased_part_is_an_adjustment(session: Session) -> None:
    assert session.outcomes("erased.png") == {"scratch": "accepted", "defect": "adjusted"}
    region = session.region("erased.png", "adjusted")
    left = decode(region.reviewed.mask)
    assert region.iou == pytest.approx(overlap(left, DEFECTS["defect"]))
    assert 0 < region.iou < 1
    # Gone is what the stroke went over, and nothing far from it.
    _, columns = np.nonzero(DEFECTS["defect"] & ~left)
    assert not (left & ~DEFECTS["defect"]).any()
    assert not left[SPOT[1] - 30 : SPOT[1] + 30, int(ERASED[0][0])].any()
    assert np.abs(columns - ERASED[0][0]).max() < 20


def test_a_deleted_region_is_rejected(session: Session) -> None:
    assert session.outcomes("deleted.png") == {"scratch": "rejected", "defect": "accepted"}
    review = session.reviews["deleted.png"]
    assert (review.verdict, review.finding) == ("defective", "defective")


def test_words_alone_leave_a_region_accepted(session: Session) -> None:
    region = session.region("deleted.png", "accepted")
    assert (region.reviewed.words, region.iou) == ("a dent", 1.0)


def test_a_drawn_region_is_added_with_the_experts_words(session: Session) -> None:
    assert session.outcomes("added.png") == {"scratch": "accepted", "defect": "added"}
    region = session.region("added.png", "added").reviewed
    assert region.words == "oil, not yet wiped off"
    drawn = decode(region.mask)
    x0, y0, x1, y1 = region.mask.box
    (left, top), (right, bottom) = DRAWN
    assert all(drawn[y, x] for x, y in DRAWN)
    assert np.abs(np.array([x0 - left, y0 - top, x1 - right, y1 - bottom])).max() < 20


def test_another_label_is_no_other_mask(session: Session) -> None:
    assert session.outcomes("relabelled.png") == {"scratch": "accepted", "defect": "relabelled"}
    region = session.region("relabelled.png", "relabelled")
    assert (region.reviewed.label, region.iou) == ("scratch", 1.0)


def test_a_skipped_task_says_nothing(session: Session) -> None:
    review = session.reviews["skipped.png"]
    assert (review.state, review.regions, review.finding) == ("skipped", (), None)
    assert review.image not in evidence(session.reviews.values())


def test_good_with_all_regions_deleted(session: Session) -> None:
    review = session.reviews["false alarm.png"]
    assert session.outcomes("false alarm.png") == {"defect": "rejected"}
    assert (review.verdict, review.finding) == ("good", "good")


def test_submitted_with_nothing_drawn_is_good(session: Session) -> None:
    review = session.reviews["nothing found.png"]
    assert (review.verdict, review.regions, review.finding) == (None, (), "good")


def test_an_unaided_review_is_compared_with_what_was_withheld(session: Session) -> None:
    review = session.reviews["unaided.png"]
    assert not review.aided
    assert session.outcomes("unaided.png") == {"defect": "adjusted"}


def test_reviews_say_who_and_how_long(session: Session, label_studio: Server) -> None:
    for review in session.reviews.values():
        assert review.annotator == label_studio.email
        assert review.run == RUN.id
        assert 0 < review.lead_seconds < 600


def test_nothing_left_this_machine(session: Session, expert: Expert, label_studio: Server) -> None:
    here = (label_studio.url, f"blob:{label_studio.url}")
    assert [url for url in expert.requested if not url.startswith(here)] == []
