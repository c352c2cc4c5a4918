"""What a task needs to do its work, made from the workspace alone, so that tasks take only plain values."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from integrations.blobs import BlobStore
from integrations.candidate_store import CandidateStore, SetContext
from integrations.settings import Settings
from saa_core.batch import BatchContext
from saa_core.errors import StoreError
from saa_core.models import build


def store_at(workspace: str) -> CandidateStore:
    """The workspace's candidate store, with a model-call count of its own."""
    settings = Settings.load(workspace=Path(workspace))
    return CandidateStore(BlobStore(settings.blobs_url), build(), settings.max_pixels)


def context_at(workspace: str, key: str) -> SetContext:
    """A context that `fit_context` stored."""
    return SetContext(key, _batch_context(workspace, key))


@lru_cache(maxsize=2)
def _batch_context(workspace: str, key: str) -> BatchContext:
    # Every batch of a run asks for the same one, which is the largest thing a run holds.
    stored = store_at(workspace).blobs.get("context", key)
    if stored is None:
        raise StoreError(workspace, f"the context {key[:12]} of the set is gone; run the same command again")
    return BatchContext.from_bytes(stored)
