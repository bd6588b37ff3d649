"""Bring a database to the newest schema, or back. The migrations are those of the installed package.

Promises: a migration that fails leaves the database as it was; looking never changes anything.
"""

from collections.abc import Callable
from contextlib import closing
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from app.db.connecting import parse_url, reason_of
from app.db.session import WRITES, open_engine
from app.db.tables import Table
from app.domain.errors import SetupError

HEAD = "head"
EMPTY = "base"


def upgrade(database_url: str, *, revision: str = HEAD) -> None:
    """Apply every migration up to ``revision``."""
    _with_config(database_url, lambda config: command.upgrade(config, revision))


def downgrade(database_url: str, *, revision: str = EMPTY) -> None:
    """Undo every migration after ``revision``."""
    _with_config(database_url, lambda config: command.downgrade(config, revision))


def draft(database_url: str, *, message: str, revision: str) -> None:
    """Write a migration file from the database to the tables, for a developer to read and correct."""
    _with_config(
        database_url,
        lambda config: command.revision(config, message=message, rev_id=revision, autogenerate=True),
    )


@lru_cache(maxsize=1)
def head_revision() -> str | None:
    """Return the newest migration that this installation has."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def current_revision(engine: Engine) -> str | None:
    """Return the migration a database is at, None when it is empty."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def differences(engine: Engine) -> list[Any]:
    """Return what the tables say and the migrated database does not, as Alembic describes it."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, Table.metadata))


def require_head(engine: Engine) -> None:
    """Make sure that the database has the schema this code needs.

    Raises:
        SetupError: it is empty, older or newer.
    """
    current, head = current_revision(engine), head_revision()
    if current != head:
        raise SetupError(
            f"the database is at migration {current or 'none'} and must be at {head}: run `expunge migrate`"
        )


def require_database_file(database_url: str) -> None:
    """Refuse an SQLite file that is not there: connecting would make an empty one where a path is mistyped.

    Raises:
        SetupError: it has to be made first.
    """
    url = parse_url(database_url)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        raise SetupError(f"no database at {url.database}: run `expunge init`")


def check_database(database_url: str) -> None:
    """Make sure, with one try, that the database is there and has the schema this code needs.

    Raises:
        SetupError: it is not; the message is one line and shows no password.
    """
    require_database_file(database_url)
    engine = open_engine(database_url)
    try:
        require_head(engine)
    except SQLAlchemyError as error:
        raise SetupError(f"the database cannot be used: {reason_of(error)}") from error
    finally:
        engine.dispose()


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _with_config(database_url: str, run: Callable[[Config], object]) -> None:
    engine = open_engine(database_url)
    try:
        with closing(engine.connect().execution_options(**{WRITES: True})) as connection, connection.begin():
            run(_config(connection))
    except CommandError as error:
        raise SetupError(f"the database cannot be migrated: {error}") from error
    finally:
        engine.dispose()
