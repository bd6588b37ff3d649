"""What deleted rows leave behind in the files of a PostgreSQL server."""

from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, text

from app.db.scrubbing import scrub
from app.db.session import Sessions, open_engine, reading, writing
from app.db.tables import Record
from tests.support.servers import PostgresServer
from tests.support.world import World

pytestmark = pytest.mark.own_database

NUM_RECORDS = 400
STATISTICS = "SELECT n_dead_tup, vacuum_count FROM pg_stat_user_tables WHERE relname = 'records'"


@pytest.fixture
def dialect() -> str:
    return "postgres"


@pytest.fixture
def subject_ref(world: World) -> bytes:
    """Whose records were all stored and then deleted again."""
    world.dataset(subjects={"ann": NUM_RECORDS})
    with writing(world.sessions) as session:
        session.execute(delete(Record))
        session.execute(text("SELECT pg_stat_force_next_flush()"))
    return world.keyring.subject_refs("ann", subject_type="person")[0]


@pytest.fixture
def file(postgres: PostgresServer, sessions: Sessions) -> Path:
    """The file of the table on the disk."""
    with reading(sessions) as session:
        path = session.scalar(text("SELECT pg_relation_filepath('records')"))
    return postgres.folder / "postgres" / str(path)


def statistics(sessions: Sessions) -> tuple[int, int]:
    """Return the number of dead records and how often they were vacuumed."""
    with reading(sessions) as session:
        num_dead, num_vacuums = session.execute(text(STATISTICS)).one()
        return num_dead, num_vacuums


def bytes_of(file: Path, sessions: Sessions) -> bytes:
    """Return what stands in a file once everything is on the disk."""
    with writing(sessions) as session:
        session.execute(text("CHECKPOINT"))
    return file.read_bytes()


def test_deleted_rows_leave_the_table(
    engine: Engine, sessions: Sessions, subject_ref: bytes, file: Path
) -> None:
    assert statistics(sessions) == (NUM_RECORDS, 0)
    assert subject_ref in bytes_of(file, sessions)
    assert scrub(engine)
    assert statistics(sessions) == (0, 1)
    assert subject_ref not in bytes_of(file, sessions)


def test_what_an_older_snapshot_may_see_is_left_and_told(
    engine: Engine, sessions: Sessions, world: World
) -> None:
    with sessions() as older:
        older.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        older.execute(text("SELECT 1 FROM records"))
        world.dataset(subjects={"ann": NUM_RECORDS})
        with writing(sessions) as session:
            session.execute(delete(Record))
        assert not scrub(engine)
        assert statistics(sessions) == (NUM_RECORDS, 1)
    another_process = open_engine(engine.url.render_as_string(hide_password=False))
    assert scrub(another_process)
    assert statistics(sessions) == (0, 2)
    another_process.dispose()


def test_a_stream_of_deletions_does_not_vacuum_all_day(
    engine: Engine, sessions: Sessions, subject_ref: bytes
) -> None:
    assert [scrub(engine) for _ in range(3)] == [True, False, False]
    assert statistics(sessions) == (0, 1)
