"""Opening the database: one place for its dialects, its errors and the schema it must have."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from alembic.command import upgrade
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError as BadUrlShape
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError

MIGRATIONS: Final = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_S: Final = 10
CONNECT_TIMEOUT_S: Final = 3


class BadDatabase(ValueError):
    """The database URL cannot be used."""


class DatabaseGone(ConnectionError):
    """The database does not answer."""


class NotMigrated(RuntimeError):
    """The database lacks the tables of this release."""


def url_of(text: str) -> URL:
    """Parse a URL, giving PostgreSQL the driver that is installed.

    Raises BadDatabase without the password.
    """
    try:
        url = make_url(text)
        if url.drivername in ("postgresql", "postgres"):
            url = url.set(drivername="postgresql+psycopg")
        if url.get_backend_name() not in ("sqlite", "postgresql"):
            raise BadDatabase("database: sqlite:///… or postgresql://… is allowed")
        url.get_dialect()
    except (BadUrlShape, NoSuchModuleError, ImportError) as error:
        raise BadDatabase("database: sqlite:///… or postgresql://… is allowed") from error
    return url


def open_engine(text: str) -> Engine:
    """An engine whose first connection is made on first use. Raises BadDatabase."""
    url = url_of(text)
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url)
    return create_engine(
        url,
        pool_size=4,
        max_overflow=8,
        pool_timeout=CONNECT_TIMEOUT_S,
        pool_pre_ping=True,
        pool_recycle=1800,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "vitalstream",
            # A server that vanished without a word must not hold a thread for the kernel's two
            # hours.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,
            "options": "-c statement_timeout=30000 -c lock_timeout=10000",
        },
    )


def _open_sqlite(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        # The driver's own transactions begin late and turn a read into a write that cannot wait;
        # `begin` is ours.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def gone(error: SQLAlchemyError) -> bool:
    """Whether the database is away for now, rather than asked wrongly."""
    if not isinstance(error, DBAPIError):
        return (
            type(error).__name__ == "TimeoutError"
        )  # the pool's: all connections wait for an answer
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        # Connection, resources, operator, system, serialisation, locks: the classes of PostgreSQL's
        # appendix A.
        return state[:2] in ("08", "53", "57", "58", "40") or state == "55P03"
    # SQLite has one class for what is locked or unreadable and for what does not exist.
    return type(error).__name__ == "OperationalError" and "no such" not in str(error.orig)


def migrate(text: str) -> str:
    """Bring the database to this release's schema; returns its revision.

    Raises BadDatabase, DatabaseGone.
    """
    engine = open_engine(text)
    try:
        with engine.execution_options(writes=True).begin() as connection:
            if connection.dialect.name == "postgresql":
                # Two that migrate at once take turns; the lock goes with the transaction.
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7184302)")
            config = _config()
            config.attributes["connection"] = connection
            upgrade(config, "head")
        return _head()
    except SQLAlchemyError as error:
        if gone(error):
            raise DatabaseGone("the database does not answer") from error
        raise
    finally:
        engine.dispose()


def require_schema(connection: Connection) -> None:
    """Raise NotMigrated unless the database has this release's schema."""
    found = MigrationContext.configure(connection).get_current_revision()
    if found != _head():
        raise NotMigrated(
            f"the database is at revision {found or 'none'}, this release needs {_head()}: "
            "run `vitalstream migrate`"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def _head() -> str:
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head
