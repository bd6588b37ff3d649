"""Deletions that wait share a job; it starts when its batch does, or when it must."""

import math

import pytest

from app.db.session import reading, writing
from app.db.tables import Job, Model, Request, Worker
from app.domain import policy as policy_rules
from app.domain.errors import PolicyRefused
from app.domain.policy import StitchRule
from app.domain.prior import DeletionPrior, PriorKind
from app.domain.scheduling import predicted_settle_seconds
from app.domain.status import JobKind
from app.domain.terms import JobId, ModelId
from app.services.change_policy import change_policy
from app.services.claim import claim_next
from app.services.schedule import schedule
from app.services.workers import WorkerFacts, report_alive, report_gone
from tests.support.world import ENVIRONMENT, World

HOUR = 3600.0
FACTS = WorkerFacts(owner="w", device_class="cpu", environment_digest=ENVIRONMENT)


@pytest.fixture
def model(world: World) -> ModelId:
    model = world.trained(subjects=dict.fromkeys("abcdefgh", 1), training_seconds=100.0)
    change_policy(world.sessions, "churn", {"batch_window_seconds": HOUR}, tenant=world.tenant)
    return model


def waiting(world: World) -> list[Job]:
    with reading(world.sessions) as session:
        return session.query(Job).filter(Job.kind == JobKind.SETTLE).all()


def is_claimed(world: World) -> bool:
    return (
        claim_next(world.sessions, store=world.store, owner="w", environment_digest=ENVIRONMENT) is not None
    )


def start_of(world: World, job_id: JobId | str) -> float:
    with reading(world.sessions) as session:
        start_at = session.get_one(Job, job_id).start_at
    assert start_at is not None
    return start_at


def test_deletions_of_one_window_share_a_job_that_waits_for_its_end(world: World, model: ModelId) -> None:
    first = world.sealed("a")
    (job,) = waiting(world)
    assert start_of(world, job.id) == pytest.approx(world.request(first).sealed_at + HOUR, abs=5)
    for name in "bcd":
        world.sealed(name)
    assert [row.id for row in waiting(world)] == [job.id]
    assert start_of(world, job.id) == job.start_at
    assert not is_claimed(world)
    with writing(world.sessions) as session:
        session.get_one(Job, job.id).start_at = 0.0
    assert is_claimed(world)


def test_enough_deletions_start_the_job_before_its_window_closes(world: World, model: ModelId) -> None:
    change_policy(world.sessions, "churn", {"batch_count": 3}, tenant=world.tenant)
    for name in "ab":
        world.sealed(name)
    assert not is_claimed(world)
    world.sealed("c")
    assert is_claimed(world)


def test_a_product_sees_nothing_before_the_window_could_have_closed(world: World, model: ModelId) -> None:
    request = world.request(world.post("a"))
    assert request.reveal_at == pytest.approx(request.posted_at + HOUR + predicted_settle_seconds(100.0))


def test_a_job_comes_forward_to_its_latest_safe_start(world: World, model: ModelId) -> None:
    report_alive(world.sessions, FACTS)
    request = world.sealed("a")
    (job,) = waiting(world)
    assert schedule(world.sessions).brought_forward == []  # thirty days are left
    seconds = 3 * predicted_settle_seconds(100.0)
    sealed_at = world.request(request).sealed_at or 0.0
    world.shift(request, due_at=sealed_at + seconds + 600)
    found = schedule(world.sessions)
    assert (found.brought_forward, found.late_seconds) == ([job.id], {})
    assert start_of(world, job.id) == pytest.approx(sealed_at + 600)
    assert schedule(world.sessions).brought_forward == []


def test_a_job_that_cannot_be_in_time_starts_at_once_and_is_foretold_to_be_late(
    world: World, model: ModelId
) -> None:
    request = world.sealed("a")
    (job,) = waiting(world)
    world.shift(request, due_at=world.request(request).sealed_at)
    late = schedule(world.sessions).late_seconds
    assert late[job.id] == pytest.approx(3 * predicted_settle_seconds(100.0), abs=5)
    assert is_claimed(world)


def test_jobs_of_two_models_share_the_workers_that_fit(world: World, model: ModelId) -> None:
    world.trained("other", subjects={"z": 1}, training_seconds=100.0)
    change_policy(world.sessions, "other", {"batch_window_seconds": HOUR}, tenant=world.tenant)
    seconds = 3 * predicted_settle_seconds(100.0)
    due_at = 2 * seconds + (world.request(world.sealed("a")).sealed_at or 0.0)
    world.sealed("z", models=["other"])
    with writing(world.sessions) as session:
        for job in session.query(Job).filter(Job.kind == JobKind.SETTLE):
            job.start_at = due_at + HOUR
    for request_id in _requests(world):
        world.shift(request_id, due_at=due_at)
    schedule(world.sessions)
    starts = sorted(start_of(world, job.id) for job in waiting(world))
    assert starts == pytest.approx([due_at - 2 * seconds, due_at - seconds])
    for owner in ("w", "v"):
        report_alive(world.sessions, WorkerFacts(owner, "cpu", ENVIRONMENT))
    with writing(world.sessions) as session:
        for job in session.query(Job).filter(Job.kind == JobKind.SETTLE):
            job.start_at = due_at + HOUR
    schedule(world.sessions)
    starts = sorted(start_of(world, job.id) for job in waiting(world))
    assert starts == pytest.approx([due_at - seconds, due_at - seconds])


def test_a_silent_worker_does_not_count_and_one_that_stops_is_gone(world: World) -> None:
    report_alive(world.sessions, FACTS)
    report_alive(world.sessions, FACTS)
    with writing(world.sessions) as session:
        assert session.query(Worker).count() == 1
    report_gone(world.sessions, "w")
    with writing(world.sessions) as session:
        assert session.query(Worker).count() == 0


