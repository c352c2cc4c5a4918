"""Propose: everything that calls a model, per fixed batch of images. A bad image is set aside, never the batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypedDict

from prefect import task

from saa_core.errors import ImageError
from saa_core.models import ModelSetup
from saa_core.prompts import PromptBundle
from saa_core.types import ImageRef
from tasks.caching import ContentKey
from tasks.workbench import context_at, store_at


class BatchOutcome(TypedDict):
    """What became of a batch: keys done, keys answered without a model, (key, reason) refused, model calls, time."""

    done: list[str]
    reused: list[str]
    refused: list[tuple[str, str]]
    calls: int
    seconds: float


@task(
    name="extract-features",
    task_run_name="extract-features-{batch}",
    cache_policy=ContentKey(task="extract-features", version=3, inputs=("keys", "models", "max_pixels", "workspace")),
    persist_result=True,
    result_serializer="json",
)
def extract_features(
    batch: int,
    keys: list[str],
    refs: list[ImageRef],
    models: str,
    max_pixels: int,
    workspace: str,
    setup: ModelSetup,
    bundle: PromptBundle,
) -> BatchOutcome:
    """Features of a batch of images (for Eq. 5), into the store; `models` is the id of the networks in `setup`."""
    started = time.perf_counter()
    store = store_at(workspace, setup, bundle)

    def extract(ref: ImageRef) -> bool:
        calls = store.method.calls
        store.features(ref)
        return store.method.calls == calls

    with store.looking_ahead(refs):
        return each_image(refs, extract, lambda: store.method.calls, started)


@task(
    name="propose-candidates",
    task_run_name="propose-candidates-{batch}",
    cache_policy=ContentKey(
        task="propose-candidates", version=3, inputs=("keys", "models", "max_pixels", "workspace", "asked", "context")
    ),
    persist_result=True,
    result_serializer="json",
)
def propose_candidates(
    batch: int,
    keys: list[str],
    refs: list[ImageRef],
    models: str,
    max_pixels: int,
    workspace: str,
    setup: ModelSetup,
    bundle: PromptBundle,
    asked: str,
    context: str,
) -> BatchOutcome:
    """Candidates of a batch of images (Eq. 1-2), into the store; `asked` is what of the bundle they depend on."""
    started = time.perf_counter()
    store, held = store_at(workspace, setup, bundle), context_at(workspace, context)
    together = store.method.images_at_once
    if together > 1:
        for start in range(0, len(refs), together):
            store.propose(refs[start : start + together], bundle)

    def propose(ref: ImageRef) -> bool:
        found = store.has_drawn(ref, bundle, held)
        store.drawn(ref, bundle, held)
        return found

    with store.looking_ahead([ref for ref in refs if not store.has_drawn(ref, bundle, held)]):
        return each_image(refs, propose, lambda: store.method.calls, started)


def each_image(
    refs: Sequence[ImageRef], work: Callable[[ImageRef], bool], calls: Callable[[], int], started: float
) -> BatchOutcome:
    """Do the work for each image; one that cannot be used is refused with its reason, and the others go on.

    Args:
        refs: The batch.
        work: Returns whether the image was answered without a model.
        calls: Model calls so far.
        started: When the batch was begun, of `time.perf_counter`.
    """
    outcome = BatchOutcome(done=[], reused=[], refused=[], calls=0, seconds=0.0)
    for ref in refs:
        try:
            if work(ref):
                outcome["reused"].append(ref.key)
            outcome["done"].append(ref.key)
        except ImageError as error:
            outcome["refused"].append((ref.key, error.reason))
    outcome["calls"], outcome["seconds"] = calls(), time.perf_counter() - started
    return outcome
