"""What was exported, read by FiftyOne's own importers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml

from integrations.splits import Split
from tests.fiftyone_server import Database
from tests.labelled_set import SIZE, LabelledSet, block, drawn

RING = block(2, 2, 6, 7) & ~block(4, 4, 2, 3)
PARTS = block(0, 0, 1, 1) | block(9, 10)
SPOT, SCRATCH = "bright spot", "dark scratch"  # words of the bundle, whose regions keep their names


@pytest.fixture
def exported(labelled_set: LabelledSet) -> LabelledSet:
    a, b, c = labelled_set.add_many(3)
    labelled_set.label({"000.png": [(SPOT, RING), (SCRATCH, PARTS)], "001.png": [(SCRATCH, block(3, 3))]})
    labelled_set.review(drawn(a, (SPOT, RING), (SCRATCH, PARTS)), drawn(b, (SCRATCH, block(3, 3))), drawn(c))
    return labelled_set


def whole(detection: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """FiftyOne keeps masks cropped to their boxes."""
    mask = np.zeros(SIZE, np.bool_)
    x, y = (round(side * size) for side, size in zip(detection.bounding_box[:2], SIZE[::-1], strict=True))
    rows, columns = detection.mask.shape
    mask[y : y + rows, x : x + columns] = detection.mask
    return mask


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools, of its own arrays
@pytest.mark.parametrize("what", ["reviews", "predictions"])
def test_coco(exported: LabelledSet, fiftyone_database: Database, what: str) -> None:
    fo = fiftyone_database.fiftyone
    exported.export("coco", split=Split(100, 0, 0), what=what)
    out = exported.folder / "out"
    dataset = fo.Dataset.from_dir(
        dataset_type=fo.types.COCODetectionDataset,
        data_path=str(out / "images/train"),
        labels_path=str(out / "annotations/instances_train.json"),
        label_types="segmentations",
        include_id=False,
    )
    found = {
        sample.filename: [(each.label, whole(each), each.confidence) for each in detections(sample)]
        for sample in dataset
    }
    assert {name: [label for label, _, _ in each] for name, each in found.items()} == {
        "000.png": [SPOT, SCRATCH], "001.png": [SCRATCH], "002.png": [],
    }  # fmt: skip
    for (_, mask, _), expected in zip(found["000.png"], [RING, PARTS], strict=True):
        np.testing.assert_array_equal(mask, expected)
    assert {score for each in found.values() for _, _, score in each} == {0.5 if what == "predictions" else None}


def detections(sample: Any) -> list[Any]:
    return list(sample.ground_truth.detections) if sample.ground_truth else []


def test_yolo(exported: LabelledSet, fiftyone_database: Database) -> None:
    fo = fiftyone_database.fiftyone
    exported.export("yolo", split=Split(100, 0, 0))
    out = exported.folder / "out"
    dataset = fo.Dataset.from_dir(
        dataset_type=fo.types.YOLOv5Dataset,
        yaml_path=str(out / "data.yaml"),
        split="train",
        label_type="polylines",
        include_all_data=True,
    )
    names = yaml.safe_load((out / "data.yaml").read_text())["names"]
    found = {sample.filename: sample.ground_truth.polylines if sample.ground_truth else [] for sample in dataset}
    assert {name: sorted(each.label for each in lines) for name, lines in found.items()} == {
        "000.png": [SPOT, SCRATCH, SCRATCH], "001.png": [SCRATCH], "002.png": [],
    }  # fmt: skip
    assert names == {0: SPOT, 1: SCRATCH}
    (line,) = found["001.png"]
    x0, y0, width, height = line.to_detection(frame_size=SIZE[::-1]).bounding_box
    box = np.array([x0 * 16, y0 * 12, width * 16, height * 12])
    np.testing.assert_allclose(box, [3, 3, 4, 3], atol=0.05)


def test_mvtec(exported: LabelledSet, fiftyone_database: Database) -> None:
    """As the folders of an image classification, which is what FiftyOne knows of this layout."""
    fo = fiftyone_database.fiftyone
    exported.export("mvtec", split=Split(0, 0, 100))
    dataset = fo.Dataset.from_dir(
        dataset_type=fo.types.ImageClassificationDirectoryTree, dataset_dir=str(exported.folder / "out/test")
    )
    assert dataset.count_values("ground_truth.label") == {"combined": 1, SCRATCH: 1, "good": 1}


def test_masks(exported: LabelledSet, fiftyone_database: Database) -> None:
    fo = fiftyone_database.fiftyone
    exported.export("masks", split=Split(100, 0, 0))
    out = exported.folder / "out"
    dataset = fo.Dataset.from_dir(
        dataset_type=fo.types.ImageSegmentationDirectory,
        data_path=str(out / "images/train"),
        labels_path=str(out / "masks/train"),
    )
    masks = {sample.filename: sample.ground_truth.get_mask() > 0 for sample in dataset}
    np.testing.assert_array_equal(masks["000.png"], RING | PARTS)
    assert not masks["002.png"].any()
