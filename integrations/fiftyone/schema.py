"""One data set per product: its fields, all declared before anything is written.

Two processes that declare fields at once can leave a data set that no one can read; fields that are there are safe.
So a data set is declared whole when it is made, a bundle's fields when the bundle first comes, under the writer's lock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saa_core.errors import ServiceError

OURS = "saa"
"""Key of a data set's `info` that says that we made it, and which bundles it holds."""

_ADVICE = "name one of the two otherwise, or set SAA_FIFTYONE_DATABASE to a database of its own"

_REGION = {
    "phrase": "The words of the bundle that found it",
    "region": "Its id, the one that Label Studio knows too",
    "needs_review": "Whether the bundle's accept threshold is not reached",
}
_JUDGED = {
    "region": "Id of the predicted region that it was; empty if the expert added it",
    "outcome": "What the expert did: accepted, adjusted, relabelled or added",
    "words": "What it is, in the expert's words",
}


@dataclass(frozen=True, slots=True)
class BundleFields:
    """Names of the fields of one bundle under one set of models.

    Attributes:
        key: Beginning of the bundle's id, and of a hash of the models' ids.
    """

    key: str

    @property
    def predictions(self) -> str:
        """Detections: the regions, masks on disk, cropped to their boxes."""
        return f"predictions_{self.key}"

    @property
    def map(self) -> str:
        """Heatmap: the anomaly map, 8-bit, 255 is 1.0."""
        return f"map_{self.key}"

    @property
    def score(self) -> str:
        """Float: image score in [0, 1]."""
        return f"score_{self.key}"

    @property
    def pixel_f1(self) -> str:
        """Float: F1 of the pixels against the expert's masks, in [0, 1]."""
        return f"pixel_f1_{self.key}"

    @property
    def evaluation(self) -> str:
        """Key of FiftyOne's evaluation of the regions."""
        return f"regions_{self.key}"


def bundle_fields(bundle: str, models: Mapping[str, str]) -> BundleFields:
    """The fields of a bundle, by its id and the ids of the models."""
    digest = hashlib.sha256(json.dumps(dict(models), sort_keys=True).encode()).hexdigest()
    return BundleFields(f"{bundle[:8]}_{digest[:4]}")


def find_dataset(fiftyone: Any, product: str) -> Any | None:
    """A product's data set; None if there is none, or one that is empty because its making was cut off.

    Raises:
        ServiceError: There is one of this name that we did not make.
    """
    if not fiftyone.dataset_exists(product):
        return None
    dataset = fiftyone.load_dataset(product)
    if OURS in dataset.info:
        return dataset
    if dataset.info or len(dataset):
        raise ServiceError(product, f"FiftyOne has a data set of this name that saa did not make; {_ADVICE}")
    return None


def make_dataset(fiftyone: Any, product: str) -> Any:
    """A product's data set with all fields that do not belong to a bundle, made now if need be.

    Raises:
        ServiceError: FiftyOne does not take this name, or as `find_dataset`.
    """
    dataset = find_dataset(fiftyone, product)
    if dataset is None:
        dataset = _new_dataset(fiftyone, product)
        dataset.info = {OURS: {"bundles": []}}
        dataset.save()
    _declare(fiftyone, dataset, _fields(fiftyone))
    _declare_regions(fiftyone, dataset, "expert", _JUDGED)
    for name, text in (("review", "Which version of which review"), ("written", "What the regions were when written")):
        _declare(fiftyone, dataset, {f"expert.{name}": (fiftyone.StringField, {}, text)})
    if "key" not in dataset.get_index_information():
        dataset.create_index("key", unique=True)
    return dataset


def _new_dataset(fiftyone: Any, product: str) -> Any:
    if fiftyone.dataset_exists(product):
        return fiftyone.load_dataset(product)
    try:
        return fiftyone.Dataset(product, persistent=True)
    except ValueError as error:  # of letters and digits too little is left, or the same as of another name
        raise ServiceError(product, f"FiftyOne does not take this name: {error}; {_ADVICE}") from error


def notes_of(dataset: Any) -> dict[str, Any]:
    """What we keep beside a data set, as plain values: `bundles`, the newest last, and what was computed of what."""
    notes: dict[str, Any] = json.loads(json.dumps(dataset.info[OURS]))
    return notes


