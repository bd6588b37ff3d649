"""Fast first, exact before the deadline; or an empirical end where the policy says so in words."""

import json
from typing import Any

import pytest

from app.db.jobs import checkpoints_of
from app.db.session import reading
from app.db.tables import Job
from app.domain.errors import GateFailed, Refused
from app.domain.status import Guarantee, JobKind, JobStatus, Outcome, TargetStatus, VersionStatus
from app.domain.terms import Claim
from app.services.claim import fail
from app.signing import public_keys, verify
from models_store.manifest import Manifest
from tests.support.methods import Shatter, Shift
from tests.support.trained import Lab
from worker.unlearners import UNLEARNERS


@pytest.fixture(autouse=True)
def _methods(monkeypatch: pytest.MonkeyPatch) -> None:
    for method in (Shift(), Shatter()):
        monkeypatch.setitem(UNLEARNERS, method.name, method)


def evidence_of(lab: Lab) -> dict[str, Any]:
    """Return the evidence of the current version."""
    manifest = Manifest.from_bytes(lab.own.store.get(lab.version.manifest_digest))
    found: dict[str, Any] = json.loads(lab.own.store.get(manifest.evidence))
    return found


def receipts_of(lab: Lab, request: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what both forms of a receipt say of the only model."""
    receipt, keys = lab.world.receipt(request), public_keys(lab.own.keyring)
    parts = [verify(token, keys=keys)["models"] for token in (receipt.full_jws, receipt.product_jws)]
    (full,), (product,) = parts  # type: ignore[misc]
    return full, product  # type: ignore[return-value]


def refusals(lab: Lab, request: str) -> list[dict[str, Any]]:
    """Return what the trail of a request says about refused attempts."""
    return [event.body for event in lab.world.events(request) if event.name == "attempt_refused"]


def end_refused(lab: Lab, claim: Claim) -> str:
    """Run a job whose gate refuses its end, and end it as its process does."""
    with pytest.raises(GateFailed, match="utility: accuracy fell by") as refused:
        lab.finish(claim)
    fail(lab.own.sessions, claim, store=lab.own.store, error=str(refused.value), is_retryable=True)
    return str(refused.value)


def require_a_treated_end_and_then_an_exact_one(lab: Lab) -> None:
    """Treat one person for good, then delete another: the replay leaves out both."""
    first, second = lab.in_block(2)[0], lab.in_block(4)[0]
    expected = lab.straight_digest(without=[first, second])
    lab.set_policy(final_method=Shift.name, accept_empirical=True)
    request = lab.world.sealed(first)
    original, treated = lab.version, lab.work()
    assert (treated.covers, treated.settled) == (1, 0)
    assert [v.status for v in lab.versions] == [VersionStatus.PURGED, VersionStatus.PUBLISHED]
    assert not lab.own.store.has(original.weights_digest)
    with reading(lab.own.sessions) as session:
        assert max(row.position for row in checkpoints_of(session, lab.model_id)) == 1
    assert first not in lab.blocks
    (target,) = lab.world.targets(request)
    assert (target.status, target.outcome) == (TargetStatus.COMPLETED, Outcome.TREATED)

    claim = lab.settle_claim(second)
    context = lab.advance(claim, until="unlearn")
    prepared = context.output_of("prepare")
    assert prepared["method"] == "replay"
    assert prepared["scope"]["first_touched"] == {"0": 2}  # type: ignore[index, call-overload]
    lab.finish(context.claim)
    exact = lab.work()
    assert (exact.covers, exact.settled, exact.weights_digest) == (2, 2, expected)
    assert not lab.own.store.has(treated.weights_digest)
    assert lab.audit().is_equal


def test_a_treated_person_is_purged_and_the_next_deletion_settles_them_exactly(lab: Lab) -> None:
    require_a_treated_end_and_then_an_exact_one(lab)


def test_the_receipt_of_a_treated_person_says_so_and_no_more(lab: Lab) -> None:
    lab.set_policy(final_method=Shift.name, accept_empirical=True)
    held, unheld = lab.world.sealed(lab.in_block(2)[0]), lab.world.sealed("nobody we know")
    lab.work()
    full, product = receipts_of(lab, held)
    assert (full["outcome"], full["guarantee"], full["method"]) == ("treated", "empirical", "shift")
    assert full["statement"].startswith("treated by shift: an empirical method")
    assert full["num_records_erased"] > 0
    assert "treated by shift" in product["statement"]
    assert product["guarantee"] == "empirical"
    for words in (full["statement"], product["statement"]):
        assert not {"unlearned", "proven", "without"} & set(words.replace(":", "").split())
    assert product == receipts_of(lab, unheld)[1]
    with pytest.raises(Refused, match="version 2 is empirical"):
        lab.audit()


def test_an_empirical_version_shows_what_it_can_and_claims_no_lineage(lab: Lab) -> None:
    lab.set_policy(final_method=Shift.name, accept_empirical=True)
    lab.forget(lab.in_block(2)[0])
    checks = evidence_of(lab)["checks"]
    assert checks.keys() == {"as_served", "utility", "remainder", "person"}
    assert {name: check["gates"] for name, check in checks.items() if check["gates"]} == {
        "as_served": True, "utility": True,
    }  # fmt: skip


def test_a_policy_that_does_not_say_so_settles_nothing_empirically(lab: Lab) -> None:
    lab.set_policy(final_method=Shift.name)
    claim = lab.settle_claim(lab.in_block(2)[0])
    with pytest.raises(Refused, match="final_method: shift is empirical"):
        lab.finish(claim)
    assert lab.version.number == 1


def test_where_a_gate_refuses_the_empirical_end_the_same_job_goes_on_with_the_exact_one(lab: Lab) -> None:
    person = lab.in_block(2)[0]
    expected = lab.straight_digest(without=[person])
    lab.set_policy(final_method=Shatter.name, accept_empirical=True)
    request = lab.world.sealed(person)
    claim = lab.claim()
    assert claim is not None
    lab.finish(claim)
    assert lab.version.weights_digest == expected
    assert lab.versions[-1].guarantee == Guarantee.EXACT
    (told,) = refusals(lab, request)
    assert told["method"] == "shatter"
    figures = told["checks"]["utility"]["figures"]
    assert figures["after"]["retained"] < figures["before"]["retained"] - 0.02
    (attempt,) = lab.view(claim).outputs["refused"]["attempts"]  # type: ignore[index, call-overload]
    evidence = evidence_of(lab)
    assert evidence["refused"] == [attempt]
    assert {"witness", "lineage"} <= evidence["checks"].keys()
    assert attempt["checks"] == told["checks"]  # type: ignore[index, call-overload]
    full, _ = receipts_of(lab, request)
    assert (full["outcome"], full["guarantee"], full["method"]) == ("unlearned", "exact", "replay")
    assert lab.view(claim).num_attempts == 1


def test_where_the_policy_says_fail_the_job_ends_with_the_figures_and_the_target_failed(lab: Lab) -> None:
    lab.set_policy(final_method=Shatter.name, accept_empirical=True, when_gate_fails="fail")
    request = lab.world.sealed(lab.in_block(2)[0])
    claim = lab.claim()
    assert claim is not None
    problem = end_refused(lab, claim)
    (target,) = lab.world.targets(request)
    assert (target.status, target.reason, target.is_retryable) == (TargetStatus.FAILED, problem, True)
    assert len(refusals(lab, request)) == 1
    assert [v.number for v in lab.versions] == [1]
    assert lab.claim() is None


def test_an_interim_version_that_a_gate_refuses_is_told_once_and_the_exact_one_comes(lab: Lab) -> None:
    person = lab.in_block(2)[0]
    expected = lab.straight_digest(without=[person])
    lab.set_policy(interim_method=Shatter.name)
    request = lab.world.sealed(person)
    jobs = {claim.kind: claim for claim in (lab.claim(), lab.claim()) if claim is not None}
    end_refused(lab, jobs[JobKind.INTERIM])
    assert lab.version.number == 1
    assert [target.status for target in lab.world.targets(request)] == [TargetStatus.SCHEDULED]
    lab.finish(jobs[JobKind.SETTLE])
    assert lab.work().weights_digest == expected
    assert len(refusals(lab, request)) == 1
    with reading(lab.own.sessions) as session:
        jobs_by_kind = [(job.kind, job.status) for job in session.query(Job).order_by(Job.kind)]
    assert jobs_by_kind == [
        (JobKind.INTERIM, JobStatus.FAILED), (JobKind.SETTLE, JobStatus.SUCCEEDED),
        (JobKind.TRAIN, JobStatus.SUCCEEDED),
    ]  # fmt: skip


def test_told_twice_a_refusal_stands_there_once(lab: Lab) -> None:
    lab.set_policy(final_method=Shatter.name, accept_empirical=True, when_gate_fails="fail")
    request = lab.world.sealed(lab.in_block(2)[0])
    claim = lab.claim()
    assert claim is not None
    for _ in range(2):  # killed between the word and the end, it is taken up at the same step
        with pytest.raises(GateFailed):
            lab.finish(claim)
        view = lab.view(claim)
        assert view.status is JobStatus.RUNNING
        claim = Claim(**{**vars(claim), "step": view.step})
    assert len(refusals(lab, request)) == 1
