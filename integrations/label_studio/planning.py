"""What a push is asked for, has to do and says of itself: no request is made here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from integrations.label_studio.listing import KnownTask
from integrations.label_studio.payload import check_item
from integrations.labels import labels_of
from integrations.push_items import PushItem
from saa_core.errors import ImageError
from saa_core.prompts import PromptBundle


@dataclass(frozen=True, slots=True)
class PushRequest:
    """What is pushed.

    Attributes:
        product: What the images show; each product has one project.
        run: Id of the run.
        models: Names of the models that made the run, for people.
        bundle: The bundle that decided.
        items: Its images.
        unaided_share: Share of the images that get no pre-annotation, in [0, 1].
        patience: Seconds that the server may take to finish a batch whose answer was lost.
        only: Keys of the images that may get a new task; None is all. Tasks that are there are brought up to date
            whatever it says: one version of the masks is shown in a whole project.
    """

    product: str
    run: str
    models: str
    bundle: PromptBundle
    items: Sequence[PushItem]
    unaided_share: float
    patience: float = 60.0
    only: frozenset[str] | None = None

    @property
    def version(self) -> str:
        """`model_version` of the predictions: bundle and run. The models come first, since the editor shortens it."""
        return f"{self.models} {self.bundle.id}@{self.run}"


@dataclass(slots=True)
class PushReport:
    """What a push did, or would do.

    Attributes:
        project: Id of the project; None where it is still to be made.
        url: Its page, or the server's.
        version: `model_version` of the predictions.
        tasks: Tasks made.
        predictions: Predictions made.
        present: Images for which nothing had to be done.
        unaided: Images of the run without pre-annotation, on purpose.
        writes: Files and requests that changed something.
        refused: (image, reason) of those that could not be pushed.
        notes: What a person should know.
    """

    project: int | None
    url: str
    version: str
    tasks: int = 0
    predictions: int = 0
    present: int = 0
    unaided: int = 0
    writes: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """The push in one sentence."""
        parts = [f"{self.tasks} new tasks", f"{self.predictions} new predictions"]
        parts += [f"nothing to do for {self.present} images"] if self.present else []
        parts += [f"{len(self.refused)} refused"] if self.refused else []
        blind = f'; {self.unaided} images are shown without masks, on purpose (tab "without masks")'
        return ", ".join(parts) + (blind if self.unaided else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done with the images of a request.

    Attributes:
        fresh: Images without a task, highest priority first.
        lacking: Images with a task that lacks the request's prediction.
        present: Images for which there is nothing to do.
        unaided: Keys of those that get no prediction, on purpose.
        refused: (image, reason) of those that cannot be pushed.
    """

    fresh: tuple[PushItem, ...]
    lacking: tuple[PushItem, ...]
    present: tuple[PushItem, ...]
    unaided: frozenset[str]
    refused: tuple[tuple[str, str], ...]

    def version(self, item: PushItem, request: PushRequest) -> str | None:
        """`model_version` of an image's prediction; None if it gets none."""
        return None if item.ref.key in self.unaided else request.version


def make_plan(request: PushRequest, known: Mapping[str, KnownTask], aided: Mapping[str, bool]) -> Plan:
    """Compare what is pushed with what is there.

    Args:
        request: What to push.
        known: Our tasks on the server, by image key.
        aided: For the images that were pushed before, whether regions were shown.
    """
    items, refused = _usable(request)
    unaided = _unaided(request, items, known, aided)
    fresh, lacking, present = [], [], []
    for item in items:
        task = known.get(item.ref.key)
        if task is None:
            if request.only is None or item.ref.key in request.only:
                fresh.append(item)
        elif item.ref.key not in unaided and not task.predicted:
            lacking.append(item)
        else:
            present.append(item)
    # The server's own order is that of the making: whoever does not sort sees the most telling images first, too.
    fresh.sort(key=lambda item: -item.priority)
    kept = {item.ref.key for item in (*fresh, *lacking, *present)}
    return Plan(tuple(fresh), tuple(lacking), tuple(present), unaided & kept, refused)


def draw(product: str, images: Iterable[str], number: int) -> list[str]:
    """So many of the images, as good as at random: those whose hash with the product is smallest.

    The same images give the same draw, and a larger one holds a smaller one.
    """
    return sorted(images, key=lambda image: hashlib.sha256(f"unaided\n{product}\n{image}".encode()).digest())[:number]


def _unaided(
    request: PushRequest, items: Sequence[PushItem], known: Mapping[str, KnownTask], aided: Mapping[str, bool]
) -> frozenset[str]:
    """Which images get no regions: their share of the run, as near as whole images come.

    An image that was shown with regions once is never unaided later, and the other way round. One that only the server
    knows was made by another workspace, or by a push that was killed before it could note it.
    """
    keys = [item.ref.key for item in items]
    settled = {
        key: not aided[key] if key in aided else known[key].unaided for key in keys if key in aided or key in known
    }
    alone = {key for key, unaided in settled.items() if unaided}
    missing = math.floor(request.unaided_share * len(keys) + 0.5) - len(alone)
    return frozenset(alone | set(draw(request.product, set(keys) - settled.keys(), max(0, missing))))


def _usable(request: PushRequest) -> tuple[list[PushItem], tuple[tuple[str, str], ...]]:
    labels = labels_of(request.bundle)
    usable, refused = [], []
    for item in request.items:
        try:
            check_item(item, labels)
            usable.append(item)
        except ImageError as error:
            refused.append((item.name, error.reason))
    return usable, tuple(refused)
