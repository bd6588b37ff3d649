"""How the database is reached: its URL, patience while it is away, and what its loss looks like.

Promises: whoever connects waits so long as he was told and no longer; no message shows a password.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidatePoolError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from app.domain.errors import SetupError

# A client of the API waits so long for a server that restarts; a worker has nobody who waits for it.
API_PATIENCE_SECONDS = 5.0
WORKER_PATIENCE_SECONDS = 60.0
# A process keeps so many connections open, and the service runs so many requests at once (app.main).
POOL_SIZE = 10
POOL_TIMEOUT_SECONDS = 5
# No server dies and comes back within this time, so whoever used a connection would have noticed its loss.
_PROVEN_SECONDS = 0.1
_USED_AT = "expunge_used_at"
_ATTEMPT_SECONDS = 3
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_DRIVERS = {
    "sqlite": "sqlite", "sqlite+pysqlite": "sqlite",
    "postgresql": "postgresql+psycopg", "postgresql+psycopg": "postgresql+psycopg",
}  # fmt: skip
# A machine that vanished without a word is noticed after half a minute instead of hours.
_PROBES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}
# And the server notices a client that vanished, or sits in a transaction, and lets go what it had locked.
_SERVER_OPTIONS = (
    "-c lock_timeout=20s -c idle_in_transaction_session_timeout=300s"
    " -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
)
# Connection exceptions, and a server that shuts down, has crashed, or does not let anybody in yet.
_LOST_STATES = ("08", "57P01", "57P02", "57P03")


def parse_url(database_url: str) -> URL:
    """Return a database URL in parts.

    Raises:
        SetupError: it is none, or that of a database this service does not know; it is not repeated.
    """
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError) as error:
        raise SetupError("EXPUNGE_DATABASE_URL is not a database URL") from error
    if url.drivername not in _DRIVERS:
        raise SetupError("EXPUNGE_DATABASE_URL must begin with sqlite:// or postgresql+psycopg://")
    return url.set(drivername=_DRIVERS[url.drivername])


def open_postgres(url: URL, *, patience_seconds: float) -> Engine:
    """Return an engine for a server; a connection that was lost while it was idle is replaced unnoticed.

    Raises:
        SetupError: the driver is not installed.
    """
    options: dict[str, Any] = {"connect_timeout": _ATTEMPT_SECONDS, "options": _SERVER_OPTIONS, **_PROBES}
    own = {name: value for name, value in options.items() if name not in url.query}
    try:
        engine = create_engine(
            url,
            pool_size=POOL_SIZE,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            hide_parameters=True,
            connect_args=own,
        )
    except ImportError as error:
        raise SetupError("the PostgreSQL driver is missing: pip install 'expunge[postgres]'") from error
    event.listen(engine, "do_connect", _patient(patience_seconds))
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "checkout", partial(_prove, engine.dialect))
    return engine


def is_connection_lost(error: BaseException) -> bool:
    """Whether the database went away or is not there, which says nothing against what was asked of it.

    Whatever was not committed has not happened; whether a commit on its way has, nobody knows yet.
    """
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    # No state at all: no server ever answered. The errors of SQLite have no such field.
    state = getattr(error.orig, "sqlstate", "")
    return state is None or state.startswith(_LOST_STATES)


def is_passing(error: BaseException) -> bool:
    """Whether the same may go well in a moment: the database is away, full, locked or overrun."""
    return isinstance(error, OperationalError | PoolTimeout) or is_connection_lost(error)


def reason_of(error: SQLAlchemyError) -> str:
    """Return in one line what the driver said, without the statement."""
    said = error.orig if isinstance(error, DBAPIError) else error
    lines = str(said).strip().splitlines()
    return lines[0] if lines else type(said).__name__


def _note_use(_connection: object, entry: ConnectionPoolEntry) -> None:
    entry.info[_USED_AT] = time.monotonic()


def _prove(
    dialect: Dialect, connection: Any, entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection
) -> None:
    """Ask a connection whether it lives, unless somebody has just used it: asking is a round trip."""
    if time.monotonic() - entry.info.get(_USED_AT, time.monotonic()) < _PROVEN_SECONDS:
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise InvalidatePoolError("the connection was lost while it was idle") from error


def _patient(patience_seconds: float) -> Callable[..., Any]:
    """Return a way to connect that tries again until ``patience_seconds`` are over."""

    def connect(dialect: Dialect, _entry: object, arguments: list[Any], options: dict[str, Any]) -> Any:
        deadline = time.monotonic() + patience_seconds
        for pause in _pauses():
            try:
                return dialect.connect(*arguments, **options)
            except dialect.loaded_dbapi.OperationalError:
                if time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
        raise AssertionError("the pauses never end")

    return connect


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
