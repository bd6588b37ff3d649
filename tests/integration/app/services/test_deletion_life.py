"""The life of a deletion through the services, with a stand-in for the training."""

from pathlib import Path

import pytest

from app.db.jobs import fenced
from app.db.models import versions_of
from app.db.session import reading
from app.db.tables import Record, Tombstone
from app.domain.errors import CoverageWouldFall, LeaseLost
from app.domain.receipts import not_reached_by
from app.domain.status import JobStatus, Outcome, RequestKind, RequestStatus, TargetStatus, VersionStatus
from app.domain.terms import Claim
from app.services.claim import fail, finish, finish_step, job_view
from app.services.close import close_ready
from app.services.events import broken_at
from app.services.prepare import fix_scope
from app.services.purge import purge
from app.services.retry import retry_failed
from app.services.seal import seal
from app.signing import public_keys, verify
from tests.support.world import World


def _settle(world: World, tmp_path: Path, *, weights: bytes = b"weights 2") -> Claim:
    claim = world.claim()
    scope = fix_scope(world.sessions, claim)
    world.publish(claim, weights=weights)
    purge(world.sessions, claim, covers=scope.covers, store=world.store, scratch=tmp_path)
    return claim


def test_a_deletion_ends_with_a_new_version_and_the_old_one_purged(world: World, tmp_path: Path) -> None:
    model = world.trained(subjects={"ann": 3, "bob": 2})
    request_id = world.sealed("ann")
    claim = _settle(world, tmp_path)
    assert world.close(request_id)
    finish(world.sessions, claim, output={}, store=world.store)

    with reading(world.sessions) as session:
        old, new = versions_of(session, model)
        assert (old.status, new.status) == (VersionStatus.PURGED, VersionStatus.PUBLISHED)
        assert not world.store.has(old.weights_digest)
        assert not world.store.has(old.manifest_digest)
        assert world.store.get(new.weights_digest) == b"weights 2"
        assert session.query(Record).count() == 2
        assert all((mark.row, mark.request_id) == (None, None) for mark in session.query(Tombstone))
    target = world.targets(request_id)[0]
    assert (target.status, target.outcome, target.num_records) == (
        TargetStatus.COMPLETED,
        Outcome.UNLEARNED,
        3,
    )
    request = world.request(request_id)
    assert request.status == RequestStatus.COMPLETED
    assert (request.subject_refs, request.record_refs) == (None, None)
    assert [rows for _, rows in world.erased] == [[0, 1, 2]]


def test_both_forms_of_the_receipt_verify_and_only_the_full_one_tells_the_versions(
    world: World, tmp_path: Path
) -> None:
    world.trained(subjects={"ann": 3, "bob": 2})
    request_id = world.sealed("ann")
    _settle(world, tmp_path)
    world.close(request_id)
    receipt = world.receipt(request_id)
    keys = public_keys(world.keyring)
    product, full = verify(receipt.product_jws, keys=keys), verify(receipt.full_jws, keys=keys)
    assert full["models"][0]["outcome"] == "unlearned"
    assert full["models"][0]["num_records_erased"] == 3
    assert full["models"][0]["purged"]["versions"] == [full["models"][0]["version_before"]]
    assert full["models"][0]["remains"] == []
    assert set(product) == {
        "type", "form", "request", "kind", "commitment", "posted_at", "due_at", "not_reached",
        "visible_at", "models",
    }  # fmt: skip
    assert product["not_reached"] == not_reached_by(RequestKind.DELETION)


def test_the_trail_is_chained_and_says_what_happened(world: World, tmp_path: Path) -> None:
    world.trained(subjects={"ann": 1, "bob": 2})
    request_id = world.sealed("ann")
    _settle(world, tmp_path)
    world.close(request_id)
    events = world.events(request_id)
    moves = ["target_running", "target_purging", "target_completed"]
    assert [event.name for event in events] == ["received", "scheduled", *moves, "completed"]
    assert [event.body.get("model") for event in events] == [None, None, "churn", "churn", "churn", None]
    assert (events[3].body["version"], events[4].body["outcome"]) == (2, "unlearned")
    assert broken_at(events) is None
    events[1].at += 1
    assert broken_at(events) == 2


