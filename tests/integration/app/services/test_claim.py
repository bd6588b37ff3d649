"""Claims: one holder at a time, attempts that are counted, leases that end."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.db.session import writing
from app.db.tables import Job
from app.domain.errors import LeaseLost
from app.domain.scheduling import MAX_ATTEMPTS_WITHOUT_PROGRESS
from app.domain.status import JobKind, JobStatus
from app.services.claim import claim_next, finish, finish_step, heartbeat, job_view, release, report_progress
from tests.support.world import ENVIRONMENT, World


@pytest.fixture
def queued(world: World) -> World:
    model = world.model(dataset=world.dataset(subjects={"ann": 1}), num_records=1)
    world.queue(model, kind=JobKind.TRAIN)
    return world


def test_many_workers_get_one_job_once(queued: World) -> None:
    with ThreadPoolExecutor(6) as pool:
        claims = pool.map(
            lambda n: claim_next(queued.sessions, owner=f"w{n}", environment_digest=ENVIRONMENT), range(12)
        )
        assert len([claim for claim in claims if claim is not None]) == 1


def test_a_job_waits_for_a_worker_with_its_environment(queued: World) -> None:
    with writing(queued.sessions) as session:
        session.query(Job).one().environment_digest = "another"
    assert claim_next(queued.sessions, owner="w", environment_digest=ENVIRONMENT) is None
    assert claim_next(queued.sessions, owner="w", environment_digest="another") is not None


def test_a_settle_job_waits_for_the_training(queued: World) -> None:
    queued.sealed("ann")
    claim = queued.claim()
    assert claim.kind is JobKind.TRAIN
    assert claim_next(queued.sessions, owner="w", environment_digest=ENVIRONMENT) is None
    finish(queued.sessions, claim, output={}, store=queued.store)
    assert queued.claim().kind is JobKind.SETTLE


def test_a_heartbeat_keeps_the_job_until_another_has_claimed_it(queued: World) -> None:
    claim = queued.claim()
    queued.expire(claim)
    assert heartbeat(queued.sessions, claim)
    assert claim_next(queued.sessions, owner="other", environment_digest=ENVIRONMENT) is None
    queued.expire(claim)
    other = queued.claim(owner="other")
    assert not heartbeat(queued.sessions, claim)
    assert heartbeat(queued.sessions, other)


def test_a_released_job_is_claimed_again_at_its_step(queued: World) -> None:
    claim = finish_step(queued.sessions, queued.claim(), next_step="unlearn", output={"seen": 1})
    release(queued.sessions, claim, error=None, counts=False)
    again = queued.claim()
    view = job_view(queued.sessions, again.job_id)
    assert (again.step, view.num_attempts, view.outputs) == ("unlearn", 1, {"prepare": {"seen": 1}})
    release(queued.sessions, claim, error="too late", counts=True)
    report_progress(queued.sessions, again, {"share": 0.5})
    assert job_view(queued.sessions, again.job_id).progress == {"share": 0.5}


def test_a_job_that_dies_without_progress_fails_after_its_attempts(queued: World) -> None:
    for _ in range(MAX_ATTEMPTS_WITHOUT_PROGRESS):
        claim = queued.claim()
        queued.expire(claim)
    assert claim_next(queued.sessions, owner="w", environment_digest=ENVIRONMENT) is None
    view = job_view(queued.sessions, claim.job_id)
    assert (view.status, view.error) == (JobStatus.FAILED, "the lease of worker ran out")
    with pytest.raises(LeaseLost):
        report_progress(queued.sessions, claim, {})


def test_progress_gives_the_attempts_back(queued: World) -> None:
    for _ in range(3 * MAX_ATTEMPTS_WITHOUT_PROGRESS):
        claim = finish_step(queued.sessions, queued.claim(), next_step="unlearn", output={})
        queued.expire(claim)
    assert queued.claim().step == "unlearn"
