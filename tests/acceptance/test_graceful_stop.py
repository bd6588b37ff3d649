"""SIGTERM in the middle of a job hands the job back; it is no failed attempt, and the next worker ends it."""

from collections.abc import Callable

from tests.acceptance.conftest import Story, forgotten_subject
from tests.support.kills import caught_in, waiting_job
from tests.support.service import Home


def test_a_stopped_worker_hands_its_job_back_and_the_next_one_finishes_it(
    trained: Home, story: Story, copy_of: Callable[[Home], Home]
) -> None:
    home = copy_of(trained)
    worker = home.worker()
    with home.service() as service:
        deletion = service.post(forgotten_subject(home).id)["id"]
        job_id = waiting_job(home, "settle")
        caught_in(home, job_id, "unlearn").let_go()
        assert worker.stop() == 0
        home.wait_for("the end of all that the worker had started", lambda: not worker.family())
        (job,) = home.rows("SELECT * FROM jobs WHERE id = ?", job_id)
        assert (job["status"], job["owner"], job["num_attempts"], job["error"]) == ("running", None, 0, None)
        assert job["num_without_progress"] == 0

        home.worker()
        service.wait_until_completed(deletion)
        assert service.version("digits", 2)["weights_digest"] == story.weights_digest
    assert home.one("SELECT num_attempts FROM jobs WHERE id = ?", job_id) == 1
