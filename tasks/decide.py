"""Decide and write: arithmetic on stored candidates, then the run's files and rows, per fixed batch."""

from __future__ import annotations

import time
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
    """What became of a batch: keys of images refused, words no model could use, model calls, time."""

    refused: list[str]
    unknown_words: list[str]
    calls: int
    seconds: float


@task(name="decide-and-write", task_run_name="decide-and-write-{batch}", cache_policy=NO_CACHE)
def decide_and_write(
    batch: int,
    refs: list[ImageRef],
    reused: list[str],
    stems: dict[str, str],
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
        stems: What the outputs of each of their names are called.
        setup: The models.
        bundle: The prompts.
        context: Key of the set's context.
        calm: The set's evidence for each phrase, see `SetLevels`.
        floor: The set's region floor.
        run_id: The run that the images belong to.
        workspace: Where everything is.
    """
    started, settings = time.perf_counter(), Settings.load(workspace=workspace)
    store, held = store_at(workspace, setup, bundle), context_at(workspace, context)
    folder, levels = RunFolder(settings.runs / run_id, stems), SetLevels(np.array(calm, np.float32), floor)
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
    return DecidedBatch(
        refused=[row.key for row in rows if row.state == "quarantined" and row.key],
        unknown_words=sorted(unknown),
        calls=store.method.calls,
        seconds=time.perf_counter() - started,
    )


def _row(ref: ImageRef, found: Candidates, result: AnomalyResult, state: ImageState) -> RunImage:
    return RunImage.of(
        ref, state, height=found.height, width=found.width, score=result.score, regions=len(result.regions)
    )
