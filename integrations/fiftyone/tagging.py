"""Saying in FiftyOne what one thinks, by tags of regions and images, and which of these tags a pull has read.

What was read is kept with each sample. So a tag that stays says nothing a second time, whatever is said elsewhere
later, and a tag that no pull could read is known as such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from integrations.fiftyone.bundles import bundles_in, judged_in, newest_in
from integrations.fiftyone.columns import database_errors, put_plain
from integrations.fiftyone.schema import OURS, BundleFields
from saa_core.errors import ServiceError

ACCEPTED, REJECTED, GOOD = "accepted", "rejected", "good"
"""Tags of regions, and of images."""

READ = "read_tags"
"""Field of the tags that a pull has read."""


@dataclass(frozen=True, slots=True)
class Tags:
    """Our tags on one image, each as ``tag region``, of the image itself as ``good``.

    Attributes:
        image: On the image itself.
        regions: On the regions of each bundle.
        read: Those that a pull has read.
    """

    image: frozenset[str]
    regions: Mapping[BundleFields, frozenset[str]]
    read: frozenset[str]

    def judging(self, fields: BundleFields) -> frozenset[str]:
        """What the image's tags say of it, when this bundle's regions are judged."""
        return self.image | self.regions[fields]

    def beside(self, fields: BundleFields) -> frozenset[str]:
        """The tags on regions of other bundles."""
        return frozenset[str]().union(*(tags for other, tags in self.regions.items() if other != fields))

    def once_read(self, fields: BundleFields) -> list[str]:
        """What `READ` is to hold once a pull has judged this bundle's regions."""
        return sorted(self.judging(fields) | (self.beside(fields) & self.read))


def tags_in(dataset: Any) -> dict[str, Tags]:
    """The tags on every image, by key.

    Raises:
        ServiceError: mongod does not answer.
    """
    bundles = bundles_in(dataset)
    paths = [f"{fields.predictions}.detections.{part}" for fields in bundles for part in ("region", "tags")]
    with database_errors():
        rows = zip(*dataset.values(["key", "tags", READ, *paths]), strict=True)
    return {
        key: Tags(
            frozenset({GOOD} & set(tags or ())),
            {fields: _words(*parts[2 * n : 2 * n + 2]) for n, fields in enumerate(bundles)},
            frozenset(read or ()),
        )
        for key, tags, read, *parts in rows
    }


def _words(regions: Sequence[str | None] | None, tags: Sequence[Sequence[str] | None] | None) -> frozenset[str]:
    pairs = zip(regions or (), tags or (), strict=True)
    return frozenset(f"{tag} {region}" for region, each in pairs for tag in {ACCEPTED, REJECTED} & set(each or ()))


def note_read(dataset: Any, read: Mapping[str, Sequence[str]]) -> None:
    """Note what a pull has read, by image key.

    Raises:
        ServiceError: mongod does not answer.
    """
    put_plain(dataset, READ, {key: list(tags) or None for key, tags in read.items()})


def unread(dataset: Any, fields: BundleFields) -> set[str]:
    """Keys of the images with tags on regions of this bundle that no pull has read.

    Raises:
        ServiceError: mongod does not answer.
    """
    return {key for key, tags in tags_in(dataset).items() if not tags.regions.get(fields, frozenset()) <= tags.read}


def newest_predictions(dataset: Any) -> str:
    """The field whose regions are judged: those of the bundle with the newest run.

    Raises:
        ServiceError: The data set is not ours, or holds no run.
    """
    if OURS not in dataset.info:
        raise ServiceError(dataset.name, "saa did not make this data set")
    newest = newest_in(dataset)
    if newest is None:
        raise ServiceError(dataset.name, f"holds no run; `saa push fiftyone --product {dataset.name}` brings one")
    return newest.predictions


def judged_regions(dataset: Any, samples: Sequence[str]) -> dict[str, str]:
    """The regions of some images that people judge: those of the newest bundle that shows an image.

    Args:
        dataset: A product's.
        samples: Ids of samples.

    Returns:
        By id of the label, its field.

    Raises:
        ServiceError: mongod does not answer, or as `newest_predictions`.
    """
    newest_predictions(dataset)
    judged = judged_in(dataset)
    view = dataset.select(list(samples))
    found: dict[str, str] = {}
    for fields in bundles_in(dataset):
        with database_errors():
            rows = zip(*view.values(["key", f"{fields.predictions}.detections.id"]), strict=True)
        here = [ids or () for key, ids in rows if key in judged and judged[key][0] == fields]
        found |= {label: fields.predictions for ids in here for label in ids}
    return found


def accept(dataset: Any, regions: Sequence[str]) -> int:
    """Tag regions as right, and take back what contradicts that: that they are wrong, that their images are good.

    Args:
        dataset: A product's.
        regions: Ids of labels of `judged_regions`.

    Returns:
        How many regions are meant.

    Raises:
        ServiceError: mongod does not answer, or as `newest_predictions`.
    """
    newest_predictions(dataset)
    names = _predictions(dataset)
    with database_errors():
        view = dataset.select_labels(ids=list(regions), fields=names)
        view.tag_labels(ACCEPTED, names)
        view.untag_labels(REJECTED, names)
        view.untag_samples(GOOD)
        meant = [view.values(f"{name}.detections.region", unwind=True) for name in names]
        _say_anew(dataset, view, {f"{ACCEPTED} {region}" for each in meant for region in each})
        return sum(int(view.count(f"{name}.detections")) for name in names)


def mark_good(dataset: Any, samples: Sequence[str]) -> int:
    """Tag images as free of defects, and take back what contradicts that: that regions of theirs are right.

    Args:
        dataset: A product's.
        samples: Ids of samples.

    Returns:
        How many images are meant.

    Raises:
        ServiceError: As `accept`.
    """
    newest_predictions(dataset)
    with database_errors():
        view = dataset.select(list(samples))
        view.untag_labels(ACCEPTED, _predictions(dataset))
        view.tag_samples(GOOD)
        _say_anew(dataset, view, {GOOD})
        return len(view)


def _say_anew(dataset: Any, view: Any, tags: set[str]) -> None:
    """Have a pull read these tags even if one did before: something else may have been said since."""
    keys, read = view.values(["key", READ])
    note_read(
        dataset, {key: [tag for tag in each or () if tag not in tags] for key, each in zip(keys, read, strict=True)}
    )


def _predictions(dataset: Any) -> list[str]:
    return [fields.predictions for fields in bundles_in(dataset)]
