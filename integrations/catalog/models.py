"""Tables of the catalog. A change here needs a migration in `migrations/versions`; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Double, ForeignKey, Index, MetaData, String, TypeDecorator, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = "0004"
"""The newest migration. A catalog that carries this stamp is opened without loading Alembic."""

KEY = String(64)


class Utc(TypeDecorator[datetime]):
    """A moment in UTC; SQLite keeps no time zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database."""
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """All tables. Constraints have names, so that a later migration can drop them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: Utc, float: Double(), dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012


class Image(Base):
    """An image by content."""

    __tablename__ = "images"

    key: Mapped[str] = mapped_column(KEY, primary_key=True)
    height: Mapped[int | None]
    width: Mapped[int | None]
    bytes: Mapped[int | None]


class ImageName(Base):
    """A name under which a product's image was seen. What a name meant before stays known."""

    __tablename__ = "image_names"

    product: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    image_key: Mapped[str] = mapped_column(KEY, ForeignKey("images.key"), primary_key=True, index=True)
    lot: Mapped[str | None]
    uri: Mapped[str]


class Bundle(Base):
    """A prompt bundle; its content never changes, its state does."""

    __tablename__ = "bundles"
    __table_args__ = (
        Index(
            "ix_bundles_champion",
            "product",
            unique=True,
            sqlite_where=text("state = 'champion'"),
            postgresql_where=text("state = 'champion'"),
        ),
    )

    id: Mapped[str] = mapped_column(KEY, primary_key=True)
    product: Mapped[str] = mapped_column(index=True)
    parent: Mapped[str | None] = mapped_column(KEY)
    state: Mapped[str]
    created: Mapped[datetime]
    content: Mapped[dict[str, Any]]


class Run(Base):
    """One run; columns as in `RunRecord`."""

    __tablename__ = "runs"

    id: Mapped[str] = mapped_column(KEY, primary_key=True)
    product: Mapped[str] = mapped_column(index=True)
    bundle_id: Mapped[str] = mapped_column(KEY, ForeignKey("bundles.id"))
    profile: Mapped[str]
    models: Mapped[dict[str, Any]]
    setup: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    code: Mapped[str]
    source: Mapped[str]
    state: Mapped[str]
    created: Mapped[datetime]
    finished: Mapped[datetime | None]
    labelled: Mapped[int]
    reused: Mapped[int]
    quarantined: Mapped[int]
    regions: Mapped[int]
    model_calls: Mapped[int]
    seconds: Mapped[float]


class RunImageRow(Base):
    """One image of one run; columns as in `RunImage`, its places are in `image_names`."""

    __tablename__ = "run_images"

    run_id: Mapped[str] = mapped_column(KEY, ForeignKey("runs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    image_key: Mapped[str | None] = mapped_column(KEY, ForeignKey("images.key"), index=True)
    names: Mapped[list[Any]]
    state: Mapped[str]
    reason: Mapped[str]
    score: Mapped[float | None]
    regions: Mapped[int]


class Target(Base):
    """Where the images of a product go on a server: the one that was used last."""

    __tablename__ = "targets"

    product: Mapped[str] = mapped_column(primary_key=True)
    service: Mapped[str] = mapped_column(primary_key=True)
    server: Mapped[str] = mapped_column(primary_key=True)
    target: Mapped[str]


class PredictionRow(Base):
    """What an expert is shown of an image, or spared; columns as in `PredictionRecord`."""

    __tablename__ = "predictions"

    target: Mapped[str] = mapped_column(primary_key=True)
    image_key: Mapped[str] = mapped_column(KEY, ForeignKey("images.key"), primary_key=True, index=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    run: Mapped[str] = mapped_column(KEY)
    bundle: Mapped[str] = mapped_column(KEY)
    task: Mapped[int]
    aided: Mapped[bool]
    priority: Mapped[float]
    regions: Mapped[list[Any]]
    pushed: Mapped[datetime]


class ReviewRow(Base):
    """One version of one annotation; columns as in `Review`. Triggers refuse to change or delete a row."""

    __tablename__ = "reviews"

    source: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    updated: Mapped[datetime] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(primary_key=True)
    product: Mapped[str] = mapped_column(index=True)
    image_key: Mapped[str] = mapped_column(KEY, ForeignKey("images.key"), index=True)
    annotator: Mapped[str]
    verdict: Mapped[str | None]
    words: Mapped[str]
    lead_seconds: Mapped[float | None]
    run: Mapped[str | None] = mapped_column(KEY)
    bundle: Mapped[str | None] = mapped_column(KEY)
    aided: Mapped[bool]
    regions: Mapped[list[Any]]


class Cursor(Base):
    """How far something was read."""

    __tablename__ = "cursors"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class PromotionRow(Base):
    """One change of a product's champion; columns as in `PromotionRecord`. Triggers refuse to change or delete it."""

    __tablename__ = "promotions"

    number: Mapped[int] = mapped_column(primary_key=True)
    product: Mapped[str] = mapped_column(index=True)
    bundle: Mapped[str] = mapped_column(KEY, ForeignKey("bundles.id"))
    previous: Mapped[str | None] = mapped_column(KEY, ForeignKey("bundles.id"))
    kind: Mapped[str]
    reason: Mapped[str]
    who: Mapped[str]
    at: Mapped[datetime]


class RefinementRow(Base):
    """Where a proposed bundle comes from; columns as in `RefinementRecord`. Triggers refuse to change or delete it."""

    __tablename__ = "refinements"

    bundle: Mapped[str] = mapped_column(KEY, ForeignKey("bundles.id"), primary_key=True)
    evidence: Mapped[str] = mapped_column(KEY, primary_key=True)
    product: Mapped[str] = mapped_column(index=True)
    champion: Mapped[str] = mapped_column(KEY)
    outcome: Mapped[str]
    seed: Mapped[int]
    content: Mapped[dict[str, Any]]
    created: Mapped[datetime]


class HoldoutRow(Base):
    """Whether a lot of a product is locked away from every search. Triggers refuse to change or delete it."""

    __tablename__ = "holdout"

    product: Mapped[str] = mapped_column(primary_key=True)
    lot: Mapped[str] = mapped_column(primary_key=True)
    held: Mapped[bool]
    since: Mapped[datetime]


class LookRow(Base):
    """One look at the held-out images; columns as in `LookRecord`. Triggers refuse to change or delete it."""

    __tablename__ = "looks"

    number: Mapped[int] = mapped_column(primary_key=True)
    product: Mapped[str] = mapped_column(index=True)
    evidence: Mapped[str] = mapped_column(KEY)
    champion: Mapped[str] = mapped_column(KEY)
    bundle: Mapped[str] = mapped_column(KEY)
    gain: Mapped[float | None]
    at: Mapped[datetime]
