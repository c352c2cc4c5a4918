"""What a task needs to do its work, made from plain values and the workspace alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from integrations.blobs import BlobStore
from integrations.candidate_store import CandidateStore, SetContext
from integrations.catalog import Catalog, RunRecord
from integrations.finished_run import run_of
from integrations.settings import Settings
from saa_core.batch import BatchContext
from saa_core.checkpoints import ensure_offline
from saa_core.errors import StoreError
from saa_core.models import WEIGHT_FREE, ModelSetup, build
from saa_core.prompts import PromptBundle
from saa_core.types import FloatMap, ImageRef


def store_at(workspace: str, setup: ModelSetup, bundle: PromptBundle | None = None) -> CandidateStore:
    """The workspace's candidate store over some models as a bundle wants them, with a model-call count of its own."""
    settings = Settings.load(workspace=Path(workspace))
    method = build(setup, bundle)
    return CandidateStore(BlobStore(settings.blobs_url), method, settings.max_pixels, settings.keep_embeddings)


def setup_of(run: RunRecord, settings: Settings) -> ModelSetup:
    """The models of a run, on this machine's device."""
    if settings.offline:
        ensure_offline()
    return ModelSetup.model_validate({**run.setup, "device": settings.device, "weights": settings.weights_dir})


def store_of(run: RunRecord, settings: Settings, bundle: PromptBundle) -> CandidateStore:
    """The store over the models of a run."""
    return store_at(str(settings.workspace), setup_of(run, settings), bundle)


def store_for(product: str, catalog: Catalog, settings: Settings, bundle: PromptBundle) -> CandidateStore:
    """The store over the models of a product's latest run; the weight-free ones where nothing was labelled yet."""
    run = catalog.latest_run(product, state="done")
    return store_of(run, settings, bundle) if run else store_at(str(settings.workspace), WEIGHT_FREE, bundle)


def descriptor_of(settings: Settings, product: str, run: str | None) -> Callable[[ImageRef], FloatMap]:
    """Gives an image as one vector, by the features of a run, the product's latest without one."""
    with Catalog(settings.catalog_url) as catalog:
        record = run_of(catalog, product, run)
        return store_of(record, settings, catalog.bundle(record.bundle)).descriptor


def context_at(workspace: str, key: str) -> SetContext:
    """A context that `fit_context` stored."""
    return SetContext(key, _batch_context(workspace, key))


@lru_cache(maxsize=2)
def _batch_context(workspace: str, key: str) -> BatchContext:
    # Every batch of a run asks for the same one, which is the largest thing a run holds.
    stored = BlobStore(Settings.load(workspace=Path(workspace)).blobs_url).get("context", key)
    if stored is None:
        raise StoreError(workspace, f"the context {key[:12]} of the set is gone; run the same command again")
    return BatchContext.from_bytes(stored)
