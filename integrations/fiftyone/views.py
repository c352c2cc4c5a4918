"""Saved views: the questions that a curator asks, each with its answer one click away, always up to date."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from integrations.fiftyone.appearance import EXPERT_COLOR, FOUND_COLOR
from integrations.fiftyone.columns import database_errors
from integrations.fiftyone.report import PublishReport
from integrations.fiftyone.schema import BundleFields

CHANGED = 0.2
"""From this share of differing pixels on, two sets of masks of one image count as different."""
_UNUSUAL, _WEAK = 0.95, 0.25


_MARK = "saa: "
"""Beginning of the descriptions of our views; a view without it is somebody's own."""


def save_views(
    dataset: Any, current: BundleFields, before: BundleFields | None, threshold: float, report: PublishReport
) -> list[str]:
    """Save every view that the data set has the fields for; those that are as they should be, and others', are left.

    Args:
        dataset: The product's.
        current: The newest bundle.
        before: The one before it.
        threshold: Confidence, in [0, 1], at which the newest bundle decides.
        report: Told how many were written, and which are left out because somebody's own view has the name.

    Returns:
        The names of ours.

    Raises:
        ServiceError: mongod does not answer.
    """
    from fiftyone.core.utils import to_slug

    with database_errors():
        wanted = _views(dataset, current, before, threshold)
        ours = _ours(dataset, wanted)
        theirs = {to_slug(name): name for name in dataset.list_saved_views() if name not in ours}
        taken = {name: theirs[to_slug(name)] for name in wanted if to_slug(name) in theirs}
        saved = [_save(dataset, name, *wanted[name]) for name in wanted if name not in taken]
    report.count("views", sum(saved))
    report.notes += [f"your view {own!r} stays; rename it to get ours, {name!r}" for name, own in taken.items()]
    return [name for name in wanted if name not in taken]


def _ours(dataset: Any, names: Iterable[str]) -> set[str]:
    there = set(dataset.list_saved_views())
    return {
        name
        for name in names
        if name in there and (dataset.get_saved_view_info(name)["description"] or "").startswith(_MARK)
    }


def _save(dataset: Any, name: str, text: str, view: Any) -> bool:
    """Save one of ours, in the colour that somebody may have given it; returns whether it had to be written."""
    color = EXPERT_COLOR if "expert" in name else FOUND_COLOR
    if name in dataset.list_saved_views():
        there = dataset.load_saved_view(name)
        if there._serialize(include_uuids=False) == view._serialize(include_uuids=False):
            return False
        color = dataset.get_saved_view_info(name)["color"]
    dataset.save_view(name, view, description=_MARK + text, color=color, overwrite=True)
    return True


def _views(
    dataset: Any, current: BundleFields, before: BundleFields | None, threshold: float
) -> dict[str, tuple[str, Any]]:
    """Description and view by name."""
    from fiftyone import ViewField as F

    unreviewed = dataset.match(F("review_state") != "reviewed")
    found = F(f"{current.predictions}.detections")
    views: dict[str, tuple[str, Any]] = {
        "needs review": (
            "No review that counts yet; those that would tell most first",
            unreviewed.sort_by("review_priority", reverse=True),
        ),
        "most uncertain": (
            f"Not reviewed; regions with a confidence nearest to {threshold:.3g}, where it is decided, come first",
            unreviewed.match(found.length() > 0).sort_by(found.map((F("confidence") - threshold).abs()).min()),
        ),
        "likely false alarms": (
            "Regions that match none of the expert's, and on images without a review the weakest quarter",
            _false_alarms(dataset, current),
        ),
        "missed defects": (
            "Images with a region that only the expert drew",
            dataset.filter_labels("expert", F("outcome") == "added"),
        ),
        "expert changed most": (
            "Reviewed; where the masks differ most from those that were shown, first",
            dataset.match(F("expert_change") > CHANGED).sort_by("expert_change", reverse=True),
        ),
        "experts disagree": ("Annotators differ on these", dataset.match(F("dispute").exists())),
        "unusual images": (
            f"The {1 - _UNUSUAL:.0%} that are least like any other",
            dataset.match(F("uniqueness") >= _UNUSUAL).sort_by("uniqueness", reverse=True),
        ),
        "near-duplicates": (
            "Images that repeat one another, side by side",
            dataset.match(F("near_duplicate").exists()).sort_by("near_duplicate"),
        ),
        "blind slice": (
            "Experts got these without masks, on purpose: what they find there no mask has influenced",
            dataset.match(F("blind") == True),  # noqa: E712 - an expression that mongod evaluates
        ),
    }
    return views | (_comparison(dataset, current, before) if before else {})


def _false_alarms(dataset: Any, current: BundleFields) -> Any:
    from fiftyone import ViewField as F

    unreviewed = dataset.match(F("review_state") != "reviewed")
    found = unreviewed.values(f"{current.predictions}.detections.confidence", unwind=True)
    confidences = sorted(value for value in found if value is not None)
    weak = confidences[int(_WEAK * len(confidences))] if confidences else 0.0
    doubtful = F("$review_state").is_in(["reviewed"]).if_else(F(current.evaluation) == "fp", F("confidence") <= weak)
    return dataset.filter_labels(current.predictions, doubtful).sort_by(current.score)


def _comparison(dataset: Any, current: BundleFields, before: BundleFields) -> dict[str, tuple[str, Any]]:
    from fiftyone import ViewField as F

    gain = F(current.pixel_f1) - F(before.pixel_f1)
    both = dataset.match(F(current.pixel_f1).exists() & F(before.pixel_f1).exists())
    return {
        "bundles disagree": (
            "The two newest bundles show different masks; the most different first",
            dataset.match(F("bundle_change") > CHANGED).sort_by("bundle_change", reverse=True),
        ),
        "newest bundle better": (
            "Reviewed images whose pixel F1 rose with the newest bundle, by how much",
            both.match(gain > 0).sort_by(gain, reverse=True),
        ),
        "newest bundle worse": (
            "Reviewed images whose pixel F1 fell with the newest bundle, by how much",
            both.match(gain < 0).sort_by(gain),
        ),
    }
