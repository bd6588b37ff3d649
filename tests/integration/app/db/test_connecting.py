"""What an error says about the connection, and how long whoever connects waits."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from app.db.connecting import is_connection_lost
from app.db.migrate import check_database
from app.db.session import Sessions, open_engine, open_sessions, reading, writing
from app.domain.errors import SetupError
from tests.support.servers import PATIENCE_SECONDS, PostgresServer
from tests.support.world import World

pytestmark = pytest.mark.xdist_group("test_connecting")  # they share what takes seconds to start


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    server = PostgresServer.start(tmp_path_factory.mktemp("mortal"))
    yield server
    server.stop()


def answer(sessions: Sessions, statement: str = "SELECT 1") -> object:
    with reading(sessions) as session:
        return session.scalar(text(statement))


def test_whoever_is_patient_does_not_notice_a_restart(mortal: PostgresServer) -> None:
    engine = open_engine(mortal.url("postgres"), patience_seconds=PATIENCE_SECONDS)
    mortal.kill()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(answer, open_sessions(engine))
        mortal.restart()
        assert waiting.result() == 1
    engine.dispose()


def test_a_connection_that_is_lost_or_refused_is_told_as_such(mortal: PostgresServer) -> None:
    engine = open_engine(mortal.url("postgres"))
    sessions = open_sessions(engine)
    with writing(sessions) as session:
        session.execute(text("SELECT 1"))
        mortal.kill()
        with pytest.raises(DBAPIError) as lost:
            session.execute(text("SELECT 1"))
        session.rollback()
    with pytest.raises(DBAPIError) as refused:
        answer(sessions)
    mortal.restart()
    assert is_connection_lost(lost.value)
    assert is_connection_lost(refused.value)
    assert answer(sessions) == 1
    engine.dispose()


def test_what_the_database_says_itself_is_no_loss(world: World) -> None:
    model = world.model(dataset=world.dataset(subjects={"ann": 1}))
    with pytest.raises(IntegrityError) as twice, writing(world.sessions) as session:
        session.execute(text("INSERT INTO models SELECT * FROM models WHERE id = :id"), {"id": model})
    with pytest.raises(DBAPIError) as misspelt:
        answer(world.sessions, "SELEKT 1")
    assert not any(is_connection_lost(error.value) for error in (twice, misspelt))
    assert not is_connection_lost(ValueError("the connection was lost"))


def test_a_locked_sqlite_file_is_no_loss(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'some.db'}"
    engine, impatient = open_engine(url), create_engine(url, connect_args={"timeout": 0})
    with writing(open_sessions(engine)), impatient.connect() as connection:
        with pytest.raises(OperationalError) as busy:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        assert not is_connection_lost(busy.value)
    engine.dispose()
    impatient.dispose()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nonsense", "is not a database URL"),
        ("postgresql+psycopg://expunge:sekret@host:sekret/name", "is not a database URL"),
        ("mysql://expunge:sekret@host/name", "must begin with"),
        ("postgresql+asyncpg://expunge:sekret@host/name", "must begin with"),
        ("postgresql+psycopg://expunge:sekret@127.0.0.1:9/name", "Connection refused"),
        ("postgresql+psycopg://expunge:sekret@127.0.0.1:9/name?sslmode=sekret", "cannot be used"),
        ("postgresql+psycopg://expunge:sekret@/name?host=/nowhere", "No such file"),
    ],
)
def test_a_url_that_leads_nowhere_is_one_line_without_the_password(url: str, reason: str) -> None:
    with pytest.raises(SetupError, match=reason) as refused:
        check_database(url)
    assert "\n" not in str(refused.value)
    assert "expunge:sekret" not in str(refused.value)


def test_a_database_that_the_server_does_not_have_is_named(postgres: PostgresServer) -> None:
    with pytest.raises(SetupError, match='"nowhere" does not exist'):
        check_database(postgres.url("nowhere"))


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SetupError, match=r"pip install 'expunge\[postgres\]'"):
        check_database("postgresql+psycopg://expunge@127.0.0.1/name")
