from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from integrations.catalog import Catalog, RunImage, RunRecord
from integrations.catalog.engine import alembic_config, migrate, open_engine, writing
from integrations.catalog.models import SCHEMA, Base
from saa_core.prompts import PromptBundle


@pytest.fixture
def engine(catalog_url: str) -> Iterator[Engine]:
    opened = open_engine(catalog_url)
    yield opened
    opened.dispose()


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def test_migrations_and_models_agree(engine: Engine) -> None:
    with engine.connect() as connection:
        # PostgreSQL has no equality of JSON, by which defaults would be compared.
        opts = {"compare_type": True, "compare_server_default": engine.dialect.name == "sqlite"}
        context = MigrationContext.configure(connection, opts=opts)
        assert compare_metadata(context, Base.metadata) == []


def test_a_fresh_catalog_carries_the_newest_stamp(engine: Engine) -> None:
    with engine.connect() as connection:
        script = ScriptDirectory.from_config(alembic_config(connection))
        assert script.get_heads() == [SCHEMA]
        assert MigrationContext.configure(connection).get_current_revision() == SCHEMA


def test_down_and_up_again(engine: Engine) -> None:
    everything = tables(engine)
    with writing(engine).begin() as connection:
        command.downgrade(alembic_config(connection), "base")
    assert tables(engine) == {"alembic_version"}
    migrate(engine)
    assert tables(engine) == everything
    assert set(Base.metadata.tables) < everything


def test_migrating_what_is_up_to_date_changes_nothing(engine: Engine) -> None:
    before = tables(engine)
    migrate(engine)
    assert tables(engine) == before


def test_a_percent_sign_in_the_path(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'percent %d' / 'catalog.sqlite'}")
    assert set(Base.metadata.tables) < tables(engine)
    engine.dispose()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    with writing(engine).connect() as connection, connection.begin() as transaction:
        command.downgrade(alembic_config(connection), "base")
        assert not inspect(connection).has_table("runs")
        transaction.rollback()
    assert set(Base.metadata.tables) < tables(engine)
    engine.dispose()


def test_a_catalog_of_the_first_version_keeps_what_it_holds(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    bundle = PromptBundle(product="bottle")
    run = RunRecord("abc1", "bottle", bundle.id, "batch", {"features": "filter-bank@1"}, "0.1.0", "images")
    image = RunImage("a.png", "labelled", "a" * 64, ("a.png", "copy.png"), "/a.png", "L1", 4, 5, 99, "", 0.25, 2)
    with Catalog(url) as catalog:
        catalog.add_bundle(bundle, "champion")
        catalog.begin_run(run)
        catalog.record_images("abc1", [image])
    engine = open_engine(url)
    with writing(engine).begin() as connection:
        command.downgrade(alembic_config(connection), "0001")
    assert not tables(engine) & {"targets", "cursors", "predictions", "reviews", "promotions", "looks"}
    engine.dispose()
    with Catalog(url) as catalog:
        assert catalog.run("abc1") == run
        assert catalog.images_of("abc1") == (image,)
        assert catalog.champion("bottle") == bundle
        assert catalog.reviews("bottle") == ()
        assert catalog.promotions("bottle") == ()
        assert catalog.sizes({"a" * 64}) == {"a" * 64: (4, 5)}


def test_the_tables_can_be_written_for_postgresql() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for table in Base.metadata.sorted_tables:
        assert str(CreateTable(table).compile(dialect=dialect))
        for index in table.indexes:
            assert str(CreateIndex(index).compile(dialect=dialect))
    champion = next(index for index in Base.metadata.tables["bundles"].indexes if index.unique)
    assert "WHERE state = 'champion'" in str(CreateIndex(champion).compile(dialect=dialect))