def keep_notes(dataset: Any, notes: Mapping[str, Any]) -> None:
    """Put them in place of those that are kept. Whole: changes inside a data set's `info` are not followed."""
    if notes != notes_of(dataset):
        dataset.info = {**dataset.info, OURS: dict(notes)}
        dataset.save()


def declare_bundle(fiftyone: Any, dataset: Any, fields: BundleFields, title: str) -> None:
    """The fields of a bundle, if they are not there; those of others stay."""
    text = f"{title}:"
    _declare(
        fiftyone,
        dataset,
        {
            fields.predictions: _document(fiftyone, fiftyone.Detections, f"{text} regions"),
            fields.map: _document(fiftyone, fiftyone.Heatmap, f"{text} anomaly map"),
            fields.score: (fiftyone.FloatField, {}, f"{text} image score in [0, 1]"),
            fields.pixel_f1: (fiftyone.FloatField, {}, f"{text} F1 of the pixels against the expert's masks"),
            f"{fields.predictions}.run": (fiftyone.StringField, {}, "Id of the run"),
        },
    )
    _declare_regions(fiftyone, dataset, fields.predictions, _REGION)
    inside = f"{fields.predictions}.detections"
    numbers = {"saliency": "Saliency of the region", "rank": "0 is the best of its image"}
    _declare(fiftyone, dataset, {f"{inside}.{name}": (fiftyone.FloatField, {}, t) for name, t in numbers.items()})
    _declare(
        fiftyone, dataset, {f"{inside}.phrase_scores": (fiftyone.DictField, {}, "Score of each phrase, in [0, 1]")}
    )


def _fields(fiftyone: Any) -> dict[str, tuple[Any, dict[str, Any], str]]:
    """By name: type, what belongs to the type, description."""
    text, number = fiftyone.StringField, fiftyone.FloatField
    return {
        "key": (text, {}, "SHA-256 of the file's bytes"),
        "name": (text, {}, "What the user calls the image"),
        "names": (fiftyone.ListField, {"subfield": text}, "All its names"),
        "lot": (text, {}, "Production lot"),
        "review_state": (text, {}, "new, waiting (in Label Studio), reviewed, unsure, skipped or contradictory"),
        "read_tags": (fiftyone.ListField, {"subfield": text}, "Tags of ours that were pulled"),
        "blind": (fiftyone.BooleanField, {}, "Whether experts got it without masks, on purpose"),
        "review_priority": (number, {}, "How much a review would tell, in [0, 1]"),
        "verdict": _document(fiftyone, fiftyone.Classification, "The newest review's word on the image"),
        "expert": _document(fiftyone, fiftyone.Detections, "Regions of the newest review"),
        "expert_change": (number, {}, "1 - IoU of the masks that were shown and the expert's, in [0, 1]"),
        "dispute": (text, {}, "On what annotators differ"),
        "bundle_change": (number, {}, "1 - IoU of the masks of the two newest bundles, in [0, 1]"),
        "features": (fiftyone.VectorField, {}, "Mean of the image's features"),
        "uniqueness": (number, {}, "How unlike all others the image is, in [0, 1]"),
        "near_duplicate": (text, {}, "Name of the image that it repeats"),
    }


def _document(fiftyone: Any, kind: Any, text: str) -> tuple[Any, dict[str, Any], str]:
    return fiftyone.EmbeddedDocumentField, {"embedded_doc_type": kind}, text


def _declare_regions(fiftyone: Any, dataset: Any, name: str, attributes: Mapping[str, str]) -> None:
    kinds = {"needs_review": fiftyone.BooleanField}
    _declare(
        fiftyone,
        dataset,
        {
            f"{name}.detections.{attribute}": (kinds.get(attribute, fiftyone.StringField), {}, text)
            for attribute, text in attributes.items()
        },
    )


def _declare(fiftyone: Any, dataset: Any, fields: Mapping[str, tuple[Any, dict[str, Any], str]]) -> None:
    known = dataset.get_field_schema(flat=True)
    for name, (kind, more, text) in fields.items():
        if name not in known:
            dataset.add_sample_field(name, kind, description=text, **more)
