"""Statements are put into SQL once a test run, not once a test: a third of what a test with a database costs.

SQLAlchemy keeps what it compiled for one engine, and a service has one for its life; every test has its own.
Promises: a statement is the same SQL as without; what differs by database or driver is never shared. Never:
seen by a process that a test starts.
"""

from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

# By dialect and by what SQLAlchemy knows a statement by.
FORMS: dict[Any, Any] = {}


class _Alike:
    """What is compiled for one dialect of a class serves all of that class."""

    supports_statement_cache = True

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))


class Sqlite(_Alike, SQLiteDialect_pysqlite):
    """SQLite of any file."""

    supports_statement_cache = True


class Postgres(_Alike, PGDialect_psycopg):
    """PostgreSQL of any server of the tests: all are of one version."""

    supports_statement_cache = True


def compile_once() -> None:
    """Let all engines that this process opens from now on share what is compiled."""
    registry.register("sqlite", __name__, Sqlite.__name__)
    registry.register("postgresql.psycopg", __name__, Postgres.__name__)
    event.listen(Engine, "engine_connect", _share)


def _share(connection: Connection) -> None:
    if isinstance(connection.dialect, _Alike):
        connection.execution_options(compiled_cache=FORMS)