def test_publishing_purging_and_closing_twice_is_once(world: World, tmp_path: Path) -> None:
    model = world.trained(subjects={"ann": 1, "bob": 2})
    request_id = world.sealed("ann")
    claim = _settle(world, tmp_path)
    first = world.targets(request_id)[0].findings
    again = world.publish(claim, weights=b"weights 2")
    purge(world.sessions, claim, covers=1, store=world.store, scratch=tmp_path)
    assert again.number == 2
    assert world.targets(request_id)[0].findings == first
    assert world.close(request_id)
    assert not world.close(request_id)
    with reading(world.sessions) as session:
        assert [version.number for version in versions_of(session, model)] == [1, 2]
    assert len(world.erased) == 1


def test_posting_the_same_subject_again_seals_no_second_tombstone(world: World, tmp_path: Path) -> None:
    model = world.trained(subjects={"ann": 2, "bob": 2})
    first, second = world.sealed("ann"), world.sealed("ann")
    assert world.tombstones(model) == [(1, 0, 0), (2, 0, 1)]
    _settle(world, tmp_path)
    assert [world.close(first), world.close(second)] == [True, True]
    assert world.request(second).duplicate_of == first


def test_the_full_receipt_names_the_version_that_covered_a_request_already(
    world: World, tmp_path: Path
) -> None:
    world.trained(subjects={"ann": 1, "bob": 2})
    world.sealed("ann")
    finish(world.sessions, _settle(world, tmp_path), output={}, store=world.store)
    request_id = world.sealed("ann")
    claim = world.claim()
    assert fix_scope(world.sessions, claim).is_covered
    purge(world.sessions, claim, covers=1, store=world.store, scratch=tmp_path)
    assert world.close(request_id)
    full = verify(world.receipt(request_id).full_jws, keys=public_keys(world.keyring))
    stated = full["models"][0]
    assert (stated["outcome"], stated["version"], stated["method"]) == ("already_covered", 2, "replay")
    assert (stated["guarantee"], stated["evidence"]) == ("exact", "b" * 64)
    assert stated["weights_digest"] == world.digest(b"weights 2")


def test_a_subject_that_no_model_holds_completes_without_a_job(world: World) -> None:
    world.trained(subjects={"bob": 2})
    request_id = world.sealed("nobody")
    assert world.close(request_id)
    assert world.targets(request_id)[0].outcome == Outcome.NO_DATA


def test_a_request_with_no_model_at_all_completes(world: World) -> None:
    assert world.close(world.sealed("ann"))


def test_record_bytes_stay_while_another_model_on_the_dataset_uses_them(world: World, tmp_path: Path) -> None:
    dataset = world.dataset("people", subjects={"ann": 1, "bob": 1})
    for name in ("one", "two"):
        model = world.model(name, dataset=dataset, num_records=2)
        world.train(model, name=name, weights=name.encode())
    request_id = world.sealed("ann", models=["one"])
    claim = world.claim()
    world.publish(claim, name="one", weights=b"one without ann")
    purge(world.sessions, claim, covers=1, store=world.store, scratch=tmp_path)
    assert world.close(request_id)
    assert world.erased == []
    full = verify(world.receipt(request_id).full_jws, keys=public_keys(world.keyring))
    assert full["models"][0]["remains"] == ["the record bytes, used by two"]


def test_a_blob_that_a_clean_version_shares_survives_the_purge(world: World, tmp_path: Path) -> None:
    world.trained(subjects={"ann": 1, "bob": 1}, weights=b"same bytes")
    world.sealed("ann")
    _settle(world, tmp_path, weights=b"same bytes")
    assert world.store.get(world.digest(b"same bytes")) == b"same bytes"


