"""An installation as several hosts share it: PostgreSQL holds the jobs, Redis carries the hints."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

from app.settings import Settings
from tests.support.service import Home

SWEEP_SECONDS = 1.0


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
    sweep_seconds: float = SWEEP_SECONDS

    @property
    def settings(self) -> Settings:
        """The settings that every process here has."""
        return Settings(home=self.path, database_url=self.database_url, broker_url=self.broker_url)

    def copied(self, folder: Path, *, database_url: str, broker_url: str) -> "Fleet":
        """Return an installation like this one over a copy of its database."""
        shutil.copytree(self.path, folder / "home")
        return replace(self, folder=folder, database_url=database_url, broker_url=broker_url, processes=[])

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
            "EXPUNGE_SWEEP_SECONDS": str(self.sweep_seconds),
        }
