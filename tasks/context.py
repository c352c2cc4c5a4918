"""Context: what the set says of each of its images, in features and in words."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from saa_core.types import ImageRef
from tasks.workbench import context_at, store_at


@task(name="fit-context", cache_policy=NO_CACHE)
def fit_context(refs: list[ImageRef], workspace: str) -> tuple[str, int]:
    """Fit the set's context from stored features; returns its key in the store and the model calls it took."""
    store = store_at(workspace)
    return store.context(refs).key, store.method.calls


@task(name="fit-language", cache_policy=NO_CACHE)
def fit_language(refs: list[ImageRef], phrases: list[str], context: str, workspace: str) -> tuple[list[float], int]:
    """The evidence of each phrase that calm images of the set show, and the model calls it took (lost candidates)."""
    store = store_at(workspace)
    levels = store.calm(refs, phrases, context_at(workspace, context))
    return levels.tolist(), store.method.calls
