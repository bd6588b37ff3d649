"""Fixtures that every test may use: a migrated home folder with keys, a database, a store."""

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
from tests.support.world import World


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


@pytest.fixture
def settings(tmp_path: Path, migrated_home: Path) -> Settings:
    shutil.copytree(migrated_home, tmp_path / "home")
    return Settings(home=tmp_path / "home")


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
