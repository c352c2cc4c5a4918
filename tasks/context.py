"""Context: what the set says of each of its images, in features and in words."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from saa_core.models import ModelSetup
from saa_core.prompts import PromptBundle
from saa_core.types import ImageRef
from tasks.workbench import context_at, store_at


@task(name="fit-context", cache_policy=NO_CACHE)
def fit_context(refs: list[ImageRef], setup: ModelSetup, bundle: PromptBundle, workspace: str) -> tuple[str, int]:
    """Fit the set's context from stored features; returns its key in the store and the model calls it took."""
    store = store_at(workspace, setup, bundle)
    return store.context(refs).key, store.method.calls


@task(name="fit-levels", cache_policy=NO_CACHE)
def fit_levels(
    refs: list[ImageRef], setup: ModelSetup, bundle: PromptBundle, context: str, workspace: str
) -> tuple[list[float], float, int]:
    """What the set says of its images, `SetLevels` as plain values, and the model calls it took (lost candidates)."""
    store = store_at(workspace, setup, bundle)
    levels = store.levels(refs, bundle, context_at(workspace, context))
    return levels.calm.tolist(), levels.floor, store.method.calls
