"""Decide and write: arithmetic on stored candidates, then the run's files and rows, per fixed batch."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from integrations.catalog import Catalog, ImageState, RunImage
from integrations.outputs import RunFolder
from integrations.settings import Settings
from saa_core.errors import ImageError
from saa_core.models import ModelSetup
from saa_core.prompts import PromptBundle
from saa_core.types import AnomalyResult, Candidates, ImageRef, SetLevels
from tasks.workbench import context_at, store_at


class DecidedBatch(TypedDict):
    """What became of a batch: first names of images refused, words no model could use, model calls."""

    refused: list[str]
    unknown_words: list[str]
    calls: int


@task(name="decide-and-write", task_run_name="decide-and-write-{batch}", cache_policy=NO_CACHE)
def decide_and_write(
    batch: int,
    refs: list[ImageRef],
    reused: list[str],
    names: list[str],
    setup: ModelSetup,
    bundle: PromptBundle,
    context: str,
    calm: list[float],
    floor: float,
    run_id: str,
    workspace: str,
) -> DecidedBatch:
    """Regions, maps and masks of a batch under a bundle (Eq. 4-9), as files and catalog rows.

    Args:
        batch: Number of the batch, for its name.
        refs: Its images.
        reused: Keys whose candidates were in the store before this run.
        names: Every file name of the set: they decide how the outputs are called.
        setup: The models.
        bundle: The prompts.
        context: Key of the set's context.
        calm: The set's evidence for each phrase, see `SetLevels`.
        floor: The set's region floor.
        run_id: The run that the images belong to.
        workspace: Where everything is.
    """
    settings = Settings.load(workspace=workspace)
    store, held = store_at(workspace, setup, bundle), context_at(workspace, context)
    folder, levels = RunFolder(settings.runs / run_id, names), SetLevels(np.array(calm, np.float32), floor)
    rows: list[RunImage] = []
    unknown: set[str] = set()
    for ref in refs:
        try:
            found, result = store.decide(ref, bundle, held, levels)
        except ImageError as error:
            rows.append(RunImage.of(ref, "quarantined", reason=error.reason))
            continue
        folder.write(ref, result, (found.height, found.width), bundle.decision)
        unknown.update(found.unknown_words)
        rows.append(_row(ref, found, result, "reused" if ref.key in reused else "labelled"))
    with Catalog(settings.catalog_url) as catalog:
        catalog.record_images(run_id, rows)
    refused = [row.name for row in rows if row.state == "quarantined"]
    return DecidedBatch(refused=refused, unknown_words=sorted(unknown), calls=store.method.calls)


def _row(ref: ImageRef, found: Candidates, result: AnomalyResult, state: ImageState) -> RunImage:
    return RunImage.of(
        ref, state, height=found.height, width=found.width, score=result.score, regions=len(result.regions)
    )
