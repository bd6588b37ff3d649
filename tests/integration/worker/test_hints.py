"""What a broker does or fails to do: unsafe sets are refused, hints may come never, twice, or fifty times."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from app.dispatch import TIMEOUT_SECONDS, Messages, configure_dispatch, dispatch, open_celery, queue_of
from app.domain.errors import SetupError
from app.domain.terms import JobId
from app.services.seal import seal_due
from app.services.workers import WorkerFacts, report_alive
from app.settings import Settings, get_settings
from tests.integration.worker.test_children import only_job, with_settings
from tests.support.servers import RedisServer
from tests.support.trained import Lab
from worker.celery_app import open_worker_app, require_safe
from worker.supervisor import Supervisor

NOBODY_LISTENS = "redis://127.0.0.1:1/0"
DATABASE = "postgresql+psycopg://nobody@127.0.0.1:1/none"
JOB = JobId("job_1")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer.start(tmp_path / "redis")
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("task_always_eager", True, "task_always_eager must be False"),
        ("task_serializer", "pickle", "task_serializer must be 'json'"),
        ("accept_content", ["json", "pickle"], "accept_content must be"),
        ("accept_content", ["yaml"], "accept_content must be"),
        ("task_acks_late", True, "task_acks_late must be False"),
    ],
)
def test_an_unsafe_option_of_celery_is_refused_by_name(name: str, value: object, words: str) -> None:
    app = open_celery(Settings(broker_url=NOBODY_LISTENS))
    app.conf[name] = value
    with pytest.raises(SetupError, match=words):
        require_safe(app)


@pytest.mark.parametrize(
    "variable", ["CELERY_TASK_ALWAYS_EAGER", "CELERY_BROKER_URL", "CELERY_CONFIG_MODULE"]
)
def test_celery_is_set_up_by_nothing_but_our_own_settings(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(SetupError, match=f"unset {variable}"):
        open_worker_app(Settings(broker_url=NOBODY_LISTENS, database_url=DATABASE))


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("BROKER_URL", "sqla+sqlite:///broker.db", "redis:// or rediss://: kombu's SQL and filesystem"),
        ("BROKER_URL", "filesystem://", "redis:// or rediss://"),
        ("BROKER_URL", "amqp://guest@localhost", "redis:// or rediss://"),
        ("STOP_SECONDS", "0", "greater than 0"),
        ("SOFT_LIMIT_SECONDS", "-1", "greater than 0"),
        ("CHILD_MEMORY_BYTES", "lots", "valid integer"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_its_variable(
    variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"EXPUNGE_{variable}", value)
    get_settings.cache_clear()
    with pytest.raises(SetupError) as refused:
        get_settings()
    (line,) = str(refused.value).splitlines()
    assert f"EXPUNGE_{variable}" in line
    assert words in line
    assert value not in line.replace(words, "")


def test_a_broker_beside_an_sqlite_file_is_refused() -> None:
    with pytest.raises(SetupError, match="needs a PostgreSQL"):
        open_worker_app(Settings(broker_url=NOBODY_LISTENS))


def test_a_broker_that_does_not_answer_is_refused() -> None:
    with pytest.raises(SetupError, match=r"does not answer: .*refused"):
        open_worker_app(Settings(broker_url=NOBODY_LISTENS, database_url=DATABASE))


def test_a_wrong_password_is_refused_and_not_repeated(broker: RedisServer) -> None:
    url = broker.url.replace(broker.password, "guessed")
    with pytest.raises(SetupError, match="does not answer") as refused:
        open_worker_app(Settings(broker_url=url, database_url=DATABASE))
    assert "guessed" not in str(refused.value)


def test_a_hint_goes_to_the_queue_of_its_device_class_or_to_the_one_for_any(broker: RedisServer) -> None:
    configure_dispatch(Settings(broker_url=broker.url))
    dispatch(JOB)
    dispatch(JOB, device_class="cuda")
    configure_dispatch(Settings())
    dispatch(JOB)
    client = redis.Redis.from_url(broker.url)
    assert [client.llen(queue_of(name)) for name in (None, "cuda", "cpu")] == [1, 1, 0]
    client.close()


def test_a_job_is_announced_to_those_whose_environment_it_needs(lab: Lab, broker: RedisServer) -> None:
    (version,) = lab.versions
    for owner, name, digest in (("a", "cuda", version.environment_digest), ("b", "cpu", "0" * 64)):
        report_alive(lab.own.sessions, WorkerFacts(owner=owner, device_class=name, environment_digest=digest))
    configure_dispatch(Settings(broker_url=broker.url))
    lab.world.post(lab.in_block(2)[0])
    assert len(seal_due(lab.own.sessions)) == 1
    configure_dispatch(Settings())
    client = redis.Redis.from_url(broker.url)
    assert [client.llen(queue_of(name)) for name in (None, "cuda", "cpu")] == [0, 1, 0]
    client.close()


def test_a_broker_that_is_away_or_hangs_fails_nobody_and_keeps_nobody_waiting(broker: RedisServer) -> None:
    messages = Messages(Settings(broker_url=broker.url))
    messages.announce(JOB, device_class=None)
    broker.kill()
    started = time.monotonic()
    for _ in range(100):
        messages.announce(JOB, device_class=None)
    assert time.monotonic() - started < 3 * TIMEOUT_SECONDS


def test_fifty_hints_for_one_job_from_all_sides_lead_to_one_attempt_and_one_version(lab: Lab) -> None:
    person = lab.in_block(2)[0]
    lab.world.sealed(person)
    job = only_job(lab, kind="settle")
    workers = [Supervisor(with_settings(lab.own)) for _ in range(2)]
    with ThreadPoolExecutor(8) as threads:
        runs = [threads.submit(workers[number % 2].run_all, first=job.id) for number in range(50)]
    assert [run.result() for run in runs] == [None] * 50
    done = only_job(lab, kind="settle")
    assert (done.status, done.num_attempts) == ("succeeded", 1)
    assert [version.number for version in lab.versions] == [1, 2]
    assert lab.version.weights_digest == lab.straight_digest(without=[person])
