"""Interim versions: one rule of two numbers, whoever overtakes whom."""

from itertools import pairwise
from pathlib import Path

import pytest

from app.db.models import alias_moves, versions_of
from app.db.session import reading, writing
from app.db.tables import Job, Model
from app.domain.coverage import Coverage, may_follow
from app.domain.status import JobKind, JobStatus, Outcome, RequestStatus, TargetStatus, VersionStatus
from app.domain.terms import Claim, ModelId
from app.services.claim import claim_next, fail, finish, finish_step, job_view
from app.services.close import close_ready
from app.services.prepare import fix_scope
from app.services.publish import current_version, publish
from app.services.purge import purge
from tests.support.world import ENVIRONMENT, World


@pytest.fixture
def model(world: World) -> ModelId:
    model = world.trained(subjects={"ann": 1, "bob": 1, "eve": 1})
    with writing(world.sessions) as session:
        session.get_one(Model, model).policy = {"interim_method": "shift"}
    return model


def claim_of(world: World, kind: JobKind) -> Claim:
    """Claim the next job of a kind and fix its n."""
    with reading(world.sessions) as session:
        waiting = session.query(Job).filter(Job.kind == kind, Job.status != JobStatus.SUCCEEDED)
        only = waiting.order_by(Job.created_at).first()
        assert only is not None
    claim = claim_next(
        world.sessions, store=world.store, owner="w", environment_digest=ENVIRONMENT, only=only.id
    )
    assert claim is not None, kind
    scope = fix_scope(world.sessions, claim)
    output = {"covers": scope.covers, "scope": {"covers": scope.covers, "settled": scope.settled}}
    return finish_step(world.sessions, claim, next_step="unlearn", output=output)


def settle_to_end(world: World, claim: Claim, *, covers: int, scratch: Path) -> None:
    purge(world.sessions, claim, covers=covers, store=world.store, scratch=scratch)
    finish(world.sessions, claim, output={}, store=world.store)
    close_ready(world.sessions, keyring=world.keyring, erase=world.erase)


def pairs(world: World, model: ModelId) -> list[tuple[str, int, int]]:
    with reading(world.sessions) as session:
        return [(v.status, v.covers, v.settled) for v in versions_of(session, model)]


def require_rising(world: World, model: ModelId) -> None:
    """Along the history of the alias neither number ever fell."""
    with reading(world.sessions) as session:
        versions = {
            v.number: Coverage(covers=v.covers, settled=v.settled) for v in versions_of(session, model)
        }
        moves = alias_moves(session, model, alias="current")
    way = [versions[move.to_number] for move in moves]
    assert all(may_follow(before, after) for before, after in pairwise(way))


def test_an_interim_version_is_served_until_the_exact_one_replaces_it(
    world: World, model: ModelId, tmp_path: Path
) -> None:
    request_id = world.sealed("ann")
    interim = claim_of(world, JobKind.INTERIM)
    version = world.publish(interim, weights=b"interim")
    finish(world.sessions, interim, output={}, store=world.store)
    assert (version.covers, version.settled) == (1, 0)
    assert [target.status for target in world.targets(request_id)] == [TargetStatus.INTERIM]
    assert world.request(request_id).status == RequestStatus.RUNNING

    settle = claim_of(world, JobKind.SETTLE)
    world.publish(settle, weights=b"exact")
    settle_to_end(world, settle, covers=1, scratch=tmp_path)
    P, X = VersionStatus.PURGED, VersionStatus.PUBLISHED
    assert pairs(world, model) == [(P, 0, 0), (P, 1, 0), (X, 1, 1)]
    assert not world.store.has(world.digest(b"interim"))
    assert world.request(request_id).status == RequestStatus.COMPLETED
    require_rising(world, model)


def test_an_interim_version_that_comes_too_late_is_not_published(
    world: World, model: ModelId, tmp_path: Path
) -> None:
    world.sealed("ann")
    interim, settle = claim_of(world, JobKind.INTERIM), claim_of(world, JobKind.SETTLE)
    late = world.manifest(interim, name="churn", weights=b"late", covers=None)
    exact = world.publish(settle, weights=b"exact")
    settle_to_end(world, settle, covers=1, scratch=tmp_path)
    assert publish(world.sessions, interim, late, environment_digest=ENVIRONMENT) == exact
    finish(world.sessions, interim, output={}, store=world.store)
    assert [pair[1:] for pair in pairs(world, model)] == [(0, 0), (1, 1)]
    assert not world.store.has(world.digest(b"late"))


