"""A product at a real Label Studio server: a run to push, and an expert who answers by the API."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from integrations.catalog import Catalog, RunImage, RunRecord
from integrations.label_studio.client import Client
from integrations.label_studio.images import Upload
from integrations.label_studio.listing import list_tasks
from integrations.label_studio.payload import KEY
from integrations.label_studio.planning import PushReport, PushRequest
from integrations.label_studio.pull import PullReport, pull
from integrations.label_studio.push import Advance, push, remembered_project
from integrations.push_items import PushItem, region_id
from saa_core.masks import Rle, encode
from saa_core.prompts import LanguagePrompt, Phrase, PromptBundle
from saa_core.reviews import PredictedRegion, Review
from saa_core.types import ImageRef
from tests.label_studio_server import Server

HEIGHT, WIDTH = 24, 32
Row = dict[str, Any]


def bundle(*words: str) -> PromptBundle:
    return PromptBundle(product="plate", language=LanguagePrompt(specific=tuple(Phrase(text=word) for word in words)))


SCRATCHES = bundle("scratch", "dent")


def box(top: int, left: int, height: int = 6, width: int = 8) -> Rle:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + height, left : left + width] = True
    return encode(mask)


class Straight:
    """Pictures that need not be seen: no file is copied, nothing is fetched."""

    writes = 0

    def publish(self, images: Sequence[Any]) -> Any:
        from integrations.label_studio.images import Published

        return Published({image.key: f"/data/none/{image.key}.png" for image in images}, ())

    def check(self, image: Any, url: str) -> None:
        pass


@dataclass
class Desk:
    """What a test works with; `items` are its images, `run` what is pushed next, `fresh` an empty server's data."""

    server: Server
    catalog: Catalog
    folder: Path
    client: Client
    items: list[PushItem] = field(default_factory=list)
    run: str = "run1"
    bundle: PromptBundle = SCRATCHES
    fresh: Path = Path()

    def photograph(self, count: int = 3, regions: int = 2, *, pictures: bool = False) -> None:
        """Add images, each with `regions` regions; files only where somebody is to see them."""
        for number in range(len(self.items), len(self.items) + count):
            data = picture(number) if pictures else f"image {number}".encode()
            name = f"{number:04}.png"
            (self.folder / name).write_bytes(data)
            ref = ImageRef(hashlib.sha256(data).hexdigest(), str(self.folder / name), (name,))
            self.items.append(self.item(ref, regions))
        self.note_run()

    def item(self, ref: ImageRef, regions: int = 2) -> PushItem:
        labels = ("scratch", "dent", "defect")
        found = tuple(
            PredictedRegion(
                region_id(self.run, ref.key, rank), labels[rank], labels[rank], 0.9 - rank / 8, box(8 * rank, 4 * rank)
            )
            for rank in range(regions)
        )
        chance = int(ref.key[:4], 16) / 0xFFFF
        return PushItem(ref, HEIGHT, WIDTH, chance, found, tuple({r.phrase: r.score, "dirt": 0.1} for r in found))

    def note_run(self) -> None:
        """Tell the catalog of the run, as `label` does."""
        self.catalog.add_bundle(self.bundle, "library")
        self.catalog.begin_run(RunRecord(self.run, "plate", self.bundle.id, "batch", {}, "0"))
        images = [RunImage.of(item.ref, "labelled", height=HEIGHT, width=WIDTH) for item in self.items]
        self.catalog.record_images(self.run, images)

    def label_again(self, run: str, bundle: PromptBundle | None = None) -> None:
        """Another run over the same images."""
        self.run, self.bundle = run, bundle or self.bundle
        self.items = [self.item(item.ref, len(item.regions)) for item in self.items]
        self.note_run()

    def request(self, unaided: float = 0.0, patience: float = 30.0) -> PushRequest:
        return PushRequest("plate", self.run, "lexical+contour", self.bundle, self.items, unaided, patience)

    def push(
        self,
        unaided: float = 0.0,
        *,
        client: Client | None = None,
        advance: Advance = lambda *_: None,
        patience: float = 30.0,
        upload: bool = False,
    ) -> PushReport:
        used = client or self.client

        def source(project: int) -> Any:
            return Upload(used, project) if upload else Straight()

        return push(used, self.catalog, self.request(unaided, patience), source, advance)

    def pull(self, client: Client | None = None, advance: Advance = lambda *_: None) -> PullReport:
        return pull(client or self.client, self.catalog, "plate", self.project, advance)

    def reviews(self) -> dict[str, list[Review]]:
        """All reviews by image name, oldest first."""
        names = {item.ref.key: item.name for item in self.items}
        found: dict[str, list[Review]] = {}
        for review in self.catalog.reviews("plate"):
            found.setdefault(names[review.image], []).append(review)
        return found

    def review(self, name: str) -> Review:
        return self.reviews()[name][-1]

    @property
    def project(self) -> int:
        found = remembered_project(self.catalog, "plate", self.client)
        assert found is not None
        return found

    @property
    def target(self) -> str:
        found = self.catalog.target("plate", "label-studio", self.client.url)
        assert found is not None
        return found

    def tasks(self) -> dict[str, Row]:
        """Tasks on the server by image name; a second one of an image fails."""
        names = {item.ref.key: item.name for item in self.items}
        found: dict[str, Row] = {}
        for task in list_tasks(self.client, self.project, "id,data,predictions_model_versions"):
            name = names[task["data"][KEY]]
            assert name not in found, f"two tasks of {name}"
            found[name] = task
        return found

    def task(self, name: str) -> Row:
        """A task with its annotations and predictions in full."""
        task: Row = self.client.get(f"/api/tasks/{self.tasks()[name]['id']}/")
        return task

    def shown(self, name: str) -> tuple[int, list[Row]]:
        """Id and rows of the newest prediction of an image."""
        return _newest(self.task(name))

    # ---------------------------------------------------------------------------------------------------- the expert

    def answer(
        self,
        name: str,
        rows: Sequence[Mapping[str, Any]] | None = None,
        *,
        parent: int | str | None = "newest",
        skip: bool = False,
        seconds: float = 12.5,
        http: httpx.Client | None = None,
    ) -> int:
        """Annotate a task, by default with what was shown, untouched."""
        task = self.task(name)
        if parent == "newest":
            parent = _newest(task)[0] if task["predictions"] else None
        if rows is None:
            rows = _newest(task)[1]
        body = {"result": list(rows), "was_cancelled": skip, "lead_time": seconds, "parent_prediction": parent}
        with self.server.http() if http is None else _left_open(http) as used:
            made = used.post(f"/api/tasks/{task['id']}/annotations/", json=body).raise_for_status()
        return int(made.json()["id"])


