"""Context: the set as the context of each of its images."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from saa_core.types import ImageRef
from tasks.workbench import store_at


@task(name="fit-context", cache_policy=NO_CACHE)
def fit_context(refs: list[ImageRef], workspace: str) -> tuple[str, int]:
    """Fit the set's context from stored features; returns its key in the store and the model calls it took."""
    store = store_at(workspace)
    return store.context(refs).key, store.method.calls