def test_a_stale_claim_writes_nothing(world: World, tmp_path: Path) -> None:
    model = world.trained(subjects={"ann": 1, "bob": 1})
    request_id = world.sealed("ann")
    stale = world.claim()
    world.expire(stale)
    fresh = world.claim(owner="another")
    assert (fresh.job_id, fresh.fence) == (stale.job_id, stale.fence + 1)
    with pytest.raises(LeaseLost):
        world.publish(stale, weights=b"late")
    with pytest.raises(LeaseLost):
        purge(world.sessions, stale, covers=1, store=world.store, scratch=tmp_path)
    with pytest.raises(LeaseLost):
        finish_step(world.sessions, stale, next_step="publish", output={})
    with pytest.raises(LeaseLost):
        fail(world.sessions, stale, store=world.store, error="late", is_retryable=True)
    with reading(world.sessions) as session:
        assert len(versions_of(session, model)) == 1
        assert fenced(session, fresh).step == "prepare"
    assert world.targets(request_id)[0].status == TargetStatus.SCHEDULED


def test_a_version_that_has_forgotten_less_is_never_published(world: World, tmp_path: Path) -> None:
    model = world.trained(subjects={"ann": 1, "bob": 1})
    world.sealed("ann")
    finish(world.sessions, _settle(world, tmp_path), output={}, store=world.store)
    world.sealed("bob")
    claim = world.claim()
    with pytest.raises(CoverageWouldFall):
        world.publish(claim, weights=b"weights 3", covers=0)
    with reading(world.sessions) as session:
        assert [version.number for version in versions_of(session, model)] == [1, 2]


def test_a_failed_job_fails_the_request_and_a_retry_completes_it(world: World, tmp_path: Path) -> None:
    model = world.trained(subjects={"ann": 1, "bob": 1})
    request_id = world.sealed("ann")
    claim = world.claim()
    fix_scope(world.sessions, claim)
    claim = finish_step(world.sessions, claim, next_step="publish", output={"covers": 1})
    fail(world.sessions, claim, store=world.store, error="a gate did not hold", is_retryable=True)
    assert world.request(request_id).status == RequestStatus.FAILED
    assert world.targets(request_id)[0].reason == "a gate did not hold"

    (retried,) = retry_failed(world.sessions, model)
    assert retry_failed(world.sessions, model) == []
    assert world.request(request_id).status == RequestStatus.SCHEDULED
    finish(world.sessions, _settle(world, tmp_path), output={}, store=world.store)
    assert world.close(request_id)
    assert job_view(world.sessions, retried).status is JobStatus.SUCCEEDED
    assert job_view(world.sessions, claim.job_id).status is JobStatus.FAILED


def test_sealing_twice_numbers_once(world: World) -> None:
    model = world.trained(subjects={"ann": 2})
    request_id = world.sealed("ann")
    assert seal(world.sessions, request_id) == []
    assert [number for number, _, _ in world.tombstones(model)] == [1, 2]


def test_a_published_request_is_not_closed_before_its_artifacts_are_purged(
    world: World, tmp_path: Path
) -> None:
    world.trained(subjects={"ann": 1, "bob": 1})
    request_id = world.sealed("ann")
    claim = world.claim()
    fix_scope(world.sessions, claim)
    world.publish(claim, weights=b"weights 2")
    # A worker's sweep runs while the job is between its steps publish and purge.
    assert close_ready(world.sessions, keyring=world.keyring, erase=world.erase) == []
    assert not world.close(request_id)

    purge(world.sessions, claim, covers=1, store=world.store, scratch=tmp_path)
    assert close_ready(world.sessions, keyring=world.keyring, erase=world.erase) == [request_id]


def test_a_retry_after_more_was_sealed_covers_all_of_it(world: World, tmp_path: Path) -> None:
    model = world.trained(subjects={"ann": 1, "bob": 1, "cat": 1})
    first = world.sealed("ann")
    claim = world.claim()
    scope = fix_scope(world.sessions, claim)
    world.publish(claim, weights=b"weights 2")
    fail(world.sessions, claim, store=world.store, error="the disk is gone", is_retryable=True)
    second = world.sealed("bob")
    retry_failed(world.sessions, model)

    again = world.claim()
    assert (scope.covers, fix_scope(world.sessions, again).covers) == (1, 2)
    assert world.publish(again, weights=b"weights 3").covers == 2
    purge(world.sessions, again, covers=2, store=world.store, scratch=tmp_path)
    assert world.close(first)
    assert world.close(second)
