"""Store rows of several tables at once: all of them or none.

Promises: a server is sent one statement, which is its own transaction when it is sent alone: whoever posts a
deletion waits for one round trip instead of seven. SQLite is beside us and gets a statement a table.
Never: a value that is not bound; the names in the statement are those of our own columns.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Insert, insert
from sqlalchemy.orm import Session

from app.db.tables import Table

Values = dict[str, Any]
"""One row: column name -> value; every row of a table names the same columns."""


def store_together(session: Session, rows: Mapping[type[Table], Sequence[Values]]) -> None:
    """Insert rows that nobody looks at again in this transaction, past the session's bookkeeping.

    Columns that are not named get what the database gives them; Python's own defaults are not asked.
    """
    given = {table: values for table, values in rows.items() if values}
    if not given:
        return
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        for table, values in given.items():
            connection.execute(_insert(table), values)
        return
    statement = _statement(tuple((table, tuple(values[0])) for table, values in given.items()))
    parameters = {table.__tablename__: _json(values) for table, values in given.items()}
    connection.exec_driver_sql(statement, parameters)


@lru_cache
def _insert(table: type[Table]) -> Insert:
    return insert(table)


@lru_cache
def _statement(columns: tuple[tuple[type[Table], tuple[str, ...]], ...]) -> str:
    """Return one statement that inserts into all tables; foreign keys are checked when it is at its end."""
    parts = [_part(table.__tablename__, ", ".join(names)) for table, names in columns]
    *before, last = parts
    if not before:
        return last
    named = ", ".join(f"stored_{number} AS ({part})" for number, part in enumerate(before))
    return f"WITH {named} {last}"


def _part(name: str, columns: str) -> str:
    # The table's own row type says what each value of the JSON becomes.
    rows = f"json_populate_recordset(NULL::{name}, %({name})s::json)"
    return f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {rows}"


def _json(rows: Sequence[Values]) -> str:
    """Return rows as PostgreSQL reads them: floats to the last bit, bytes as ``\\x`` and hex digits."""
    return json.dumps(rows, default=_hex, allow_nan=False)


def _hex(value: object) -> str:
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    raise TypeError(f"no column holds a {type(value).__name__}")
