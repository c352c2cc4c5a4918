"""Which bundles a product's data set holds, which of them is the newest, and what run shows which image."""

from __future__ import annotations

from typing import Any

from integrations.catalog import RunRecord
from integrations.fiftyone.columns import database_errors
from integrations.fiftyone.schema import BundleFields, keep_notes, notes_of


def bundles_in(dataset: Any) -> list[BundleFields]:
    """The bundles that a data set holds, by when their run was finished, the newest last."""
    return [BundleFields(each["key"]) for each in notes_of(dataset)["bundles"]]


def newest_in(dataset: Any) -> BundleFields | None:
    """The bundle with the newest run; None if the data set holds none."""
    return next(reversed(bundles_in(dataset)), None)


def runs_in(dataset: Any, fields: BundleFields) -> dict[str, str]:
    """By image key, the run whose regions of a bundle are shown; images that the bundle lacks are left out.

    Raises:
        ServiceError: mongod does not answer.
    """
    with database_errors():
        columns = dataset.values(["key", f"{fields.predictions}.run"])
    return {key: run for key, run in zip(*columns, strict=True) if run}


def judged_in(dataset: Any) -> dict[str, tuple[BundleFields, str]]:
    """By image key, the newest bundle that shows it, whose regions people judge, and the run that it shows.

    Raises:
        ServiceError: mongod does not answer.
    """
    found: dict[str, tuple[BundleFields, str]] = {}
    for fields in bundles_in(dataset):
        found |= {key: (fields, run) for key, run in runs_in(dataset, fields).items()}
    return found


def note_bundle(dataset: Any, fields: BundleFields, run: RunRecord, models: str) -> None:
    """Note that a bundle now shows this run, among the others by when their runs were finished.

    Raises:
        ServiceError: mongod does not answer.
    """
    notes, finished = notes_of(dataset), (run.finished or run.created).isoformat()
    entry = {"key": fields.key, "bundle": run.bundle, "models": models, "finished": finished}
    others = [each for each in notes["bundles"] if each["key"] != fields.key]
    notes["bundles"] = sorted([*others, entry], key=lambda each: str(each["finished"]))
    with database_errors():
        keep_notes(dataset, notes)
