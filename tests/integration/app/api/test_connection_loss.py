"""A database that goes away while requests are on their way: kill -9 of a real PostgreSQL, and its return."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager

import httpx
import psycopg
import pytest
from fastapi import FastAPI

from app.db.migrate import upgrade
from app.db.session import reading
from app.db.tables import Request
from app.domain.access import Scope
from app.main import create_app
from app.settings import Settings
from tests.support.client import client_of
from tests.support.problems import problem_of
from tests.support.servers import GLANCE_SECONDS, PATIENCE_SECONDS, PostgresServer
from tests.support.world import World

COMMITS_WAIT = "ALTER SYSTEM SET synchronous_standby_names = 'nobody'"
COMMITS_PASS = "ALTER SYSTEM RESET synchronous_standby_names"

pytestmark = pytest.mark.xdist_group("test_connection_loss")  # they share what takes seconds to start


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server of these tests alone, which they may kill."""
    server = PostgresServer.start(tmp_path_factory.mktemp("mortal"), settings={"synchronous_commit": "on"})
    yield server
    server.stop()


@pytest.fixture(scope="module")
def shared_database(postgres: PostgresServer) -> str:
    upgrade(postgres.create_database("shared"))
    return "shared"


@pytest.fixture
def dialect() -> str:
    return "postgres"


@pytest.fixture
def service(settings: Settings) -> Iterator[FastAPI]:
    app = create_app(settings, patience_seconds=PATIENCE_SECONDS)
    yield app
    app.state.context.engine.dispose()


@pytest.fixture
def name(settings: Settings) -> str:
    """The database of this test."""
    return settings.database_url.split("@/")[1].split("?")[0]


@contextmanager
def standing_still(
    postgres: PostgresServer, name: str, *, table: str = "requests"
) -> Iterator[psycopg.Connection]:
    """Let no statement on a table go on until the block ends or the server dies."""
    with closing(postgres.connect(name)) as connection:
        connection.execute("BEGIN")
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        yield connection


def wait_for(postgres: PostgresServer, name: str, event: str) -> int:
    """Wait until a backend of this database waits for ``event`` and return its process id."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND %s IN (wait_event_type, wait_event)"
    deadline = time.monotonic() + PATIENCE_SECONDS
    with postgres.connect() as connection:
        while time.monotonic() < deadline:
            found = connection.execute(query, (name, event)).fetchone()
            if found is not None:
                return int(found[0])
            time.sleep(GLANCE_SECONDS)
    raise AssertionError(f"nobody waits for {event}")


def asked_in_the_middle_of_a_restart(
    postgres: PostgresServer, name: str, client: httpx.Client, method: str, path: str, **more: object
) -> httpx.Response:
    """Send a request, kill the server while it runs a statement of it, start it again."""
    with ThreadPoolExecutor(1) as pool:
        with standing_still(postgres, name):
            answer: Future[httpx.Response] = pool.submit(client.request, method, path, **more)  # type: ignore[arg-type]
            wait_for(postgres, name, "Lock")
            postgres.kill()
        postgres.restart()
        return answer.result()


def num_requests(world: World) -> int:
    with reading(world.sessions) as session:
        return session.query(Request).count()


def test_connections_that_died_while_idle_are_replaced_unnoticed(
    postgres: PostgresServer, admin: httpx.Client
) -> None:
    assert admin.get("/deletions").status_code == 200
    postgres.kill()
    postgres.restart()
    assert admin.get("/deletions").status_code == 200
    assert admin.post("/deletions", json={"subject_id": "ann"}).status_code == 202


def test_a_read_in_the_middle_of_a_restart_is_answered(
    postgres: PostgresServer, name: str, admin: httpx.Client
) -> None:
    answer = asked_in_the_middle_of_a_restart(postgres, name, admin, "GET", "/deletions")
    assert (answer.status_code, answer.json()["items"]) == (200, [])


def test_a_post_in_the_middle_of_a_restart_is_one_request(
    postgres: PostgresServer, name: str, admin: httpx.Client, world: World
) -> None:
    answer = asked_in_the_middle_of_a_restart(
        postgres, name, admin, "POST", "/deletions", json={"subject_id": "ann"}
    )
    assert answer.status_code == 202
    assert world.request(answer.json()["id"]).status == "received"
    assert num_requests(world) == 1


def test_a_post_whose_commit_was_never_confirmed_is_one_request(
    postgres: PostgresServer, name: str, admin: httpx.Client, world: World
) -> None:
    # Committed here, but the server keeps silent until a standby that does not exist has it too.
    with postgres.connect(name) as connection, ThreadPoolExecutor(1) as pool:
        connection.execute(COMMITS_WAIT)
        connection.execute("SELECT pg_reload_conf()")
        answer = pool.submit(admin.post, "/deletions", json={"subject_id": "ann"})
        pid = wait_for(postgres, name, "SyncRep")
        connection.execute(COMMITS_PASS)
        connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
        connection.execute("SELECT pg_reload_conf()")
        posted = answer.result()
    assert posted.status_code == 202
    assert num_requests(world) == 1
    assert world.request(posted.json()["id"]).duplicate_of is None


def test_a_change_that_cannot_be_repeated_is_answered_503(
    postgres: PostgresServer, name: str, admin: httpx.Client, world: World
) -> None:
    world.trained(subjects={"ann": 1})
    with ThreadPoolExecutor(1) as pool, standing_still(postgres, name, table="models") as connection:
        answer = pool.submit(admin.put, "/models/churn/aliases/current", json={"version": 1})
        pid = wait_for(postgres, name, "Lock")
        connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
        refused = answer.result()
    problem_of(refused, 503, "database-unavailable")
    assert admin.put("/models/churn/aliases/current", json={"version": 1}).status_code == 200


def test_while_the_database_is_away_answers_are_503_and_afterwards_all_is_well(
    postgres: PostgresServer, settings: Settings, world: World
) -> None:
    impatient = create_app(settings, patience_seconds=0.5)
    with client_of(impatient, world.key(Scope.ADMIN)) as client:
        postgres.kill()
        asked = [("GET", "/deletions"), ("POST", "/deletions"), ("GET", "/models"), ("GET", "/readyz")]
        with ThreadPoolExecutor(len(asked)) as pool:
            answers = list(pool.map(lambda each: client.request(*each, json={"subject_id": "ann"}), asked))
        assert client.get("/livez").status_code == 200
        *others, ready = answers
        for answer in others:
            problem_of(answer, 503, "database-unavailable")
            assert int(answer.headers["Retry-After"]) > 0
        assert "database" in problem_of(ready, 503, "not-ready")["detail"]
        postgres.restart()
        assert client.post("/deletions", json={"subject_id": "ann"}).status_code == 202
        assert client.get("/readyz").status_code == 200
    impatient.state.context.engine.dispose()
    assert num_requests(world) == 1
