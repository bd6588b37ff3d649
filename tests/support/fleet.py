"""An installation as several hosts share it: PostgreSQL holds the jobs, Redis carries the hints."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import make_url

from app.settings import Settings
from tests.support.service import Home


class Row(tuple[Any, ...]):
    """A row as SQLite's driver gives it: by place and by name."""

    names: tuple[str, ...]

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self.names.index(key) if isinstance(key, str) else key)

    def keys(self) -> tuple[str, ...]:
        """The names of the columns."""
        return self.names


@dataclass
class Fleet(Home):
    """A home whose workers Celery tells of jobs. Commands and checks are those of any home."""

    database_url: str = ""
    broker_url: str = ""

    @property
    def settings(self) -> Settings:
        """The settings that every process here has."""
        return Settings(home=self.path, database_url=self.database_url, broker_url=self.broker_url)

    def rows(self, query: str, *values: object) -> list[Any]:
        """Return what a query finds; it is written as for SQLite."""
        with self.connection() as connection:
            cursor = connection.execute(query.replace("?", "%s"), values or None)  # type: ignore[arg-type]
            row = type("_Row", (Row,), {"names": tuple(column.name for column in cursor.description or ())})
            return [row(found) for found in cursor.fetchall()]

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection]:
        """Open the database beside the processes that use it."""
        url = make_url(self.database_url)
        keywords: dict[str, Any] = url.translate_connect_args(username="user", database="dbname")
        with psycopg.connect(**keywords, **url.query, autocommit=True) as connection:
            yield connection

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {
            "EXPUNGE_DATABASE_URL": self.database_url,
            "EXPUNGE_BROKER_URL": self.broker_url,
        }
