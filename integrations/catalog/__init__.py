"""The memory of a workspace: which images, under which bundle, in which run, with what result, and what experts said.

SQLite by default, PostgreSQL by URL. Records go in and come out as frozen dataclasses; no object of the database layer
leaves this package.
"""

from integrations.catalog.records import (
    BundleRecord,
    BundleState,
    ImageState,
    LookRecord,
    PredictionRecord,
    PromotionRecord,
    Pushed,
    RefinementRecord,
    ReviewKey,
    RunImage,
    RunRecord,
    RunState,
    RunTotals,
    now,
)
from integrations.catalog.store import Catalog

__all__ = [
    "BundleRecord",
    "BundleState",
    "Catalog",
    "ImageState",
    "LookRecord",
    "PredictionRecord",
    "PromotionRecord",
    "Pushed",
    "RefinementRecord",
    "ReviewKey",
    "RunImage",
    "RunRecord",
    "RunState",
    "RunTotals",
    "now",
]
