"""Claims: one holder at a time, attempts that are counted, leases that end."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine

from app.db.models import lock_model
from app.db.session import writing
from app.db.tables import Job
from app.domain.errors import LeaseLost
from app.domain.scheduling import MAX_ATTEMPTS, MAX_ATTEMPTS_WITHOUT_PROGRESS
from app.domain.status import JobKind, JobStatus
from app.domain.terms import Claim
from app.services.change_policy import change_policy
from app.services.claim import (
    claim_next,
    finish,
    finish_step,
    heartbeat,
    job_view,
    release,
    report_progress,
    waiting_for_environment,
)
from app.services.prepare import fix_scope
from tests.support.world import ENVIRONMENT, World


@pytest.fixture
def queued(world: World) -> World:
    model = world.model(dataset=world.dataset(subjects={"ann": 1}), num_records=1)
    world.queue(model, kind=JobKind.TRAIN)
    return world


def test_many_workers_get_one_job_once(queued: World) -> None:
    with ThreadPoolExecutor(6) as pool:
        claims = pool.map(
            lambda n: claim_next(
                queued.sessions, store=queued.store, owner=f"w{n}", environment_digest=ENVIRONMENT
            ),
            range(12),
        )
        assert len([claim for claim in claims if claim is not None]) == 1


def test_a_job_waits_for_a_worker_with_its_environment(queued: World) -> None:
    with writing(queued.sessions) as session:
        session.query(Job).one().environment_digest = "another"
    assert claim_next(queued.sessions, store=queued.store, owner="w", environment_digest=ENVIRONMENT) is None
    assert (
        claim_next(queued.sessions, store=queued.store, owner="w", environment_digest="another") is not None
    )


def test_a_settle_job_waits_for_the_training(queued: World) -> None:
    queued.sealed("ann")
    claim = queued.claim()
    assert claim.kind is JobKind.TRAIN
    assert claim_next(queued.sessions, store=queued.store, owner="w", environment_digest=ENVIRONMENT) is None
    finish(queued.sessions, claim, output={}, store=queued.store)
    assert queued.claim().kind is JobKind.SETTLE


def test_a_heartbeat_keeps_the_job_until_another_has_claimed_it(queued: World) -> None:
    claim = queued.claim()
    queued.expire(claim)
    assert heartbeat(queued.sessions, claim)
    assert (
        claim_next(queued.sessions, store=queued.store, owner="other", environment_digest=ENVIRONMENT) is None
    )
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
    for number in range(MAX_ATTEMPTS_WITHOUT_PROGRESS):
        claim = queued.claim()
        release(queued.sessions, claim, error=f"cause {number}")
    assert claim_next(queued.sessions, store=queued.store, owner="w", environment_digest=ENVIRONMENT) is None
    view = job_view(queued.sessions, claim.job_id)
    assert (view.status, view.error) == (JobStatus.FAILED, f"cause {number}")
    with pytest.raises(LeaseLost):
        report_progress(queued.sessions, claim, {})


def test_lost_nodes_are_no_failed_attempts_until_there_are_too_many(queued: World) -> None:
    for _ in range(MAX_ATTEMPTS):
        claim = queued.claim()
        queued.expire(claim)
    assert claim_next(queued.sessions, store=queued.store, owner="w", environment_digest=ENVIRONMENT) is None
    view = job_view(queued.sessions, claim.job_id)
    assert (view.status, view.error) == (JobStatus.FAILED, "the lease of worker ran out")


def test_a_lost_node_forgives_no_attempt_that_failed(queued: World) -> None:
    for _ in range(MAX_ATTEMPTS_WITHOUT_PROGRESS):
        queued.expire(queued.claim())
        release(queued.sessions, queued.claim(), error="it stopped")
    assert claim_next(queued.sessions, store=queued.store, owner="w", environment_digest=ENVIRONMENT) is None


def test_progress_gives_the_attempts_back(queued: World) -> None:
    for _ in range(3 * MAX_ATTEMPTS_WITHOUT_PROGRESS):
        claim = finish_step(queued.sessions, queued.claim(), next_step="unlearn", output={})
        queued.expire(claim)
    assert queued.claim().step == "unlearn"


def given_back(world: World) -> Claim:
    """A settle job that a worker began and handed over, and one more deletion behind it."""
    world.trained(subjects={"ann": 1, "bob": 1})
    world.sealed("ann")
    claim = world.claim()
    fix_scope(world.sessions, claim)
    claim = finish_step(world.sessions, claim, next_step="unlearn", output={})
    release(world.sessions, claim, error=None, counts=False)
    world.sealed("bob")
    return claim


def test_a_job_given_back_before_an_upgrade_is_named_and_begins_anew_by_another_policy(world: World) -> None:
    claim = given_back(world)
    upgraded = "f" * 64
    assert claim_next(world.sessions, store=world.store, owner="new", environment_digest=upgraded) is None
    assert claim.job_id in waiting_for_environment(world.sessions, environment_digest=upgraded)
    change_policy(world.sessions, "churn", {"final_method": "retrain"}, tenant=world.tenant)
    again = claim_next(world.sessions, store=world.store, owner="new", environment_digest=upgraded)
    assert again is not None
    assert (again.job_id, again.step) == (claim.job_id, "prepare")


def test_whoever_may_publish_need_not_be_able_to_train(world: World) -> None:
    given_back(world)
    claim = world.claim()
    claim = finish_step(world.sessions, claim, next_step="publish", output={})
    release(world.sessions, claim, error=None, counts=False)
    assert (
        claim_next(world.sessions, store=world.store, owner="other", environment_digest="f" * 64) is not None
    )


def test_what_the_end_of_a_job_sets_free_is_claimed_at_once(world: World) -> None:
    claim = given_back(world)
    with writing(world.sessions) as session:
        session.get_one(Job, claim.job_id).num_without_progress = MAX_ATTEMPTS_WITHOUT_PROGRESS
    following = world.claim()
    assert following.job_id != claim.job_id
    assert job_view(world.sessions, claim.job_id).status is JobStatus.FAILED


def test_a_stuck_transaction_stops_its_own_model_and_no_other(world: World, engine: Engine) -> None:
    first = world.trained("first", subjects={"ann": 1})
    second = world.trained("second", subjects={"bob": 1})
    for subject in ("ann", "bob"):
        world.sealed(subject)
    with world.sessions() as stuck:
        lock_model(stuck, first)  # a plain read on SQLite, where a stuck writer would stop everybody
        expected = second if engine.dialect.name == "postgresql" else first
        assert world.claim().model_id == expected