def test_a_policy_without_a_window_lets_the_waiting_job_start(world: World, model: ModelId) -> None:
    world.sealed("a")
    assert not is_claimed(world)
    policy = change_policy(world.sessions, "churn", {"batch_window_seconds": 0}, tenant=world.tenant)
    assert policy.batch_window_seconds == 0
    assert is_claimed(world)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("batch_window_seconds", -1),
        ("batch_window_seconds", "soon"),
        ("batch_count", 0),
        ("max_drop", 2),
        ("final_method", "magic"),
        ("interim_method", "magic"),
        ("interim_method", "retrain"),
        ("accept_empirical", "perhaps"),
        ("when_gate_fails", "retry"),
        ("no_such_setting", 1),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name_and_changes_nothing(
    world: World, model: ModelId, setting: str, value: object
) -> None:
    with reading(world.sessions) as session:
        before = session.get_one(Model, model).policy
    with pytest.raises(PolicyRefused, match=setting.split("_")[0]):
        change_policy(world.sessions, "churn", {setting: value, "hold": True}, tenant=world.tenant)
    with reading(world.sessions) as session:
        assert session.get_one(Model, model).policy == before


PRIORS = {
    "prior.weights: give 4, one a block, not 3": {"kind": "weights", "weights": [1, 2, 3]},
    "prior: weights[2] must be 0 or more": {"kind": "weights", "weights": [1, 2, -3, 4]},
    "prior: weights must not all be 0": {"kind": "weights", "weights": [0, 0, 0, 0]},
    "prior.weights.1: ": {"kind": "weights", "weights": [1, "many", 3, 4]},
    "prior: half_life_blocks is missing": {"kind": "recency"},
    "prior.kind: ": {"kind": "late"},
    "prior.half_life: ": {"kind": "recency", "half_life": 3},
    "prior: ": "recency",
}


@pytest.mark.parametrize("problem", PRIORS)
def test_a_prior_that_does_not_fit_the_plan_is_refused_by_its_setting(
    world: World, model: ModelId, problem: str
) -> None:
    with pytest.raises(PolicyRefused) as refused:
        change_policy(world.sessions, "churn", {"prior": PRIORS[problem]}, tenant=world.tenant)
    assert str(refused.value).startswith(problem)


STITCHES = {
    "references must be true for stitching, unless checkpoints is all": {"interim_method": "stitch"},
    "stitch: epsilon must be a number above 0, not inf": {"stitch": {"epsilon": math.inf}},
    "stitch: epsilon must be a number above 0, not 0.0": {"stitch": {"epsilon": 0.0}},
    "stitch: min_points must be at least 8, not 7": {"stitch": {"min_points": 7}},
    "stitch: min_r_squared must lie between 0 and 1, not 1.5": {"stitch": {"min_r_squared": 1.5}},
    "stitch.min_points: 4 blocks have 3 before the last": {"interim_method": "stitch", "references": True},
}


@pytest.mark.parametrize("problem", STITCHES)
def test_a_rule_that_cannot_hold_is_refused_by_its_setting(
    world: World, model: ModelId, problem: str
) -> None:
    with pytest.raises(PolicyRefused) as refused:
        change_policy(world.sessions, "churn", STITCHES[problem], tenant=world.tenant)
    assert str(refused.value).startswith(problem)


def test_more_checkpoints_than_the_plan_has_places_are_refused(world: World, model: ModelId) -> None:
    with pytest.raises(PolicyRefused, match=r"^checkpoint_count: 4 blocks have 3 places"):
        change_policy(world.sessions, "churn", {"checkpoint_count": 4}, tenant=world.tenant)


def test_a_prior_that_was_set_is_the_one_that_is_read_again(world: World, model: ModelId) -> None:
    weights = {"kind": "weights", "weights": [0, 1, 2, 3.5]}
    change_policy(world.sessions, "churn", {"prior": weights}, tenant=world.tenant)
    kept = change_policy(world.sessions, "churn", {"checkpoints": "prior"}, tenant=world.tenant)
    assert kept.prior == DeletionPrior(kind=PriorKind.WEIGHTS, weights=(0, 1, 2, 3.5))


def test_of_the_stitching_rule_only_what_is_named_changes(world: World, model: ModelId) -> None:
    whole = {"epsilon": 2.0, "min_points": 14, "min_r_squared": 0.9}
    change_policy(world.sessions, "churn", {"stitch": whole}, tenant=world.tenant)
    kept = change_policy(world.sessions, "churn", {"stitch": {"epsilon": 0.4}}, tenant=world.tenant)
    assert kept.stitch == StitchRule(epsilon=0.4, min_points=14, min_r_squared=0.9)
    with pytest.raises(PolicyRefused, match=r"^stitch.epsilom: "):
        change_policy(world.sessions, "churn", {"stitch": {"epsilom": 0.4}}, tenant=world.tenant)


def test_an_empirical_final_method_needs_the_word_for_it(
    world: World, model: ModelId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_rules, "EMPIRICAL_METHODS", ("shift",))
    with pytest.raises(PolicyRefused, match=r"^final_method: shift is empirical"):
        change_policy(world.sessions, "churn", {"final_method": "shift"}, tenant=world.tenant)
    accepted = {"final_method": "shift", "accept_empirical": True}
    assert change_policy(world.sessions, "churn", accepted, tenant=world.tenant).settles_empirically


def _requests(world: World) -> list[str]:
    with reading(world.sessions) as session:
        return [request.id for request in session.query(Request)]
