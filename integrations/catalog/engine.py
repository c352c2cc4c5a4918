"""Opening a catalog: the connection, its locks, and its tables brought up to date."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from integrations.catalog.models import SCHEMA
from integrations.urls import masked_url
from saa_core.errors import StoreError

if TYPE_CHECKING:
    from alembic.config import Config

BUSY_SECONDS = 30
"""How long a SQLite writer waits for another process."""

_MIGRATION_LOCK = 5341_4101  # any number, the same in every process


def open_engine(url: str) -> Engine:
    """Connect and migrate if needed.

    Raises:
        StoreError: The URL is not usable, the database does not answer, or a newer version of this program made it.
    """
    engine = _connectable(url)
    try:
        _make_folder(engine)
        if _stamp(engine) != SCHEMA:
            migrate(engine)
    except (SQLAlchemyError, OSError) as error:
        engine.dispose()
        raise database_error(url, error) from error
    return engine


def writing(engine: Engine) -> Engine:
    """The same engine for transactions that write.

    A SQLite transaction that reads first and writes later fails at once when another wrote in between, whatever the
    time-out; one that says from the start that it will write waits for its turn.
    """
    return engine.execution_options(saa_writes=True)


def database_error(url: str, error: Exception) -> StoreError:
    """What went wrong in the database, without its address's password and without the statement."""
    reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    advice = "; free some space, then run again" if "disk is full" in reason else ""
    return StoreError(masked_url(url), f"the catalog cannot be used: {reason}{advice}")


def migrate(engine: Engine) -> None:
    """Bring the tables up to date, in one transaction; of several processes one does it and the others wait.

    Raises:
        StoreError: The tables are of a version that this program does not know.
    """
    from alembic import command
    from alembic.util import CommandError

    with writing(engine).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
        try:
            command.upgrade(alembic_config(connection), "head")
        except CommandError as error:
            name = engine.url.render_as_string()
            raise StoreError(name, f"made by a newer version of this program, update it ({error})") from error


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for the migrations of this package, on an open connection."""
    from alembic.config import Config

    config = Config()
    folder = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _connectable(url: str) -> Engine:
    try:
        address = make_url(url)
        if address.get_backend_name() not in ("sqlite", "postgresql"):
            raise StoreError(masked_url(url), "only sqlite:/// and postgresql:// are known")
        if address.drivername == "postgresql":  # without a driver's name, SQLAlchemy 2.0 looks for psycopg2
            address = address.set(drivername="postgresql+psycopg")
        engine = create_engine(address)
    except (ArgumentError, NoSuchModuleError) as error:
        raise StoreError(masked_url(url), f"not a database URL: {error}") from error
    except ModuleNotFoundError as error:
        raise StoreError(masked_url(url), f'{error}; install it: pip install "saa-labeling[postgresql]"') from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _on_connect)
        event.listen(engine, "begin", _on_begin)
    return engine


def _make_folder(engine: Engine) -> None:
    if engine.dialect.name == "sqlite" and engine.url.database:
        Path(engine.url.database).absolute().parent.mkdir(parents=True, exist_ok=True)


def _on_connect(connection: sqlite3.Connection, _: object) -> None:
    # Python's driver would begin transactions at moments of its own choice.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    cursor.execute("PRAGMA foreign_keys = ON")
    _write_ahead(cursor)
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    # Refused at once, whatever the time-out, while another process writes the first page of a new file.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _on_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("saa_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _stamp(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
