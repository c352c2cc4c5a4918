"""What all tables share: transactions, statements that both databases understand, finding a row by its id."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Select, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute, Session

from integrations.catalog.engine import database_error, open_engine, writing
from integrations.catalog.models import Base, Bundle, Run
from integrations.urls import masked_url
from saa_core.errors import BundleError, StoreError

Row = dict[str, Any]
Model = TypeVar("Model", Run, Bundle)
_SHOWN = 5
_PARAMETERS = 30_000
"""Images asked for in one statement; SQLite takes 32,766 parameters."""


class Tables:
    """An open catalog. Threads and processes may share one.

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
        return f"{type(self).__name__}({masked_url(self._url)!r})"


# ---------------------------------------------------------------------------------------------------------- statements


def on_conflict(session: Session, model: type[Base]) -> Any:
    """An INSERT that knows ON CONFLICT, which both databases write alike."""
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    return insert(model)


def insert(session: Session, model: type[Base], rows: list[Row]) -> int:
    """Add rows; one whose primary key is there stays as it is.

    Returns:
        How many were added.
    """
    if not rows:
        return 0
    keys = list(model.__table__.primary_key)
    names = [column.name for column in keys]
    added = on_conflict(session, model).on_conflict_do_nothing(index_elements=names).returning(keys[0])
    return len(session.scalars(added, rows).all())


def replace(session: Session, model: type[Base], rows: list[Row]) -> None:
    """Add rows or replace those with the same primary key."""
    insert = on_conflict(session, model)
    _update(session, model, insert, {name: insert.excluded[name] for name in _plain_columns(model)}, rows)


def fill(session: Session, model: type[Base], rows: list[Row]) -> None:
    """Add rows or put what they know into those with the same primary key; NULL takes nothing away."""
    insert, columns = on_conflict(session, model), model.__table__.c
    known = {name: func.coalesce(insert.excluded[name], columns[name]) for name in _plain_columns(model)}
    _update(session, model, insert, known, rows)


def _update(session: Session, model: type[Base], insert: Any, changes: Mapping[str, object], rows: list[Row]) -> None:
    if rows:
        keys = [column.name for column in model.__table__.primary_key]
        session.execute(insert.on_conflict_do_update(index_elements=keys, set_=changes), rows)


def _plain_columns(model: type[Base]) -> list[str]:
    return [column.name for column in model.__table__.columns if not column.primary_key]


def of_images(
    session: Session,
    query: Select[Any],
    column: InstrumentedAttribute[str] | InstrumentedAttribute[str | None],
    images: Collection[str] | None,
) -> Iterator[Any]:
    """Rows of a query, of some images or of all, in no order."""
    if images is None:
        yield from session.execute(query)
        return
    keys = list(images)
    for start in range(0, len(keys), _PARAMETERS):
        yield from session.execute(query.where(column.in_(keys[start : start + _PARAMETERS])))


def by_prefix(
    session: Session, model: type[Model], prefix: str, kind: str, error: type[StoreError] | type[BundleError]
) -> Model:
    """The row whose id begins like this, or an error that names what is near."""
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
