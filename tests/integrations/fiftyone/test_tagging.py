"""Tags that say what somebody thinks, in a real database."""

from __future__ import annotations

from typing import Any

import pytest

from integrations.fiftyone.schema import bundle_fields, declare_bundle, keep_notes, make_dataset
from integrations.fiftyone.tagging import accept, mark_good, newest_predictions
from saa_core.errors import ServiceError
from tests.fiftyone_server import Database

FIELDS = bundle_fields("b" * 64, {"generator": "lexical"})


@pytest.fixture
def dataset(fiftyone_database: Database) -> Any:
    """Three images with two regions each."""
    fiftyone = fiftyone_database.fiftyone
    dataset = make_dataset(fiftyone, "plate")
    declare_bundle(fiftyone, dataset, FIELDS, "bundle b")
    keep_notes(dataset, {"bundles": [{"key": FIELDS.key, "bundle": "b", "run": "r", "models": "lexical"}]})
    samples = [fiftyone.Sample(filepath=f"/{number}.png", key=str(number)) for number in range(3)]
    for sample in samples:
        regions = [fiftyone.Detection(label="scratch", bounding_box=[0, 0, 1, 1]) for _ in range(2)]
        sample[FIELDS.predictions] = fiftyone.Detections(detections=regions)
    dataset.add_samples(samples)
    return dataset


def tags(dataset: Any) -> list[tuple[list[str], list[list[str]]]]:
    """Of each image, its own tags and those of its regions."""
    return list(zip(*dataset.values(["tags", f"{FIELDS.predictions}.detections.tags"]), strict=True))


def test_only_what_is_meant_is_accepted(dataset: Any) -> None:
    regions = dataset.values(f"{FIELDS.predictions}.detections.id")
    assert accept(dataset, [regions[0][1], *regions[2]]) == 3
    expected = [([], [[], ["accepted"]]), ([], [[], []]), ([], [["accepted"], ["accepted"]])]
    assert tags(dataset) == expected
    assert accept(dataset, [regions[0][1]]) == 1
    assert tags(dataset) == expected


def test_what_contradicts_goes(dataset: Any) -> None:
    ids, regions = dataset.values(["id", f"{FIELDS.predictions}.detections.id"])
    dataset.select_labels(ids=regions[0]).tag_labels(["rejected", "mine"], FIELDS.predictions)
    assert mark_good(dataset, ids[:2]) == 2
    accept(dataset, regions[0][:1])
    assert tags(dataset)[:2] == [([], [["mine", "accepted"], ["rejected", "mine"]]), (["good"], [[], []])]
    mark_good(dataset, ids[:1])
    assert tags(dataset)[0] == (["good"], [["mine"], ["rejected", "mine"]])


def test_data_sets_without_regions_of_ours(fiftyone_database: Database) -> None:
    fiftyone = fiftyone_database.fiftyone
    with pytest.raises(ServiceError, match="other: saa did not make this data set"):
        newest_predictions(fiftyone.Dataset("other"))
    with pytest.raises(ServiceError, match="plate: holds no run; `saa push fiftyone --product plate` brings one"):
        newest_predictions(make_dataset(fiftyone, "plate"))
