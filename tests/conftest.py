"""Fixtures that every test may use: a migrated home folder with keys, a database, a store.

The database is SQLite; a folder of tests that overrides ``dialect`` runs on a real PostgreSQL too.
"""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.db.migrate import upgrade
from app.db.session import Sessions, open_engine, open_sessions
from app.keyring import Keyring, create_keys, load_keyring
from app.settings import Settings
from models_store.blobs import BlobStore, open_store
from tests.support.servers import PostgresServer, ServerMissing, require_servers
from tests.support.statements import compile_once
from tests.support.world import World

_MIGRATED, _SHARED = "migrated", "shared"


def pytest_sessionstart() -> None:
    """End the run where a server cannot be had: passing without it would show less than it seems to."""
    gc.disable()  # until everything is imported: nothing of that is garbage
    compile_once()
    try:
        require_servers()
    except ServerMissing as error:
        pytest.exit(str(error), returncode=1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Leave what was imported and collected out of every later collection, as our processes do."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("EXPUNGE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def migrated_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = Settings(home=tmp_path_factory.mktemp("template") / "home")
    create_keys(settings)
    upgrade(settings.resolved_database_url)
    return settings.home


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """The server of the whole run; whoever kills one starts another."""
    server = PostgresServer.start(tmp_path_factory.mktemp("postgres"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def migrated_database(postgres: PostgresServer) -> str:
    """The name of a migrated database to copy."""
    upgrade(postgres.create_database(_MIGRATED))
    return _MIGRATED


@pytest.fixture
def empty_postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """A database without tables, for one test."""
    with postgres.database() as url:
        yield url


@pytest.fixture(scope="session")
def shared_database(postgres: PostgresServer, migrated_database: str) -> str:
    """The name of a migrated database that one test after the other has for itself."""
    postgres.create_database(_SHARED, template=migrated_database)
    return _SHARED


@pytest.fixture
def postgres_url(
    postgres: PostgresServer, shared_database: str, request: pytest.FixtureRequest
) -> Iterator[str]:
    """A migrated database without a row, for one test."""
    if request.node.get_closest_marker("own_database"):
        with postgres.database(template=request.getfixturevalue("migrated_database")) as url:
            yield url
        return
    yield postgres.url(shared_database)
    postgres.empty(shared_database)


@pytest.fixture
def dialect() -> str:
    """The kind of database that a test runs on."""
    return "sqlite"


@pytest.fixture
def settings(tmp_path: Path, migrated_home: Path, dialect: str, request: pytest.FixtureRequest) -> Settings:
    home = tmp_path / "home"
    shutil.copytree(migrated_home, home)
    if dialect == "sqlite":
        return Settings(home=home)
    (home / "expunge.db").unlink()
    return Settings(home=home, database_url=request.getfixturevalue("postgres_url"))


@pytest.fixture
def keyring(settings: Settings) -> Keyring:
    return load_keyring(settings)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = open_engine(settings.resolved_database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> Sessions:
    return open_sessions(engine)


@pytest.fixture
def store(settings: Settings) -> BlobStore:
    return open_store(settings.resolved_store_url)


@pytest.fixture
def world(sessions: Sessions, keyring: Keyring, store: BlobStore) -> World:
    return World(sessions=sessions, keyring=keyring, store=store)
