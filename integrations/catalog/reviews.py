"""What was sent out for review and what came back."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any, cast

from sqlalchemy import func, select

from integrations.catalog.models import Cursor, Image, ImageName, PredictionRow, ReviewRow, Target
from integrations.catalog.records import PredictionRecord, Pushed, ReviewKey
from integrations.catalog.tables import Row, Tables, insert, of_images, replace
from saa_core.masks import Rle, from_coco, to_coco
from saa_core.reviews import PredictedRegion, RegionReview, Review, ReviewedRegion, ReviewState, Verdict

_log = logging.getLogger(__name__)


class ReviewTables(Tables):
    """The part of a catalog that holds predictions, reviews and how far they were read."""

    def sizes(self, keys: Collection[str]) -> dict[str, tuple[int, int]]:
        """(height, width) in pixels of those of the images that were decoded, by key."""
        query = select(Image.key, Image.height, Image.width)
        with self._reading() as session:
            found = of_images(session, query, Image.key, keys)
            return {key: (height, width) for key, height, width in found if height and width}

    def names(self, product: str, keys: Collection[str]) -> dict[str, str]:
        """The first name of each of a product's images, by key."""
        row = ImageName
        query = select(row.image_key, row.name).where(row.product == product)
        with self._reading() as session:
            found = sorted(of_images(session, query, row.image_key, keys), reverse=True)
        return dict(found)

    def target(self, product: str, service: str, server: str) -> str | None:
        """Where a product's images went on a server; None if none did."""
        with self._reading() as session:
            row = session.get(Target, (product, service, server))
            return row.target if row else None

    def remember_target(self, product: str, service: str, server: str, target: str) -> None:
        """Note where a product's images go on a server, in place of what was noted before."""
        row = {"product": product, "service": service, "server": server, "target": target}
        with self._writing() as session:
            replace(session, Target, [row])

    def record_predictions(self, records: Iterable[PredictionRecord]) -> None:
        """Note what was sent out, all or none; a record of the same target, image and version is replaced.

        Raises:
            StoreError: An image is not in the catalog.
        """
        rows = sorted(map(_prediction_row, records), key=lambda row: (row["target"], row["image_key"], row["version"]))
        with self._writing() as session:
            replace(session, PredictionRow, rows)

    def pushed(self, target: str) -> tuple[Pushed, ...]:
        """What was sent to a target, without the regions, oldest first."""
        row = PredictionRow
        query = select(row.image_key, row.version, row.task, row.aided).where(row.target == target)
        with self._reading() as session:
            return tuple(Pushed(*found) for found in session.execute(query.order_by(row.pushed)))

    def predictions(self, target: str, images: Collection[str] | None = None) -> tuple[PredictionRecord, ...]:
        """What was sent to a target, of some images or of all, oldest first."""
        query = select(PredictionRow).where(PredictionRow.target == target)
        with self._reading() as session:
            rows = of_images(session, query, PredictionRow.image_key, images)
            found = [_prediction_record(row) for (row,) in rows]
        return tuple(sorted(found, key=lambda each: (each.pushed, each.image, each.version)))

    def sent(self, product: str) -> dict[str, bool]:
        """The images of a product that were sent out for review, by key, and whether their regions are shown."""
        row = PredictionRow
        of_product = select(Target.target).where(Target.product == product)
        query = select(row.image_key, row.aided).where(row.target.in_(of_product)).order_by(row.pushed)
        with self._reading() as session:
            return {found.image_key: found.aided for found in session.execute(query)}

    def add_reviews(self, reviews: Iterable[Review], *, cursor: tuple[str, str] | None = None) -> int:
        """Add reviews and move a cursor: both or neither. Nothing that is there is ever changed.

        Args:
            reviews: One of the same source, id, time and state as one that is there is that one, and is left.
            cursor: (name, new value) of how far the source was read.

        Returns:
            How many were new.

        Raises:
            StoreError: An image is not in the catalog.
        """
        rows = sorted(map(_review_row, reviews), key=lambda row: (row["source"], row["id"], row["updated"]))
        with self._writing() as session:
            new = insert(session, ReviewRow, rows)
            if cursor is not None:
                replace(session, Cursor, [{"name": cursor[0], "value": cursor[1]}])
        if new:
            _log.info("reviews stored", extra={"product": rows[0]["product"], "count": new})
        return new

    def review_keys(self, source: str, images: Collection[str] | None = None) -> tuple[ReviewKey, ...]:
        """Which versions of a source's reviews are known, of some images or of all, oldest first."""
        row = ReviewRow
        query = select(row.image_key, row.id, row.updated, row.state, row.annotator)
        with self._reading() as session:
            rows = of_images(session, query.where(row.source == source), row.image_key, images)
            found = [ReviewKey(*values) for values in rows]
        return tuple(sorted(found, key=lambda each: (each.updated, each.id, each.state)))

    def reviews(self, product: str, images: Collection[str] | None = None) -> tuple[Review, ...]:
        """Reviews of a product, of some images or of all, every version of each, oldest first."""
        query = select(ReviewRow).where(ReviewRow.product == product)
        with self._reading() as session:
            found = [_review(row) for (row,) in of_images(session, query, ReviewRow.image_key, images)]
        return tuple(sorted(found, key=lambda each: (each.updated, each.source, each.id, each.state)))

    def count_reviews(self, product: str) -> int:
        """How many reviews of a product there are, every version of each."""
        query = select(func.count()).select_from(ReviewRow).where(ReviewRow.product == product)
        with self._reading() as session:
            return session.scalar(query) or 0

    def reviewed(self, product: str) -> tuple[str, ...]:
        """Keys of a product's images that have a review of any kind, sorted."""
        query = select(ReviewRow.image_key).where(ReviewRow.product == product).distinct()
        with self._reading() as session:
            return tuple(sorted(session.scalars(query)))

    def annotators(self, product: str, images: Collection[str]) -> dict[str, set[str]]:
        """Who reviewed each of some images; those that nobody did are left out."""
        row = ReviewRow
        query = select(row.image_key, row.annotator).where(row.product == product).distinct()
        found: dict[str, set[str]] = defaultdict(set)
        with self._reading() as session:
            for image, annotator in of_images(session, query, row.image_key, images):
                found[image].add(annotator)
        return dict(found)

    def cursor(self, name: str) -> str | None:
        """How far something was read; None if it never was."""
        with self._reading() as session:
            row = session.get(Cursor, name)
            return row.value if row else None


