"""The catalog itself: a narrow set of questions and answers over the tables."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from sqlalchemy import and_, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from integrations.catalog.engine import database_error, open_engine, writing
from integrations.catalog.models import Base, Bundle, Image, ImageName, Run, RunImageRow
from integrations.catalog.records import BundleRecord, BundleState, ImageState, RunImage, RunRecord, RunState, now
from integrations.urls import masked_url
from saa_core.errors import BundleError, StoreError
from saa_core.prompts import PromptBundle

_Row = dict[str, Any]
_Model = TypeVar("_Model", Run, Bundle)
_SHOWN = 5


class Catalog:
    """Images, runs and bundles of a workspace. Threads and processes may share one catalog.

    Args:
        url: SQLAlchemy URL, ``sqlite:///path`` or ``postgresql://...``. Missing tables are made, old ones migrated.

    Raises:
        StoreError: It cannot be opened; later, from any method: the database failed.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine = open_engine(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    # ------------------------------------------------------------------------------------------------------------ runs

    def begin_run(self, record: RunRecord) -> RunRecord:
        """Note a run. One that is known stays as it is, done or not.

        Returns:
            What the catalog holds.

        Raises:
            StoreError: The run's bundle is not in the catalog.
        """
        row = {**asdict(record), "bundle_id": record.bundle, "models": dict(record.models)}
        del row["bundle"]
        with self._writing() as session:
            if session.get(Run, record.id) is None and session.get(Bundle, record.bundle) is None:
                raise StoreError(record.bundle, "not in the catalog; add the bundle before its run")
            _insert(session, Run, [row])
            return _run_record(session.get_one(Run, record.id))

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
            _fill(session, Image, sorted(_image_rows(rows), key=lambda row: cast(str, row["key"])))
            _replace(session, ImageName, _name_rows(run.product, rows))
            _replace(session, RunImageRow, [_run_image_row(run_id, image) for image in rows])

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
            return _run_record(run)

    def run(self, id_or_prefix: str) -> RunRecord:
        """A run by its id or the beginning of it.

        Raises:
            StoreError: No run's id begins like this, or several do.
        """
        with self._reading() as session:
            return _run_record(_by_prefix(session, Run, id_or_prefix, "run", StoreError))

    def find_run(self, run_id: str) -> RunRecord | None:
        """A run by its whole id; None if it is not known."""
        with self._reading() as session:
            run = session.get(Run, run_id)
            return _run_record(run) if run else None

    def latest_run(self, product: str | None = None) -> RunRecord | None:
        """The run that was begun or finished last."""
        latest = select(Run).order_by(func.coalesce(Run.finished, Run.created).desc(), Run.id).limit(1)
        with self._reading() as session:
            run = session.scalar(latest if product is None else latest.where(Run.product == product))
            return _run_record(run) if run else None

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

    # --------------------------------------------------------------------------------------------------------- bundles

    def add_bundle(self, bundle: PromptBundle, state: BundleState = "proposed") -> BundleRecord:
        """Note a bundle. One that is known keeps its state.

        Returns:
            What the catalog holds.

        Raises:
            BundleError: It would be a second champion of its product.
        """
        row = {
            "id": bundle.id,
            "product": bundle.product,
            "parent": bundle.parent,
            "state": state,
            "created": now(),
            "content": bundle.model_dump(mode="json"),
        }
        with self._writing() as session:
            try:
                _insert(session, Bundle, [row])
            except IntegrityError:
                raise BundleError(bundle.id, f"{bundle.product!r} has a champion already") from None
            return _bundle_record(session.get_one(Bundle, bundle.id))

    def bundle(self, id_or_prefix: str) -> PromptBundle:
        """A bundle by its id or the beginning of it.

        Raises:
            BundleError: No bundle's id begins like this, or several do.
        """
        with self._reading() as session:
            return _bundle_record(_by_prefix(session, Bundle, id_or_prefix, "bundle", BundleError)).bundle

    def bundles(self, product: str | None = None) -> tuple[BundleRecord, ...]:
        """All bundles, of one product or of all, oldest first."""
        query = select(Bundle).order_by(Bundle.created, Bundle.id)
        with self._reading() as session:
            found = session.scalars(query if product is None else query.where(Bundle.product == product))
            return tuple(_bundle_record(bundle) for bundle in found)

    def champion(self, product: str) -> PromptBundle | None:
        """The bundle that decides for a product; None before the first promotion."""
        query = select(Bundle).where(Bundle.product == product, Bundle.state == "champion")
        with self._reading() as session:
            bundle = session.scalar(query)
            return _bundle_record(bundle).bundle if bundle else None

    # ---------------------------------------------------------------------------------------------------- transactions

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        with self._errors(), Session(self._engine) as session:
            yield session

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with self._errors(), Session(writing(self._engine)) as session, session.begin():
            yield session

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise database_error(self._url, error) from error

    def __repr__(self) -> str:
        return f"Catalog({masked_url(self._url)!r})"


# -------------------------------------------------------------------------------------------------------------- writing


def _on_conflict(session: Session, model: type[Base]) -> Any:
    """An INSERT that knows ON CONFLICT, which both databases write alike."""
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    return insert(model)


def _insert(session: Session, model: type[Base], rows: list[_Row]) -> None:
    """Add rows; one whose primary key is there stays as it is."""
    keys = [column.name for column in model.__table__.primary_key]
    session.execute(_on_conflict(session, model).on_conflict_do_nothing(index_elements=keys), rows)


def _replace(session: Session, model: type[Base], rows: list[_Row]) -> None:
    """Add rows or replace those with the same primary key."""
    insert = _on_conflict(session, model)
    _update(session, model, insert, {name: insert.excluded[name] for name in _plain_columns(model)}, rows)


def _fill(session: Session, model: type[Base], rows: list[_Row]) -> None:
    """Add rows or put what they know into those with the same primary key; NULL takes nothing away."""
    insert, columns = _on_conflict(session, model), model.__table__.c
    known = {name: func.coalesce(insert.excluded[name], columns[name]) for name in _plain_columns(model)}
    _update(session, model, insert, known, rows)


def _update(session: Session, model: type[Base], insert: Any, changes: Mapping[str, object], rows: list[_Row]) -> None:
    if rows:
        keys = [column.name for column in model.__table__.primary_key]
        session.execute(insert.on_conflict_do_update(index_elements=keys, set_=changes), rows)


def _plain_columns(model: type[Base]) -> list[str]:
    return [column.name for column in model.__table__.columns if not column.primary_key]


# ---------------------------------------------------------------------------------------------------- records <-> rows


def _image_rows(images: list[RunImage]) -> list[_Row]:
    return [
        {"key": image.key, "height": image.height, "width": image.width, "bytes": image.bytes}
        for image in images
        if image.key
    ]


def _name_rows(product: str, images: list[RunImage]) -> list[_Row]:
    return [
        {"product": product, "name": name, "image_key": image.key, "lot": image.lot, "uri": image.uri}
        for image in images
        for name in image.names
        if image.key
    ]


def _run_image_row(run_id: str, image: RunImage) -> _Row:
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


def _run_record(run: Run) -> RunRecord:
    return RunRecord(
        id=run.id,
        product=run.product,
        bundle=run.bundle_id,
        profile=run.profile,
        models=run.models,
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


def _bundle_record(row: Bundle) -> BundleRecord:
    bundle = PromptBundle.from_content(row.content, row.id)
    if bundle.id != row.id:
        raise BundleError(
            row.id, f"its stored content has another id, {bundle.id}: damaged, or made by another version"
        )
    return BundleRecord(bundle, cast(BundleState, row.state), row.created)


def _by_prefix(
    session: Session, model: type[_Model], prefix: str, kind: str, error: type[StoreError] | type[BundleError]
) -> _Model:
    exact = session.get(model, prefix)
    if exact is not None:
        return exact
    found = session.scalars(select(model).where(model.id.startswith(prefix, autoescape=True)).limit(_SHOWN)).all()
    if len(found) == 1:
        return found[0]
    if found:
        raise error(prefix, f"several {kind}s begin like this: {', '.join(sorted(each.id for each in found))}")
    near = difflib.get_close_matches(prefix, session.scalars(select(model.id)), n=1, cutoff=0.0)
    raise error(prefix, f"no such {kind}" + (f", did you mean {near[0]}?" if near else "; there is none yet"))
