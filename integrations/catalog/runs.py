"""Runs and what became of their images."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import asdict
from typing import cast

from sqlalchemy import and_, func, select, update

from integrations.catalog.models import Bundle, Image, ImageName, Run, RunImageRow
from integrations.catalog.records import ImageState, RunImage, RunRecord, RunState, now
from integrations.catalog.tables import Row, Tables, by_prefix, fill, insert, of_images, replace
from saa_core.errors import StoreError
from saa_core.types import ImageRef

_log = logging.getLogger(__name__)


class RunTables(Tables):
    """The part of a catalog that holds runs and images."""

    def begin_run(self, record: RunRecord) -> RunRecord:
        """Note a run. One that is known stays as it is, done or not.

        Returns:
            What the catalog holds.

        Raises:
            StoreError: The run's bundle is not in the catalog.
        """
        row = {**asdict(record), "bundle_id": record.bundle, "models": dict(record.models), "setup": dict(record.setup)}
        del row["bundle"]
        with self._writing() as session:
            if session.get(Run, record.id) is None and session.get(Bundle, record.bundle) is None:
                raise StoreError(record.bundle, "not in the catalog; add the bundle before its run")
            if insert(session, Run, [row]):
                _log.info("run begun", extra={"run": record.id, "product": record.product, "bundle": record.bundle})
            return run_record(session.get_one(Run, record.id))

    def record_images(self, run_id: str, images: Iterable[RunImage]) -> None:
        """Note what became of images, all of them or none; an image that is noted already is noted anew.

        Raises:
            StoreError: There is no such run.
        """
        rows = sorted(images, key=lambda image: image.name)
        with self._writing() as session:
            run = session.get(Run, run_id)
            if run is None:
                raise StoreError(run_id, "no such run")
            # Always in one order, so that two writers cannot wait for each other's rows.
            fill(session, Image, sorted(_image_rows(rows), key=lambda row: cast(str, row["key"])))
            # A run that was not told the lot does not take it away: images are held out by lot.
            fill(session, ImageName, _name_rows(run.product, rows))
            replace(session, RunImageRow, [_run_image_row(run_id, image) for image in rows])
            about = {"run": run_id, "product": run.product}
        for image in rows:
            _log.info("image %s", image.state, extra=about | {"image": image.key, "reason": image.reason or None})

    def finish_run(
        self,
        run_id: str,
        *,
        labelled: int,
        reused: int,
        quarantined: int,
        regions: int,
        model_calls: int,
        seconds: float,
    ) -> RunRecord:
        """Note that all files of a run are written, with its figures; again if it is done already.

        Raises:
            StoreError: There is no such run.
        """
        with self._writing() as session:
            run = session.get(Run, run_id)
            if run is None:
                raise StoreError(run_id, "no such run")
            run.state, run.finished = "done", now()
            run.labelled, run.reused, run.quarantined = labelled, reused, quarantined
            run.regions, run.model_calls, run.seconds = regions, model_calls, seconds
            session.flush()
            _log.info("run finished", extra={"run": run_id, "product": run.product, "seconds": seconds})
            return run_record(run)

    def use_again(self, run_id: str) -> None:
        """Note that a finished run was asked for again: it is the latest of its product now."""
        with self._writing() as session:
            session.execute(update(Run).where(Run.id == run_id, Run.state == "done").values(finished=now()))

    def run(self, id_or_prefix: str) -> RunRecord:
        """A run by its id or the beginning of it.

        Raises:
            StoreError: No run's id begins like this, or several do.
        """
        with self._reading() as session:
            return run_record(by_prefix(session, Run, id_or_prefix, "run", StoreError))

    def find_run(self, run_id: str) -> RunRecord | None:
        """A run by its whole id; None if it is not known."""
        with self._reading() as session:
            run = session.get(Run, run_id)
            return run_record(run) if run else None

    def latest_run(self, product: str | None = None, *, state: RunState | None = None) -> RunRecord | None:
        """The run that was begun or finished last, of one product and in one state, or of all and in any."""
        latest = select(Run).order_by(func.coalesce(Run.finished, Run.created).desc(), Run.id).limit(1)
        if product is not None:
            latest = latest.where(Run.product == product)
        if state is not None:
            latest = latest.where(Run.state == state)
        with self._reading() as session:
            run = session.scalar(latest)
            return run_record(run) if run else None

    def images_of(self, run_id: str) -> tuple[RunImage, ...]:
        """What became of each image of a run so far, sorted by name."""
        place = and_(
            ImageName.product == Run.product,
            ImageName.name == RunImageRow.name,
            ImageName.image_key == RunImageRow.image_key,
        )
        query = (
            select(RunImageRow, Image, ImageName)
            .join(Run, Run.id == RunImageRow.run_id)
            .outerjoin(Image, Image.key == RunImageRow.image_key)
            .outerjoin(ImageName, place)
            .where(RunImageRow.run_id == run_id)
        )
        with self._reading() as session:
            found = [_run_image(*row) for row in session.execute(query)]
        # Sorted here: databases disagree on the order of text.
        return tuple(sorted(found, key=lambda image: image.name))

    def runs_of(self, product: str, keys: Collection[str]) -> dict[str, tuple[str, ...]]:
        """The done runs of a product in which each image was usable, the newest first; images without are left out."""
        query = (
            select(RunImageRow.image_key, RunImageRow.run_id)
            .join(Run, Run.id == RunImageRow.run_id)
            .where(Run.product == product, Run.state == "done", RunImageRow.state != "quarantined")
            .order_by(Run.finished.desc(), Run.id)
        )
        found: dict[str, dict[str, None]] = defaultdict(dict)
        with self._reading() as session:
            # All runs of one image come from one statement, in its order.
            for key, run in of_images(session, query, RunImageRow.image_key, keys):
                found[key][run] = None
        return {key: tuple(runs) for key, runs in found.items()}

    def products(self) -> tuple[str, ...]:
        """Every product that has a done run, sorted."""
        with self._reading() as session:
            return tuple(sorted(session.scalars(select(Run.product).where(Run.state == "done").distinct())))

    def runs(self, product: str) -> tuple[RunRecord, ...]:
        """The done runs of a product, the one that was begun first in front."""
        query = select(Run).where(Run.product == product, Run.state == "done").order_by(Run.created, Run.id)
        with self._reading() as session:
            return tuple(map(run_record, session.scalars(query)))

    def keys_by_run(self, product: str) -> dict[str, tuple[str, ...]]:
        """The keys of the usable images of each done run of a product, sorted."""
        query = (
            select(RunImageRow.run_id, RunImageRow.image_key)
            .join(Run, Run.id == RunImageRow.run_id)
            .where(Run.product == product, Run.state == "done", RunImageRow.state != "quarantined")
        )
        found: dict[str, set[str]] = defaultdict(set)
        with self._reading() as session:
            for run, key in session.execute(query):
                found[run].update([key] if key else [])
        return {run: tuple(sorted(keys)) for run, keys in found.items()}

    def refs(self, product: str, keys: Collection[str]) -> dict[str, ImageRef]:
        """Where each of a product's images can be read, under all its names, with the lot that `lots` gives."""
        row = ImageName
        query = select(row.image_key, row.name, row.uri, row.lot).where(row.product == product)
        named: dict[str, list[tuple[str, str, str | None]]] = defaultdict(list)
        with self._reading() as session:
            for key, *name in of_images(session, query, row.image_key, keys):
                named[key].append(tuple(name))
        return {key: _ref(key, sorted(names, key=lambda name: name[0])) for key, names in named.items()}

    def lots(self, product: str, keys: Collection[str]) -> dict[str, str | None]:
        """The production lot of each of a product's images; of several names, the first that has one."""
        row = ImageName
        query = select(row.image_key, row.name, row.lot).where(row.product == product)
        with self._reading() as session:
            found = list(of_images(session, query, row.image_key, keys))
        found.sort(key=lambda each: (each.lot is None, each.name), reverse=True)
        return {key: lot for key, _, lot in found}


