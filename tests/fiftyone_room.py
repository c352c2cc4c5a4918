"""A gallery of plates and its data set in a real FiftyOne."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from integrations.fiftyone import workspace
from integrations.fiftyone.report import PublishReport
from integrations.fiftyone.schema import bundle_fields
from integrations.fiftyone.workspace import Curated
from integrations.intake import Intake
from integrations.settings import Settings
from saa_core.types import ImageRef
from tests.fiftyone_server import Database
from tests.gallery import FIRST, MODELS, PRODUCT, SECOND, Gallery

ONE, TWO = bundle_fields(FIRST.id, MODELS), bundle_fields(SECOND.id, MODELS)


def describe(ref: ImageRef) -> Any:
    """Features of a plate, far from those of others."""
    return np.random.default_rng(int(ref.key[:8], 16)).normal(size=8).astype(np.float32)


@dataclass
class Room:
    """A gallery and its data set."""

    gallery: Gallery
    database: Database

    def publish(self, run: str | None = None) -> PublishReport:
        return workspace.publish(self.gallery.settings, PRODUCT, run, describe, lambda *step: None)

    def pull(self) -> Intake:
        return workspace.pull_product(self.gallery.settings, PRODUCT)

    def curate(self) -> Curated:
        return workspace.curate(self.gallery.settings, PRODUCT, None, describe, lambda *step: None)

    @property
    def dataset(self) -> Any:
        dataset = self.database.fiftyone.load_dataset(PRODUCT)
        dataset.reload()
        return dataset

    def sample(self, number: int) -> Any:
        return self.dataset.one({"key": self.gallery.refs[number].key})


@pytest.fixture
def room(fiftyone_database: Database, tmp_path: Path) -> Room:
    folder = tmp_path / "workspace"
    settings = Settings.load(
        workspace=folder, fiftyone_uri=fiftyone_database.uri, fiftyone_database=fiftyone_database.name
    )
    folder.mkdir()
    gallery = Gallery(folder, settings)
    gallery.photograph(6)
    return Room(gallery, fiftyone_database)