def overtaken(world: World) -> tuple[Claim, str, str]:
    """Let an interim version for two people come before the exact one for the first."""
    first = world.sealed("ann")
    settle = claim_of(world, JobKind.SETTLE)
    second = world.sealed("bob")
    interim = claim_of(world, JobKind.INTERIM)
    world.publish(interim, weights=b"interim for both")
    finish(world.sessions, interim, output={}, store=world.store)
    world.publish(settle, weights=b"exact for one", covers=1)
    return settle, first, second


def test_an_overtaken_exact_version_is_staged_until_an_interim_one_stands_on_it(
    world: World, model: ModelId, tmp_path: Path
) -> None:
    settle, first, second = overtaken(world)
    assert pairs(world, model)[-1] == (VersionStatus.STAGED, 1, 1)
    current = current_version(world.sessions, model)
    assert current is not None
    assert (current.covers, current.settled) == (2, 0)
    view = job_view(world.sessions, settle.job_id)
    assert (view.status, view.step) == (JobStatus.RUNNING, "purge")
    assert (
        claim_next(
            world.sessions, store=world.store, owner="w", environment_digest=ENVIRONMENT, only=settle.job_id
        )
        is None
    )

    again = claim_of(world, JobKind.INTERIM)
    world.publish(again, weights=b"interim on the exact one")
    finish(world.sessions, again, output={}, store=world.store)
    current = current_version(world.sessions, model)
    assert current is not None
    assert (current.covers, current.settled) == (2, 1)
    goes_on = claim_next(
        world.sessions, store=world.store, owner="w", environment_digest=ENVIRONMENT, only=settle.job_id
    )
    assert goes_on is not None
    assert goes_on.step == "purge"
    settle_to_end(world, goes_on, covers=1, scratch=tmp_path)
    assert world.targets(first)[0].outcome == Outcome.UNLEARNED
    assert world.request(first).status == RequestStatus.COMPLETED
    assert world.targets(second)[0].status == TargetStatus.INTERIM
    for gone in (b"weights 1", b"interim for both"):
        assert not world.store.has(world.digest(gone))

    last = claim_of(world, JobKind.SETTLE)
    world.publish(last, weights=b"exact for both")
    settle_to_end(world, last, covers=2, scratch=tmp_path)
    assert world.request(second).status == RequestStatus.COMPLETED
    assert pairs(world, model)[-1] == (VersionStatus.PUBLISHED, 2, 2)
    assert [pair[0] for pair in pairs(world, model)[:-1]] == [VersionStatus.PURGED] * 4
    require_rising(world, model)


def test_when_no_interim_version_comes_the_next_settle_job_takes_over(
    world: World, model: ModelId, tmp_path: Path
) -> None:
    settle, first, second = overtaken(world)
    again = claim_of(world, JobKind.INTERIM)
    fail(
        world.sessions,
        again,
        store=world.store,
        error="utility: it has forgotten everything",
        is_retryable=True,
    )
    assert job_view(world.sessions, settle.job_id).status is JobStatus.SUCCEEDED
    last = claim_of(world, JobKind.SETTLE)
    world.publish(last, weights=b"exact for both")
    settle_to_end(world, last, covers=2, scratch=tmp_path)
    assert {world.request(one).status for one in (first, second)} == {RequestStatus.COMPLETED}
    assert not world.store.has(world.digest(b"exact for one"))
    require_rising(world, model)


def test_an_interim_job_that_reads_its_forget_set_keeps_the_bytes_until_its_end(
    world: World, model: ModelId, tmp_path: Path
) -> None:
    request_id = world.sealed("ann")
    interim, settle = claim_of(world, JobKind.INTERIM), claim_of(world, JobKind.SETTLE)
    world.publish(settle, weights=b"exact")
    settle_to_end(world, settle, covers=1, scratch=tmp_path)
    assert world.erased == []
    assert world.targets(request_id)[0].status == TargetStatus.PURGING
    fail(world.sessions, interim, store=world.store, error="too late", is_retryable=True)
    close_ready(world.sessions, keyring=world.keyring, erase=world.erase)
    assert len(world.erased) == 1
    assert world.request(request_id).status == RequestStatus.COMPLETED
