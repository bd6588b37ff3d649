"""Remove what deleted and changed rows leave behind in the files of the database itself.

What this cannot reach (write-ahead log and archives of a server, space inside its pages that is free but not
yet used again) is listed in every receipt.
"""

import time
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, text

from app.db.session import BUSY_TIMEOUT_SECONDS
from app.db.tables import Table

SCRUB_TIMEOUT_MILLISECONDS = 100
VACUUM_INTERVAL_SECONDS = 60.0
_TABLES = ", ".join(sorted(Table.metadata.tables))
# Few dead rows would leave their index entries alone otherwise, and those hold keyed hashes of subjects.
_VACUUM = f"VACUUM (INDEX_CLEANUP ON, SKIP_LOCKED) {_TABLES}"
_NUM_DEAD = "SELECT sum(n_dead_tup) FROM pg_stat_user_tables WHERE relname = ANY(:tables)"
_vacuumed_at: WeakKeyDictionary[Engine, float] = WeakKeyDictionary()


def scrub(engine: Engine) -> bool:
    """Remove dead rows: False while something prevents it, then call again.

    SQLite's write-ahead log is emptied unless a reader needs it. A server's tables are vacuumed, once a
    minute at most by each process: a stream of deletions would do nothing else all day. A table that somebody
    else vacuums is passed over.
    """
    return _empty_log(engine) if engine.dialect.name == "sqlite" else _vacuum_sometimes(engine)


def scrub_at_once(engine: Engine) -> None:
    """Empty SQLite's log if no reader needs it; of a server nothing: a vacuum is for whoever sweeps."""
    if engine.dialect.name == "sqlite":
        _empty_log(engine)


def _empty_log(engine: Engine) -> bool:
    raw = engine.raw_connection()
    try:
        # While it waits for a reader no one can write: better to try again soon.
        raw.cursor().execute(f"PRAGMA busy_timeout={SCRUB_TIMEOUT_MILLISECONDS}")
        busy, _, _ = raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy
    finally:
        raw.cursor().execute(f"PRAGMA busy_timeout={round(1000 * BUSY_TIMEOUT_SECONDS)}")
        raw.close()


def _vacuum_sometimes(engine: Engine) -> bool:
    last = _vacuumed_at.get(engine)
    if last is not None and time.monotonic() < last + VACUUM_INTERVAL_SECONDS:
        return False
    _vacuumed_at[engine] = time.monotonic()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return _vacuum(connection)


def _vacuum(connection: Connection) -> bool:
    """Vacuum every table; what an older snapshot may still see stays dead and is counted."""
    # What this connection has deleted itself is counted before, not after it is gone.
    connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
    connection.exec_driver_sql(_VACUUM)
    tables = list(Table.metadata.tables)
    return not connection.scalar(text(_NUM_DEAD), {"tables": tables})
