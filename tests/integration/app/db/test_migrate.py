"""Migrations: up, down and up again, and never a difference from the tables."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine, inspect, text

from app.db.migrate import (
    current_revision,
    differences,
    downgrade,
    head_revision,
    require_head,
    upgrade,
)
from app.db.session import open_engine, open_sessions, writing
from app.db.tables import Job, Table
from app.domain.errors import SetupError
from app.settings import Settings
from tests.support.world import World

pytestmark = pytest.mark.own_database


@pytest.fixture
def url(tmp_path: Path, dialect: str, request: pytest.FixtureRequest) -> str:
    if dialect == "postgres":
        return str(request.getfixturevalue("empty_postgres_url"))
    return f"sqlite:///{tmp_path / 'some %40 folder' / 'new.db'}"


def test_up_down_and_up_again_ends_at_the_head_without_a_difference(url: str) -> None:
    upgrade(url)
    downgrade(url)
    engine = open_engine(url)
    assert (current_revision(engine), inspect(engine).get_table_names()) == (None, ["alembic_version"])
    upgrade(url)
    upgrade(url)
    assert current_revision(engine) == head_revision()
    assert differences(engine) == []
    assert set(inspect(engine).get_table_names()) == {*Table.metadata.tables, "alembic_version"}
    engine.dispose()


def test_the_migrated_database_has_the_partial_indexes(url: str) -> None:
    upgrade(url)
    engine = open_engine(url)
    with engine.connect() as connection:
        made = {
            "sqlite": "SELECT name, sql FROM sqlite_master",
            "postgresql": "SELECT indexname, indexdef FROM pg_indexes",
        }[engine.dialect.name]
        indexes = {row[0]: row[1] for row in connection.execute(text(made))}
    for status in ("queued", "running"):
        definition = indexes[f"uq_jobs_{status}"]
        assert definition.startswith("CREATE UNIQUE INDEX")
        assert re.search(rf"WHERE .*status.* = '{status}'", definition)
    engine.dispose()


def test_a_database_that_is_empty_or_newer_is_refused_in_one_line(url: str) -> None:
    engine = open_engine(url)
    with pytest.raises(SetupError, match="run `expunge migrate`"):
        require_head(engine)
    upgrade(url)
    require_head(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SetupError, match="9999"):
        require_head(engine)
    with pytest.raises(SetupError, match="cannot be migrated"):
        upgrade(url)
    engine.dispose()


def test_foreign_keys_hold(url: str) -> None:
    upgrade(url)
    engine = open_engine(url)
    with pytest.raises(Exception, match=r"(?i)foreign key"), writing(open_sessions(engine)) as session:
        session.add(Job(id="j", tenant="t", model_id="none", kind="train", status="queued", step="prepare"))
    engine.dispose()


def test_a_draft_over_the_head_finds_nothing_to_do(tmp_path: Path) -> None:
    # The developer's command, against a copy of the package: it must not need this checkout.
    root = Path(__file__).parents[4]
    for name in ("app", "migrations", "models_store"):
        (tmp_path / name).symlink_to(root / name) if name != "migrations" else _copy(
            root / name, tmp_path / name
        )
    run = [sys.executable, "-m", "migrations.draft", "0999", "nothing"]
    subprocess.run(run, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    (drafted,) = (tmp_path / "migrations" / "versions").glob("0999_*.py")
    assert drafted.read_text().count("    pass") == 2


def _copy(source: Path, target: Path) -> None:
    for file in source.rglob("*"):
        if file.suffix in (".py", ".mako"):
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())


def test_the_newest_migration_goes_down_and_up_over_what_is_stored(
    world: World, settings: Settings, engine: Engine
) -> None:
    world.trained(subjects={"ann": 1, "bob": 1})
    world.sealed("ann")
    world.post("bob")
    before = num_rows(engine)
    engine.dispose()
    downgrade(settings.resolved_database_url, revision="0001")
    assert num_rows(engine) == before
    engine.dispose()
    upgrade(settings.resolved_database_url)
    assert (num_rows(engine), differences(engine)) == (before, [])
    wrong = (
        "SELECT count(*) FROM targets JOIN requests ON requests.id = targets.request_id "
        "WHERE targets.posted_at <> requests.posted_at"
    )
    with engine.connect() as connection:
        assert connection.scalar(text(wrong)) == 0
    assert world.claim()


def num_rows(engine: Engine) -> dict[str, int]:
    tables = ("jobs", "versions", "requests", "targets", "tombstones", "events")
    with engine.connect() as connection:
        return {name: connection.scalar(text(f"SELECT count(*) FROM {name}")) or 0 for name in tables}
