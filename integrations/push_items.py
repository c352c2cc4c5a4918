"""One image of a run as experts are shown it, wherever that is: its regions have labels, and ids that come back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from integrations.labels import label_of
from integrations.outputs import ImageRecord
from saa_core.masks import from_coco
from saa_core.prompts import PromptBundle
from saa_core.reviews import PredictedRegion
from saa_core.types import ImageRef

_ID_LETTERS = 12


@dataclass(frozen=True, slots=True)
class PushItem:
    """One image of a run as it is pushed.

    Attributes:
        ref: The image.
        height: Rows of the upright image, in pixels.
        width: Columns of the upright image, in pixels.
        priority: How much a review of it would tell, in [0, 1].
        regions: What the run found on it, best first.
        phrase_scores: For each region the score of each phrase of the bundle, in [0, 1].
    """

    ref: ImageRef
    height: int
    width: int
    priority: float
    regions: tuple[PredictedRegion, ...]
    phrase_scores: tuple[Mapping[str, float], ...]

    @property
    def name(self) -> str:
        """What the user calls the image."""
        return self.ref.names[0]


def push_item(record: ImageRecord, ref: ImageRef, priority: float, run: str, bundle: PromptBundle) -> PushItem:
    """An image of a run, from its record in the run's folder."""
    height, width = record["size"]
    regions = tuple(
        PredictedRegion(
            id=region_id(run, ref.key, rank),
            label=label_of(region["label"], bundle),
            phrase=region["label"],
            score=region["confidence"],
            mask=from_coco(region["segmentation"]),
        )
        for rank, region in enumerate(record["regions"])
    )
    scores = tuple(region["phrase_scores"] for region in record["regions"])
    return PushItem(ref, height, width, priority, regions, scores)


def region_id(run: str, image: str, rank: int) -> str:
    """The id under which the editor shows, keeps and sends back a region: the same run always gives the same."""
    return hashlib.sha256(f"{run}\n{image}\n{rank}".encode()).hexdigest()[:_ID_LETTERS]