# ---------------------------------------------------------------------------------------------------- records <-> rows


def _image_rows(images: list[RunImage]) -> list[Row]:
    return [
        {"key": image.key, "height": image.height, "width": image.width, "bytes": image.bytes}
        for image in images
        if image.key
    ]


def _name_rows(product: str, images: list[RunImage]) -> list[Row]:
    return [
        {"product": product, "name": name, "image_key": image.key, "lot": image.lot, "uri": image.uri}
        for image in images
        for name in image.names
        if image.key
    ]


def _ref(key: str, named: list[tuple[str, str, str | None]]) -> ImageRef:
    """An image from its (name, uri, lot), sorted by name."""
    names, uris, lots = zip(*named, strict=True)
    return ImageRef(key, uris[0], names, next((lot for lot in lots if lot is not None), None))


def _run_image_row(run_id: str, image: RunImage) -> Row:
    return {
        "run_id": run_id,
        "name": image.name,
        "image_key": image.key,
        "names": list(image.names),
        "state": image.state,
        "reason": image.reason,
        "score": image.score,
        "regions": image.regions,
    }


def _run_image(row: RunImageRow, image: Image | None, place: ImageName | None) -> RunImage:
    return RunImage(
        name=row.name,
        state=cast(ImageState, row.state),
        key=row.image_key,
        names=tuple(row.names),
        uri=place.uri if place else "",
        lot=place.lot if place else None,
        height=image.height if image else None,
        width=image.width if image else None,
        bytes=image.bytes if image else None,
        reason=row.reason,
        score=row.score,
        regions=row.regions,
    )


def run_record(run: Run) -> RunRecord:
    """The record of a row."""
    return RunRecord(
        id=run.id,
        product=run.product,
        bundle=run.bundle_id,
        profile=run.profile,
        models=run.models,
        setup=run.setup,
        code=run.code,
        source=run.source,
        state=cast(RunState, run.state),
        created=run.created,
        finished=run.finished,
        labelled=run.labelled,
        reused=run.reused,
        quarantined=run.quarantined,
        regions=run.regions,
        model_calls=run.model_calls,
        seconds=run.seconds,
    )
