"""An interim job runs the same pipeline, is labelled for what it is, and gives way to the exact version."""

import json

import pytest

from app.db.models import alias_moves
from app.db.session import reading
from app.db.tables import Job
from app.domain.policy import EMPIRICAL_METHODS, EXACT_METHODS
from app.domain.status import Guarantee, JobKind, JobStatus, RequestStatus, TargetStatus, VersionStatus
from app.domain.terms import Claim
from models_store.manifest import Manifest
from tests.support.methods import Shift
from tests.support.trained import Lab
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
