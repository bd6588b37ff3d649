"""Celery on Redis tells workers of jobs in PostgreSQL: whatever is lost or doubled, each job runs once."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from app.dispatch import Messages, queue_of
from app.domain.terms import JobId
from tests.support.fleet import Fleet
from tests.support.people import subject_in
from tests.support.recipes import write_recipe
from tests.support.servers import PostgresServer, RedisServer
from tests.support.service import Process, Service

pytestmark = pytest.mark.xdist_group("test_celery")  # they share what takes seconds to start

NEVER_SECONDS = "3600"
NUM_DUPLICATES = 6  # an idle worker takes one a second
FACTORY = (
    'factory = "worker.training.nets:mlp"\narguments = { in_features = 64, num_classes = 10, hidden = [32] }'
)
SLOW = 'factory = "tests.support.bad_nets:Slow"\narguments = { seconds = 0.02 }'


@dataclass
class City:
    """A running service over both servers, and the subjects that nobody has forgotten yet."""

    service: Service
    postgres: PostgresServer
    redis: RedisServer
    num_forgotten: int = field(default=0)

    @property
    def home(self) -> Fleet:
        """The installation."""
        assert isinstance(self.service.home, Fleet)
        return self.service.home

    def worker(self, *, sweep_seconds: str = "1") -> Process:
        """Start a worker that looks around by itself at every sweep, and wait until it listens."""
        seconds = {"EXPUNGE_SWEEP_SECONDS": sweep_seconds}
        worker = self.home.begin("expunge-worker", "work", environment=seconds)
        log = self.home.logs / f"{worker.name}.err"
        self.home.wait_for("the worker", lambda: "Connected to redis" in log.read_text())
        return worker

    def post(self) -> str:
        """Post the deletion of a subject of an early block, whose replay takes seconds; return its id."""
        self.num_forgotten += 1
        subject = subject_in(self.home, block=1, number=self.num_forgotten)
        return str(self.service.post(subject.id)["id"])

    def job(self) -> Any:
        """Return the row of the newest job, which must be a settlement that has not ended."""
        query = "SELECT * FROM jobs WHERE kind = 'settle' AND status IN ('queued', 'running')"
        (job,) = self.home.wait_for("a settlement", lambda: self.home.rows(query))
        return job

    def job_in_the_middle(self) -> Any:
        """Return the job once its training has gone through a block."""

        def is_training() -> bool:
            job = self.job()
            return bool(job["step"] == "unlearn" and job["progress"].get("position"))

        self.home.wait_for("a training in the middle", is_training)
        return self.job()

    def ended(self, job: Any) -> Any:
        """Return the row of a job when it has come to its end, some moments after its requests."""
        query = "SELECT * FROM jobs WHERE id = ? AND status = 'succeeded'"
        (row,) = self.home.wait_for("the end of the job", lambda: self.home.rows(query, job["id"]))
        return row


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Iterator[City]:
    folder = tmp_path_factory.mktemp("city")
    # A kill loses what was committed but not yet handed to the kernel, unless a commit waits for that.
    postgres = PostgresServer.start(folder / "pg", settings={"synchronous_commit": "on"})
    redis = RedisServer.start(folder / "redis")
    home = Fleet(folder=folder / "home", database_url=postgres.create_database("city"), broker_url=redis.url)
    try:
        home.prepare()
        home.run("expunge-worker", "import", "digits", "--records-per-subject", "3")
        recipe = write_recipe(home, epochs=3, change=(FACTORY, SLOW))
        home.run("expunge-worker", "train", str(recipe))
        with home.service() as service:
            yield City(service=service, postgres=postgres, redis=redis)
    finally:
        home.close()
        redis.stop()
        postgres.stop()


def test_messages_set_a_worker_to_work_and_many_of_one_job_lead_to_one_version(city: City) -> None:
    worker = city.worker(sweep_seconds=NEVER_SECONDS)
    deletion = city.post()
    job = city.job_in_the_middle()
    messages = Messages(city.home.settings)
    for number in range(NUM_DUPLICATES):
        messages.announce(JobId(job["id"]), device_class=[None, "cpu"][number % 2])
    city.service.wait_until_completed(deletion)
    broker = redis.Redis.from_url(city.redis.url)
    queues = [queue_of(name) for name in (None, "cpu")]
    city.home.wait_for("the end of all messages", lambda: not any(map(broker.llen, queues)))
    assert worker.stop() == 0
    done = city.ended(job)
    assert (done["num_attempts"], done["fence"]) == (1, 1)
    assert city.home.one("SELECT count(*) FROM versions WHERE job_id = ?", job["id"]) == 1


def test_losing_all_of_redis_loses_no_job(city: City) -> None:
    worker = city.worker()
    city.redis.kill()
    city.service.wait_until_completed(city.post())
    city.redis.restart()
    city.service.wait_until_completed(city.post())
    city.redis.kill()
    assert worker.stop() == 0
    city.redis.restart()


def test_a_stopped_worker_hands_its_job_back_and_another_goes_on_there(city: City) -> None:
    worker = city.worker()
    deletion = city.post()
    city.job_in_the_middle()
    assert worker.stop() == 0
    job = city.job()
    assert (job["owner"], job["num_attempts"], job["error"]) == (None, 0, None)
    city.worker()
    city.service.wait_until_completed(deletion)
    done = city.ended(job)
    assert done["num_attempts"] == 1
    assert done["outputs"]["unlearn"]["resumed_after"][0] >= job["progress"]["position"]


def test_a_database_that_dies_in_the_middle_of_a_job_is_no_failed_attempt(city: City) -> None:
    city.worker()
    deletion = city.post()
    job = city.job_in_the_middle()
    city.postgres.kill()
    city.postgres.restart()
    city.service.wait_until_completed(deletion)
    assert city.ended(job)["num_attempts"] == 1
