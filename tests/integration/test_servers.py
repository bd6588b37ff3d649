"""The servers that other tests rely on: killed they come back, and nothing of them outlives the tests."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.servers import PATIENCE_SECONDS, PostgresServer, RedisServer
from tests.support.service import processes_ended

ROOT = Path(__file__).parents[2]
# Starts both servers, says their process ids and waits to be killed.
BOTH = """
import signal, sys
from pathlib import Path
from tests.support.servers import PostgresServer, RedisServer
signal.signal(signal.SIGQUIT, signal.SIG_IGN)  # as in the background of a shell
folder = Path(sys.argv[1])
servers = PostgresServer.start(folder / "p"), RedisServer.start(folder / "r")
print(*(server.pid for server in servers), flush=True)
signal.pause()
"""


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    server = PostgresServer.start(tmp_path / "p", durable=True)
    yield server
    server.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer.start(tmp_path / "r")
    yield server
    server.stop()


def test_what_postgres_has_committed_outlives_its_kill(postgres: PostgresServer) -> None:
    postgres.create_database("original")
    with postgres.connect("original") as connection:
        connection.execute("CREATE TABLE kept (value int)")
        connection.execute("INSERT INTO kept VALUES (7)")
        postgres.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT * FROM kept")
    postgres.restart()
    postgres.create_database("copy", template="original")
    with postgres.connect("copy") as connection:
        assert connection.execute("SELECT * FROM kept").fetchall() == [(7,)]


def test_an_emptied_database_keeps_its_tables_and_counts_from_the_start(postgres: PostgresServer) -> None:
    postgres.create_database("shared")
    with postgres.connect("shared") as connection:
        connection.execute("CREATE TABLE parents (id serial PRIMARY KEY)")
        connection.execute("CREATE TABLE children (parent int REFERENCES parents)")
        connection.execute("INSERT INTO parents DEFAULT VALUES")
        connection.execute("INSERT INTO children VALUES (1)")
        postgres.empty("shared")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT * FROM parents")
    with postgres.connect("shared") as connection:
        assert connection.execute("SELECT * FROM children").fetchall() == []
        row = connection.execute("INSERT INTO parents DEFAULT VALUES RETURNING id").fetchone()
        assert row == (1,)


def test_a_killed_postgres_leaves_no_process(postgres: PostgresServer) -> None:
    postmaster = psutil.Process(postgres.pid)
    with postgres.connect():
        family = [postmaster, *postmaster.children(recursive=True)]
        assert len(family) > 2
        postgres.kill()
    assert processes_ended(family)


def test_redis_forgets_at_a_restart(broker: RedisServer) -> None:
    redis.Redis.from_url(broker.url).set("key", "value")
    broker.kill()
    broker.restart()
    assert redis.Redis.from_url(broker.url).get("key") is None


def test_a_persistent_redis_remembers_what_it_acknowledged(tmp_path: Path) -> None:
    server = RedisServer.start(tmp_path / "r", persistent=True)
    redis.Redis.from_url(server.url).set("key", "value")
    server.kill()
    server.restart()
    assert redis.Redis.from_url(server.url).get("key") == b"value"
    server.stop()


def test_redis_lets_nobody_in_without_its_password(broker: RedisServer) -> None:
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=broker.port, retry=Retry(NoBackoff(), 0)).ping()


def test_no_server_outlives_a_killed_test_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BOTH, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as run:
        assert run.stdout is not None
        servers = [psutil.Process(int(pid)) for pid in run.stdout.readline().split()]
        assert len(servers) == 2
        family = [*servers, *servers[0].children(recursive=True)]
        os.kill(run.pid, signal.SIGKILL)
    psutil.wait_procs(family, timeout=PATIENCE_SECONDS)
    assert processes_ended(family)
