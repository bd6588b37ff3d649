"""A hundred deletions posted at once against one model are a handful of jobs, not a hundred."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.support.people import subjects_of
from tests.support.service import Home

NUM_DELETIONS, MOST_JOBS = 100, 3


def test_a_hundred_deletions_in_a_burst_are_settled_by_three_jobs_at_most(
    trained: Home, copy_of: Callable[[Home], Home]
) -> None:
    home = copy_of(trained)
    people = [subject.id for subject in subjects_of(home)[:NUM_DELETIONS]]
    home.worker()
    with home.service() as service:
        with ThreadPoolExecutor(8) as pool:
            deletions = [answer["id"] for answer in pool.map(service.post, people)]
        service.wait_until_completed(*deletions)
        shown = [service.show(deletion) for deletion in deletions]
    assert home.one("SELECT count(*) FROM jobs WHERE kind = 'settle'") <= MOST_JOBS
    assert home.one("SELECT num_sealed FROM models") == NUM_DELETIONS * 3
    assert all(one["completed_at"] < one["due_at"] for one in shown)
    assert json.loads(home.run("expunge-worker", "oracle", "digits", "--json").out)["is_equal"]