def _newest(task: Row) -> tuple[int, list[Row]]:
    prediction = max(task["predictions"], key=lambda each: int(each["id"]))
    return int(prediction["id"]), list(prediction["result"])


class _left_open:  # noqa: N801 - reads as a verb
    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def __enter__(self) -> httpx.Client:
        return self.http

    def __exit__(self, *_: object) -> None:
        pass


def row(mask: Rle, label: str = "defect", identity: str | None = "drawn-by-hand") -> Row:
    """A region as the editor sends it."""
    from integrations.label_studio.brush import encode_rle

    content: Row = {
        "from_name": "mask",
        "to_name": "image",
        "type": "brushlabels",
        "origin": "manual",
        "original_width": mask.width,
        "original_height": mask.height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": list(encode_rle(mask)), "brushlabels": [label]},
    }
    return content if identity is None else {"id": identity, **content}


def words(identity: str, text: str) -> Row:
    """An expert's words on a region."""
    value = {"text": [text]}
    return {"id": identity, "from_name": "why", "to_name": "image", "type": "textarea", "value": value}


def verdict(choice: str) -> Row:
    """An expert's verdict on the image."""
    value = {"choices": [choice]}
    return {"id": "v", "from_name": "verdict", "to_name": "image", "type": "choices", "value": value}


def changed(content: Row, **value: Any) -> Row:
    """A row with another value."""
    return {**content, "value": {**content["value"], **value}}


def picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def relabelled(item: PushItem, label: str) -> PushItem:
    """The item with its first region under another label."""
    return replace(item, regions=(replace(item.regions[0], label=label), *item.regions[1:]))
