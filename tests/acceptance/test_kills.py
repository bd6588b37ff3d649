"""Kill -9 at every step, of the child and of the whole worker: same weights, one version, one receipt."""

from collections.abc import Callable

from tests.acceptance.conftest import Story, forgotten_subject
from tests.support.kills import Caught, Missed, caught_in, waiting_job
from tests.support.service import Home, Service, processes_ended

SETTLE_STEPS = ("unlearn", "verify", "publish", "purge", "attest")
NUM_TRIES = 3

Copy = Callable[[Home], Home]


def kill_worker(home: Home, caught: Caught) -> None:
    """Kill the worker; what it had started must notice, and another worker takes its place."""
    worker = next(process for process in home.processes if process.pid == caught.worker)
    family = worker.family()
    caught.kill_worker()
    home.wait_for("the end of all that the worker had started", lambda: processes_ended(family))
    home.worker()


def kill_twice(home: Home, job_id: str, step: str) -> None:
    """Kill the child of a job in a step and, when the step is tried again, the worker too."""
    caught_in(home, job_id, step).kill_child()
    kill_worker(home, caught_in(home, job_id, step))


def train_and_forget(home: Home, service: Service) -> None:
    """Kill during a training and at every step of a settlement; both must come to their ends."""
    kill_twice(home, waiting_job(home, "train"), "unlearn")
    home.wait_for("version 1", lambda: home.rows("SELECT id FROM versions"))
    deletion = service.post(forgotten_subject(home).id)["id"]
    settlement = waiting_job(home, "settle")
    for step in SETTLE_STEPS:
        kill_twice(home, settlement, step)
    service.wait_until_completed(deletion)
    home.wait_for(
        "the end of all jobs", lambda: not home.rows("SELECT 1 FROM jobs WHERE status != 'succeeded'")
    )


def killed_at_every_step(ordered: Home, copy_of: Copy) -> Home:
    """Return an installation in which every kill landed; one that came too late is tried again from anew."""
    for _ in range(NUM_TRIES):
        home = copy_of(ordered)
        try:
            home.worker()
            home.worker()
            with home.service() as service:
                train_and_forget(home, service)
            for process in home.processes:
                process.stop()
            return home
        except Missed:
            home.close()
    raise AssertionError(f"a kill came too late {NUM_TRIES} times\n{home.told()}")


def test_a_job_survives_the_death_of_its_child_and_of_its_worker_at_every_step(
    ordered: Home, story: Story, copy_of: Copy
) -> None:
    home = killed_at_every_step(ordered, copy_of)
    versions = home.rows("SELECT number, status, weights_digest FROM versions ORDER BY number")
    digests = [story.before["weights_digest"], story.weights_digest]
    assert [(row["number"], row["status"]) for row in versions] == [(1, "purged"), (2, "published")]
    assert [row["weights_digest"] for row in versions] == digests
    assert home.one("SELECT count(*) FROM receipts") == 1
    assert home.one("SELECT count(*) FROM jobs") == 2
    require_tidy(home)


def require_tidy(home: Home) -> None:
    """Nothing runs any more, and the store holds exactly the blobs that somebody needs."""
    home.wait_for("the end of every process", lambda: not any(own.family() for own in home.processes))
    needed = {row["digest"] for row in home.rows("SELECT digest FROM blob_references")}
    assert set(home.store_files()) == needed
    assert not list((home.path / "scratch").glob("*"))
