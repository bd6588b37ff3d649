"""Engines and transactions, alike on SQLite and Postgres.

Promises: ``writing`` commits on success and rolls back on any error; on SQLite it begins with
BEGIN IMMEDIATE, so that no transaction ever reads first and finds the database locked when it writes.
Never: a commit after the answer was sent (FastAPI runs the exit of a ``yield`` dependency too late for
that), so services own their transactions and routes own none.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Double, Engine, Insert, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from app.db.connecting import open_postgres, parse_url

Sessions = sessionmaker[Session]
BUSY_TIMEOUT_SECONDS = 30.0
WRITES = "expunge_writes"
_TURN = threading.Lock()


class epoch_now(FunctionElement[float]):
    """The database's own clock, UTC seconds since the epoch: leases compare no other clock."""

    type = Double()
    inherit_cache = True


@compiles(epoch_now, "sqlite")
def _epoch_now_sqlite(element: epoch_now, compiler: SQLCompiler, **_: Any) -> str:
    # unixepoch('subsec') is NULL on SQLite 3.40, and a NULL lease is never reclaimed.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(epoch_now, "postgresql")
def _epoch_now_postgres(element: epoch_now, compiler: SQLCompiler, **_: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


def open_engine(database_url: str, *, patience_seconds: float = 0.0) -> Engine:
    """Return an engine for ``database_url``; the folder of an SQLite file is made when missing.

    Connecting to a server that is away is tried again for ``patience_seconds``. Errors of the driver show no
    parameters: they hold keyed hashes of subjects.

    Raises:
        SetupError: the URL is not one of a database that can be used here.
    """
    url = parse_url(database_url)
    if url.get_backend_name() != "sqlite":
        return open_postgres(url, patience_seconds=patience_seconds)
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    connect_args = {"timeout": BUSY_TIMEOUT_SECONDS}
    engine = create_engine(url, connect_args=connect_args, hide_parameters=True)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def open_sessions(engine: Engine) -> Sessions:
    """Return the one session type that services take."""
    return sessionmaker(engine, expire_on_commit=False)


def insert_missing(session: Session, table: type[DeclarativeBase]) -> Insert:
    """Return an INSERT that does nothing when the row is there, even if only another transaction sees it."""
    match session.get_bind().dialect.name:
        case "postgresql":
            return postgresql.insert(table).on_conflict_do_nothing()
        case _:
            return sqlite.insert(table).on_conflict_do_nothing()


def exclude_writers(session: Session, table: type[DeclarativeBase]) -> None:
    """Wait for whoever is writing to a table, and let nobody else do it until this transaction ends.

    On SQLite a writing transaction has excluded all others since it began.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"LOCK TABLE {table.__tablename__} IN SHARE MODE"))


@contextmanager
def writing(sessions: Sessions) -> Iterator[Session]:
    """One transaction that may write."""
    with sessions() as session, _turn(session):
        session.connection(execution_options={WRITES: True})
        try:
            yield session
        except BaseException:
            session.rollback()
            raise
        session.commit()


@contextmanager
def reading(sessions: Sessions) -> Iterator[Session]:
    """One transaction that only reads.

    On a server each statement is a transaction of its own: it sees what READ COMMITTED shows it anyway,
    without two more round trips, and without the ROLLBACK at which psycopg forgets its prepared statements.
    """
    with sessions() as session:
        if session.get_bind().dialect.name != "sqlite":
            session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        yield session


@contextmanager
def asking(sessions: Sessions) -> Iterator[Connection]:
    """As ``reading``, for statements that return columns: a session's bookkeeping costs as much as they."""
    engine: Engine = sessions.kw["bind"]
    with engine.connect() as connection:
        if engine.dialect.name != "sqlite":
            connection.execution_options(isolation_level="AUTOCOMMIT")
        yield connection


@contextmanager
def writing_once(sessions: Sessions) -> Iterator[Session]:
    """One transaction whose last statement is the only one that writes.

    On a server that statement is a transaction of its own, durable when it has been answered: that saves the
    round trips of BEGIN and COMMIT. A second one that writes would be a second transaction.
    """
    if sessions.kw["bind"].dialect.name == "sqlite":
        with writing(sessions) as session:
            yield session
    else:
        with reading(sessions) as session:
            yield session


@contextmanager
def _turn(session: Session) -> Iterator[None]:
    """Let the writers of one process wait in a row on SQLite, which has one writer at a time anyway.

    SQLite itself waits by sleeping longer and longer: whoever came first would get in last.
    """
    if session.get_bind().dialect.name != "sqlite":
        yield
        return
    has_turn = _TURN.acquire(timeout=BUSY_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        if has_turn:
            _TURN.release()


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own transaction handling is off: BEGIN is ours, below.
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",  # an acknowledged deletion survives a power cut
        "foreign_keys=ON",
        "secure_delete=ON",  # deleted rows are overwritten, not only unlinked
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
