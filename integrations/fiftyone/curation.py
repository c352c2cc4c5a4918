"""Figures that say what is worth a look: bundles against the experts, bundle against bundle, image against image.

All offline, and from what the workspace holds: FiftyOne's evaluation runs on its labels, pixels are compared as
run-lengths, and likeness is that of the features that the method itself uses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from integrations.catalog import Catalog
from integrations.fiftyone.appearance import same_sidebar
from integrations.fiftyone.bundles import bundles_in, runs_in
from integrations.fiftyone.columns import database_errors, put_plain
from integrations.fiftyone.report import PublishReport
from integrations.fiftyone.reviews import FIELD, dissimilarity
from integrations.fiftyone.schema import BundleFields, keep_notes, notes_of
from integrations.outputs import read_records
from integrations.settings import Settings
from saa_core.masks import Rle, from_coco, intersections, union
from saa_core.reviews import evidence

REPEATS = 0.1
"""Near-duplicates are no farther from each other than this share of an image's usual distance to its nearest."""
MATCH = 0.5
"""IoU from which a region counts as found, the usual one (PASCAL VOC, COCO AP50)."""

Masks = Mapping[str, tuple[Rle, ...]]


def compare_bundles(dataset: Any, settings: Settings, catalog: Catalog, report: PublishReport) -> None:
    """Pixel F1 of each bundle on every reviewed image, and how far the two newest bundles differ.

    Raises:
        ServiceError: mongod does not answer.
    """
    with database_errors():
        keys = dataset.values("key")
    truth = {key: review.masks for key, review in evidence(catalog.reviews(dataset.name, keys)).items()}
    held = [(fields, _masks(settings, runs_in(dataset, fields))) for fields in bundles_in(dataset)]
    for fields, masks in held:
        values = {key: pixel_f1(masks[key], truth[key]) if key in truth else None for key in masks}
        report.count(fields.pixel_f1, put_plain(dataset, fields.pixel_f1, values))
    if len(held) > 1:
        (_, before), (_, now) = held[-2:]
        both = before.keys() & now.keys()
        change = {key: dissimilarity(before[key], now[key]) if key in both else None for key in keys}
        report.count("bundle_change", put_plain(dataset, "bundle_change", change))


def pixel_f1(found: Iterable[Rle], truth: Iterable[Rle]) -> float:
    """F1 of the pixels of an image, in [0, 1]; 1 where neither shows any."""
    shown, real = list(found), list(truth)
    if not shown or not real:
        return float(not shown and not real)
    a, b = union(shown), union(real)
    return float(2 * intersections([a], [b])[0, 0] / (a.area + b.area))


def evaluate_regions(dataset: Any, report: PublishReport) -> None:
    """FiftyOne's evaluation of each bundle's regions against the experts', by their masks, on the reviewed images.

    It is run again only when regions of either side have changed.

    Raises:
        ServiceError: mongod does not answer.
    """
    from fiftyone import ViewField

    notes = notes_of(dataset)
    evaluated = notes.setdefault("evaluated", {})
    with database_errors():
        for fields in bundles_in(dataset):
            view = dataset.match((ViewField("review_state") == "reviewed") & ViewField(fields.predictions).exists())
            state = _digest(view.values(["key", f"{FIELD}.review", f"{fields.predictions}.run"]))
            if evaluated.get(fields.key) == state:
                continue
            with same_sidebar(dataset):
                if fields.evaluation in dataset.list_evaluations():
                    dataset.delete_evaluation(fields.evaluation)
                if len(view):
                    _evaluate(view, fields)
            if len(view):
                report.count(fields.evaluation, len(view))
            evaluated[fields.key] = state
            keep_notes(dataset, notes)


def _digest(columns: Any) -> str:
    return hashlib.sha256(json.dumps(columns).encode()).hexdigest()[:24]


def _evaluate(view: Any, fields: BundleFields) -> None:
    view.evaluate_detections(
        fields.predictions, gt_field=FIELD, eval_key=fields.evaluation, use_masks=True, iou=MATCH, classwise=False
    )


def regions_found(dataset: Any, fields: BundleFields) -> dict[str, int] | None:
    """True positives, false positives and misses of a bundle's evaluation; None before there is one."""
    with database_errors():
        if fields.evaluation not in dataset.list_evaluations():
            return None
        return {name: int(dataset.sum(f"{fields.evaluation}_{name}") or 0) for name in ("tp", "fp", "fn")}


def compare_images(dataset: Any, report: PublishReport) -> None:
    """Uniqueness and near-duplicates by the features; nothing is done unless an image came.

    Raises:
        ServiceError: mongod does not answer.
    """
    from fiftyone import ViewField

    with database_errors():
        view = dataset.match(ViewField("features").exists())
        keys, names, vectors, known = view.values(["key", "name", "features", "uniqueness"])
    if len(names) < 2 or None not in known:
        return
    features = np.array(vectors, np.float64)
    unlike, groups = likeness(features)
    repeats = _first_names(names, groups)
    report.count("uniqueness", put_plain(dataset, "uniqueness", dict(zip(keys, unlike, strict=True))))
    report.count("near_duplicate", put_plain(dataset, "near_duplicate", dict(zip(keys, repeats, strict=True))))
    _search_by_likeness(dataset, view, features)


def likeness(vectors: NDArray[np.float64]) -> tuple[list[float], list[int]]:
    """How unlike all others each image is, and which images repeat one another.

    Args:
        vectors: float64 (n, C), n >= 2; each channel is brought to a deviation of 1 first.

    Returns:
        For each image the rank of the distance to its nearest other, in [0, 1], and the number of its group; an image
        that repeats none is a group by itself.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree
    from scipy.stats import rankdata

    deviation = vectors.std(axis=0)
    scaled = (vectors - vectors.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    tree = KDTree(scaled)
    nearest = tree.query(scaled, k=2)[0][:, 1]
    pairs = tree.query_pairs(REPEATS * float(np.median(nearest)), output_type="ndarray")
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(scaled), len(scaled)))
    groups = connected_components(graph, directed=False)[1]
    ranks = (rankdata(nearest, "max") - 1) / (len(nearest) - 1)
    return ranks.tolist(), groups.tolist()


def _first_names(names: Sequence[str], groups: Sequence[int]) -> list[str | None]:
    """For each image of a group of several the first name in it."""
    members: dict[int, list[str]] = {}
    for name, group in zip(names, groups, strict=True):
        members.setdefault(group, []).append(name)
    return [min(members[group]) if len(members[group]) > 1 else None for group in groups]


def _search_by_likeness(dataset: Any, view: Any, vectors: NDArray[np.float64]) -> None:
    """Two axes of the features for the App's Embeddings panel, and search by likeness in the grid."""
    import fiftyone.brain as brain

    with database_errors():
        for key in ("likeness", "plane"):
            if key in dataset.list_brain_runs():
                dataset.delete_brain_run(key)
        brain.compute_visualization(view, embeddings=vectors, method="pca", num_dims=2, brain_key="plane")
        brain.compute_similarity(view, embeddings="features", brain_key="likeness", backend="sklearn")


def _masks(settings: Settings, runs: Mapping[str, str]) -> Masks:
    """The masks of each image, by key, as the run shows them that is given for it."""
    return {
        record["key"]: tuple(from_coco(region["segmentation"]) for region in record["regions"])
        for run in sorted(set(runs.values()))
        for record in read_records(settings.runs / run)
        if runs.get(record["key"]) == run
    }