# ---------------------------------------------------------------------------------------------------- records <-> rows


def _prediction_row(record: PredictionRecord) -> Row:
    return {
        "target": record.target,
        "image_key": record.image,
        "version": record.version,
        "run": record.run,
        "bundle": record.bundle,
        "task": record.task,
        "aided": record.aided,
        "priority": record.priority,
        "regions": [_predicted_json(region) for region in record.regions],
        "pushed": record.pushed,
    }


def _prediction_record(row: PredictionRow) -> PredictionRecord:
    return PredictionRecord(
        target=row.target,
        image=row.image_key,
        run=row.run,
        bundle=row.bundle,
        version=row.version,
        task=row.task,
        aided=row.aided,
        priority=row.priority,
        regions=tuple(_predicted(region) for region in row.regions),
        pushed=row.pushed,
    )


def _review_row(review: Review) -> Row:
    return {
        "source": review.source,
        "id": review.id,
        "updated": review.updated,
        "state": review.state,
        "product": review.product,
        "image_key": review.image,
        "annotator": review.annotator,
        "verdict": review.verdict,
        "words": review.words,
        "lead_seconds": review.lead_seconds,
        "run": review.run,
        "bundle": review.bundle,
        "aided": review.aided,
        "regions": [_region_json(region) for region in review.regions],
    }


def _review(row: ReviewRow) -> Review:
    return Review(
        product=row.product,
        image=row.image_key,
        source=row.source,
        id=row.id,
        state=cast(ReviewState, row.state),
        annotator=row.annotator,
        updated=row.updated,
        verdict=cast("Verdict | None", row.verdict),
        words=row.words,
        lead_seconds=row.lead_seconds,
        run=row.run,
        bundle=row.bundle,
        aided=row.aided,
        regions=tuple(_region(region) for region in row.regions),
    )


# --------------------------------------------------------------------------------------------------- regions <-> JSON


def _predicted_json(region: PredictedRegion) -> Row:
    return {
        "id": region.id,
        "label": region.label,
        "phrase": region.phrase,
        "score": region.score,
        "segmentation": to_coco(region.mask),
    }


def _predicted(content: Row) -> PredictedRegion:
    mask = from_coco(content["segmentation"])
    return PredictedRegion(content["id"], content["label"], content["phrase"], content["score"], mask)


def _region_json(region: RegionReview) -> Row:
    predicted, reviewed = region.predicted, region.reviewed
    shown = predicted.mask if predicted else None
    return {
        "outcome": region.outcome,
        "iou": region.iou,
        "predicted": _predicted_json(predicted) if predicted else None,
        "reviewed": _reviewed_json(reviewed, shown) if reviewed else None,
    }


def _region(content: Row) -> RegionReview:
    predicted = _predicted(content["predicted"]) if content["predicted"] else None
    shown = predicted.mask if predicted else None
    reviewed = _reviewed(content["reviewed"], shown) if content["reviewed"] else None
    return RegionReview(content["outcome"], predicted, reviewed, content["iou"])


def _reviewed_json(region: ReviewedRegion, shown: Rle | None) -> Row:
    """Without its mask where that is the one that was shown, as most are."""
    mask = None if region.mask == shown else to_coco(region.mask)
    return {"id": region.id, "label": region.label, "words": region.words, "segmentation": mask}


def _reviewed(content: Row, shown: Rle | None) -> ReviewedRegion:
    segmentation: dict[str, Any] | None = content["segmentation"]
    mask = from_coco(segmentation) if segmentation is not None else cast(Rle, shown)
    return ReviewedRegion(content["id"], content["label"], mask, content["words"])
