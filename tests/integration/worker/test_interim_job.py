"""An interim job runs the same pipeline, is labelled for what it is, and gives way to the exact version."""

import json

import pytest

from app.db.models import alias_moves
from app.db.session import reading, writing
from app.db.tables import Job
from app.domain.policy import EMPIRICAL_METHODS, EXACT_METHODS
from app.domain.scheduling import MAX_ATTEMPTS_WITHOUT_PROGRESS
from app.domain.status import Guarantee, JobKind, JobStatus, RequestStatus, TargetStatus, VersionStatus
from app.domain.terms import Claim
from app.services.claim import fail, release
from app.services.close import close_ready
from models_store.manifest import Manifest
from tests.support.methods import Shift
from tests.support.trained import Lab
from worker.context import JobContext
from worker.unlearners import UNLEARNERS


@pytest.fixture
def shifting(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A trained model whose policy publishes an interim version first."""
    monkeypatch.setitem(UNLEARNERS, Shift.name, Shift())
    lab.set_policy(interim_method=Shift.name)
    return lab


def claims(lab: Lab) -> dict[JobKind, Claim]:
    """Claim the settle job and the interim job of one deletion."""
    found = [lab.claim(), lab.claim()]
    return {claim.kind: claim for claim in found if claim is not None}


def test_one_worker_alone_makes_the_interim_version_first(shifting: Lab) -> None:
    shifting.world.sealed(shifting.in_block(2)[0])
    shifting.work()
    assert [row.guarantee for row in shifting.versions[1:]] == [Guarantee.EMPIRICAL, Guarantee.EXACT]


def test_an_interim_version_comes_first_and_the_exact_one_purges_it(shifting: Lab) -> None:
    person = shifting.in_block(2)[0]
    expected = shifting.straight_digest(without=[person])
    request = shifting.world.sealed(person)
    jobs = claims(shifting)
    shifting.finish(jobs[JobKind.INTERIM])
    interim = shifting.versions[-1]
    assert (interim.covers, interim.settled, interim.guarantee) == (1, 0, Guarantee.EMPIRICAL)
    assert shifting.version.number == interim.number
    manifest = Manifest.from_bytes(shifting.own.store.get(interim.manifest_digest))
    checks = json.loads(shifting.own.store.get(manifest.evidence))["checks"]
    assert "as_served" in checks
    assert not {"lineage", "witness"} & checks.keys()
    assert [target.status for target in shifting.world.targets(request)] == [TargetStatus.INTERIM]

    shifting.finish(jobs[JobKind.SETTLE])
    shifting.work()
    assert shifting.version.weights_digest == expected
    assert [row.status for row in shifting.versions] == [
        VersionStatus.PURGED, VersionStatus.PURGED, VersionStatus.PUBLISHED,
    ]  # fmt: skip
    assert shifting.world.request(request).status == RequestStatus.COMPLETED
    assert shifting.audit().is_equal


def test_an_exact_version_that_was_overtaken_ends_under_an_interim_one(shifting: Lab) -> None:
    first, second = shifting.in_block(4)[0], shifting.in_block(1)[0]
    exact = shifting.straight_digest(without=[first])
    both = shifting.straight_digest(without=[first, second])
    shifting.world.sealed(first)
    jobs = claims(shifting)
    context = shifting.advance(jobs[JobKind.SETTLE], until="publish")
    shifting.world.sealed(second)
    shifting.finish(jobs[JobKind.INTERIM])  # it takes up both
    shifting.finish(context.claim)
    staged = shifting.versions[-1]
    assert (staged.status, staged.covers, staged.weights_digest) == (VersionStatus.STAGED, 1, exact)
    assert (shifting.version.covers, shifting.version.settled) == (2, 0)
    version = shifting.work()
    assert (version.covers, version.settled, version.weights_digest) == (2, 2, both)
    with reading(shifting.own.sessions) as session:
        assert {job.status for job in session.query(Job)} == {JobStatus.SUCCEEDED}
    history = [(row.covers, row.settled) for row in shifting.versions]
    assert history == [(0, 0), (2, 0), (1, 1), (2, 1), (2, 2)]
    assert {row.status for row in shifting.versions[:-1]} == {VersionStatus.PURGED}


def test_an_interim_version_that_is_ready_after_the_exact_one_is_never_served(shifting: Lab) -> None:
    person = shifting.in_block(2)[0]
    expected = shifting.straight_digest(without=[person])
    shifting.world.sealed(person)
    jobs = claims(shifting)
    late = shifting.advance(jobs[JobKind.INTERIM], until="publish")
    weights = late.output_of("verify")["files"]
    assert isinstance(weights, list)
    shifting.finish(jobs[JobKind.SETTLE])
    shifting.finish(late.claim)
    assert shifting.work().weights_digest == expected
    with reading(shifting.own.sessions) as session:
        moves = alias_moves(session, shifting.model_id, alias="current")
    assert [move.to_number for move in moves] == [1, 2]
    assert [(row.covers, row.settled) for row in shifting.versions] == [(0, 0), (1, 1)]
    assert not any(shifting.own.store.has(str(digest)) for digest in weights)


def test_the_policy_knows_the_methods_of_the_registry() -> None:
    exact = {name for name, method in UNLEARNERS.items() if method.guarantee is Guarantee.EXACT}
    assert (exact, set(UNLEARNERS) - exact) == (set(EXACT_METHODS), set(EMPIRICAL_METHODS))


def what_it_made(context: JobContext) -> list[str]:
    blobs = context.output_of("unlearn")["constituents"]
    assert isinstance(blobs, list)
    return [str(blob) for blob in blobs]


def test_what_a_failing_interim_job_made_is_gone_before_the_request_is_completed(shifting: Lab) -> None:
    request = shifting.world.sealed(shifting.in_block(2)[0])
    jobs = claims(shifting)
    late = shifting.advance(jobs[JobKind.INTERIM], until="verify")
    made = what_it_made(late)
    assert all(map(shifting.own.store.has, made))
    shifting.finish(jobs[JobKind.SETTLE])
    fail(
        shifting.own.sessions, late.claim, error="a gate refused it", is_retryable=True,
        store=shifting.own.store,
    )  # fmt: skip
    assert not any(map(shifting.own.store.has, made))
    shifting.work()
    assert shifting.world.request(request).status == RequestStatus.COMPLETED


def test_what_an_interim_job_made_goes_with_its_last_attempt(shifting: Lab) -> None:
    shifting.world.sealed(shifting.in_block(2)[0])
    jobs = claims(shifting)
    late = shifting.advance(jobs[JobKind.INTERIM], until="verify")
    shifting.finish(jobs[JobKind.SETTLE])
    with writing(shifting.own.sessions) as session:
        job = session.get_one(Job, late.claim.job_id)
        job.num_without_progress = MAX_ATTEMPTS_WITHOUT_PROGRESS
    release(shifting.own.sessions, late.claim, error="it died")
    assert shifting.claim() is None
    assert shifting.view(late.claim).status is JobStatus.FAILED
    assert not any(map(shifting.own.store.has, what_it_made(late)))


def test_nothing_is_completed_while_an_interim_job_at_its_publication_holds_what_it_made(
    shifting: Lab,
) -> None:
    request = shifting.world.sealed(shifting.in_block(2)[0])
    jobs = claims(shifting)
    late = shifting.advance(jobs[JobKind.INTERIM], until="publish")
    shifting.finish(jobs[JobKind.SETTLE])
    own = shifting.own
    while close_ready(own.sessions, keyring=own.keyring, erase=own.erase):
        pass
    assert shifting.world.request(request).status != RequestStatus.COMPLETED
    shifting.finish(late.claim)
    assert not any(map(own.store.has, what_it_made(late)))
    shifting.work()
    assert shifting.world.request(request).status == RequestStatus.COMPLETED


@pytest.mark.parametrize("step", ["verify", "publish"])
def test_an_interim_job_that_an_exact_version_overtook_in_part_leaves_its_people_to_another(
    shifting: Lab, step: str
) -> None:
    first, second = shifting.in_block(4)[0], shifting.in_block(1)[0]
    shifting.world.sealed(first)
    jobs = claims(shifting)
    settle = shifting.advance(jobs[JobKind.SETTLE], until="publish")  # its n is 1
    shifting.set_policy(batch_window_seconds=86_400.0)
    request = shifting.world.sealed(second)
    late = shifting.advance(jobs[JobKind.INTERIM], until=step)  # its n is 2, made from version 1
    shifting.finish(settle.claim)
    shifting.finish(late.claim)
    view = shifting.view(late.claim)
    assert (view.status, view.error) == (JobStatus.SUCCEEDED, None)
    assert not any(map(shifting.own.store.has, what_it_made(late)))
    again = shifting.claim()
    assert again is not None
    assert again.kind is JobKind.INTERIM
    shifting.finish(again)
    newest = shifting.versions[-1]
    assert (newest.covers, newest.settled, newest.guarantee) == (2, 1, Guarantee.EMPIRICAL)
    assert shifting.version.number == newest.number
    assert [target.status for target in shifting.world.targets(request)] == [TargetStatus.INTERIM]


def test_whoever_has_an_interim_version_counts_among_those_who_wait_for_the_exact_one(shifting: Lab) -> None:
    shifting.set_policy(batch_window_seconds=86_400.0, batch_count=2)
    for block, kinds in ((2, {JobKind.INTERIM}), (4, {JobKind.INTERIM, JobKind.SETTLE})):
        shifting.world.sealed(shifting.in_block(block)[0])
        found = claims(shifting)
        assert found.keys() == kinds
        shifting.finish(found[JobKind.INTERIM])
