"""FiftyOne: seconds of a publish of 1,000 images with maps and masks, of the same again, and of a curation.

    python benchmarks/curation.py mongodb://127.0.0.1:27117/

`saa services up fiftyone` tells the address of a mongod; databases of this script's own are made in it and dropped.
The images are drawn, 256 x 256, with one region each on average. The publish into a second database finds all mask
files written, so its seconds are those beyond writing files. The plain way adds one sample at a time.
"""

from __future__ import annotations

import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from integrations.fiftyone import workspace
from integrations.fiftyone.environment import connect
from integrations.settings import Settings
from saa_core.types import ImageRef
from tests.gallery import PRODUCT, SECOND, Gallery, kept

COUNT, SIDE, CHANNELS = 1000, 256, 60


def main() -> None:
    """Print a line for each step."""
    uri = sys.argv[1]
    databases = [f"benchmark-{uuid.uuid4().hex[:8]}" for _ in range(3)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "workspace"
        folder.mkdir()
        first, second = (
            Settings.load(workspace=folder, fiftyone_uri=uri, fiftyone_database=each) for each in databases[:2]
        )
        gallery = Gallery(folder, first, side=SIDE)
        gallery.photograph(COUNT)
        run = gallery.label("run1")
        vectors = dict(zip((ref.key for ref in gallery.refs), features(), strict=True))
        fiftyone = connect(uri, databases[0], folder)
        try:
            told("publish, files written too", lambda: publish(first, vectors))
            told("publish beyond writing files", lambda: publish(second, vectors))
            told("publish again, nothing new", lambda: publish(second, vectors))
            for ref in gallery.refs[: COUNT // 4]:
                gallery.review(run, ref, kept(gallery.shown(run, ref)))
            told("publish 250 reviews", lambda: publish(second, vectors))
            told("curate", lambda: curate(second, vectors))
            told("curate again, nothing new", lambda: curate(second, vectors))
            gallery.label("run2", SECOND, shift=3)
            told("curate a second bundle", lambda: curate(second, vectors))
            connect(uri, databases[2], folder)
            told("plain: add_sample, one at a time", lambda: plain(fiftyone, gallery))
        finally:
            for each in databases:
                connect(uri, each, folder)
                fiftyone.core.odm.get_db_conn().client.drop_database(each)


def features() -> NDArray[np.float32]:
    """As many vectors as there are images."""
    return np.random.default_rng(0).normal(size=(COUNT, CHANNELS)).astype(np.float32)


def publish(settings: Settings, vectors: dict[str, NDArray[np.float32]]) -> str:
    """What was written."""
    return workspace.publish(settings, PRODUCT, None, describe(vectors), lambda *step: None).sentence()


def curate(settings: Settings, vectors: dict[str, NDArray[np.float32]]) -> str:
    """What was written."""
    return workspace.curate(settings, PRODUCT, None, describe(vectors), lambda *step: None).published.sentence()


def describe(vectors: dict[str, NDArray[np.float32]]) -> Callable[[ImageRef], NDArray[np.float32]]:
    """Features that are known already, as those of a run are."""
    return lambda ref: vectors[ref.key]


def plain(fiftyone: Any, gallery: Gallery) -> str:
    """Samples with one box each, as the first page of FiftyOne's guide adds them."""
    dataset = fiftyone.Dataset("plain")
    for ref in gallery.refs:
        sample = fiftyone.Sample(filepath=ref.uri, key=ref.key)
        sample["found"] = fiftyone.Detections(
            detections=[fiftyone.Detection(label="scratch", bounding_box=[0.1, 0.1, 0.2, 0.1], confidence=0.9)]
        )
        dataset.add_sample(sample)
    return f"{len(dataset)} samples"


def told(what: str, run: Callable[[], str]) -> None:
    """Run a step and print its seconds."""
    started = perf_counter()
    said = run()
    print(f"{what:34} {perf_counter() - started:6.2f} s   {said[:90]}", flush=True)


if __name__ == "__main__":
    main()
