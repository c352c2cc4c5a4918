"""Saying in FiftyOne what one thinks: tags of regions and images, as `pull` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from integrations.fiftyone.columns import database_errors
from integrations.fiftyone.publish import newest_in
from integrations.fiftyone.pull import ACCEPTED, GOOD, REJECTED
from integrations.fiftyone.schema import OURS
from saa_core.errors import ServiceError


def newest_predictions(dataset: Any) -> str:
    """The field whose regions are judged: those of the bundle that was published last.

    Raises:
        ServiceError: The data set is not ours, or holds no run.
    """
    if OURS not in dataset.info:
        raise ServiceError(dataset.name, "saa did not make this data set")
    newest = newest_in(dataset)
    if newest is None:
        raise ServiceError(dataset.name, f"holds no run; `saa push fiftyone --product {dataset.name}` brings one")
    return newest.predictions


def accept(dataset: Any, regions: Sequence[str]) -> int:
    """Tag regions as right, and take back what contradicts that: that they are wrong, that their images are good.

    Args:
        dataset: A product's.
        regions: Ids of labels of `newest_predictions`; others are left out.

    Returns:
        How many regions are meant.

    Raises:
        ServiceError: mongod does not answer, or as `newest_predictions`.
    """
    field = newest_predictions(dataset)
    with database_errors():
        view = dataset.select_labels(ids=list(regions), fields=field)
        view.tag_labels(ACCEPTED, field)
        view.untag_labels(REJECTED, field)
        view.untag_samples(GOOD)
        return int(view.count(f"{field}.detections"))


def mark_good(dataset: Any, samples: Sequence[str]) -> int:
    """Tag images as free of defects, and take back what contradicts that: that regions of theirs are right.

    Args:
        dataset: A product's.
        samples: Ids of samples.

    Returns:
        How many images are meant.

    Raises:
        ServiceError: As `accept`.
    """
    field = newest_predictions(dataset)
    with database_errors():
        view = dataset.select(list(samples))
        view.untag_labels(ACCEPTED, field)
        view.tag_samples(GOOD)
        return len(view)
