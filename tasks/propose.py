"""Propose: everything that calls a model, per fixed batch of images. A bad image is set aside, never the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

from prefect import task

from saa_core.errors import ImageError
from saa_core.types import ImageRef
from tasks.caching import ContentKey
from tasks.workbench import context_at, store_at


class BatchOutcome(TypedDict):
    """What became of a batch: keys done, keys answered without a model, (key, reason) refused, model calls."""

    done: list[str]
    reused: list[str]
    refused: list[tuple[str, str]]
    calls: int


@task(
    name="extract-features",
    task_run_name="extract-features-{batch}",
    cache_policy=ContentKey(task="extract-features", inputs=("keys", "models", "max_pixels", "workspace")),
    persist_result=True,
    result_serializer="json",
)
def extract_features(
    batch: int, keys: list[str], refs: list[ImageRef], models: str, max_pixels: int, workspace: str
) -> BatchOutcome:
    """Features of a batch of images (for Eq. 5), into the store."""
    store = store_at(workspace)

    def extract(ref: ImageRef) -> bool:
        calls = store.method.calls
        store.features(ref)
        return store.method.calls == calls

    return each_image(refs, extract, lambda: store.method.calls)


@task(
    name="propose-candidates",
    task_run_name="propose-candidates-{batch}",
    cache_policy=ContentKey(
        task="propose-candidates", inputs=("keys", "models", "max_pixels", "workspace", "phrases", "context")
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
    phrases: list[str],
    context: str,
) -> BatchOutcome:
    """Candidates of a batch of images (Eq. 1-2), into the store."""
    store, held = store_at(workspace), context_at(workspace, context)

    def propose(ref: ImageRef) -> bool:
        found = store.has_candidates(ref, phrases, held)
        store.candidates(ref, phrases, held)
        return found

    return each_image(refs, propose, lambda: store.method.calls)


def each_image(refs: Sequence[ImageRef], work: Callable[[ImageRef], bool], calls: Callable[[], int]) -> BatchOutcome:
    """Do the work for each image; one that cannot be used is refused with its reason, and the others go on.

    Args:
        refs: The batch.
        work: Returns whether the image was answered without a model.
        calls: Model calls so far.
    """
    outcome = BatchOutcome(done=[], reused=[], refused=[], calls=0)
    for ref in refs:
        try:
            if work(ref):
                outcome["reused"].append(ref.key)
            outcome["done"].append(ref.key)
        except ImageError as error:
            outcome["refused"].append((ref.key, error.reason))
    outcome["calls"] = calls()
    return outcome
