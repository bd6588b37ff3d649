"""What failed is tried again and still ends exactly; what cannot be done stops nobody else."""

import os
import signal
from pathlib import Path

import pytest

from app.domain.status import JobStatus
from app.services.checkpoint import CheckpointFacts, register_checkpoint
from app.services.claim import fail, job_view, release
from app.services.close import close_ready
from app.services.retry import retry_failed
from models_store.blobs import digest_of
from tests.support.trained import Lab
from worker.data.abandoned import importing_folder, remove_abandoned


@pytest.mark.parametrize("step", ["unlearn", "verify", "publish"])
def test_a_retry_after_a_failure_at_any_step_settles_exactly(lab: Lab, step: str) -> None:
    claim = lab.settle_claim("family-1")
    failed = lab.advance(claim, until=step)
    fail(lab.own.sessions, failed.claim, store=lab.own.store, error="the disk is full", is_retryable=True)
    # Somebody else, elsewhere in the plan, is deleted before the retry.
    lab.world.sealed("loner-3")
    retry_failed(lab.own.sessions, lab.model_id)
    version = lab.work()
    assert version.covers == 5
    assert version.weights_digest == lab.straight_digest()
    assert lab.audit().is_equal


def test_a_job_that_keeps_dying_in_one_block_stops_after_three_attempts(lab: Lab) -> None:
    claim = lab.settle_claim("family-2")
    context = lab.advance(claim, until="unlearn")
    attempts = 0
    while context is not None:
        attempts += 1
        # What every attempt does before it dies: keep the state before the touched block once more.
        facts = CheckpointFacts(
            role="witness", key="k", shard=0, position=0, settled=0, state_digest=digest_of(b"state")
        )
        register_checkpoint(lab.own.sessions, context.claim, facts, data=b"state", store=lab.own.store)
        release(lab.own.sessions, context.claim, error="killed by SIGSEGV")
        again = lab.claim()
        context = None if again is None else lab.advance(again, until="unlearn")
    # Finishing `prepare` and the first state kept were progress; nothing after them was.
    assert attempts <= 5
    assert job_view(lab.own.sessions, claim.job_id).status is JobStatus.FAILED


def test_a_request_that_cannot_be_erased_keeps_no_other_from_closing(lab: Lab) -> None:
    first, second = lab.world.sealed("loner-1"), lab.world.sealed("loner-2")
    claim = lab.claim()
    assert claim is not None
    lab.advance(claim, until="attest")
    broken = {first}

    def erase(dataset_id: str, rows: object) -> None:
        if broken:
            broken.clear()
            raise OSError("the disk does not answer")
        lab.own.erase(dataset_id, rows)  # type: ignore[arg-type]

    assert close_ready(lab.own.sessions, keyring=lab.own.keyring, erase=erase) == [second]
    assert close_ready(lab.own.sessions, keyring=lab.own.keyring, erase=erase) == [first]


def test_a_blob_written_after_its_lease_was_lost_goes_with_the_next_purge(lab: Lab) -> None:
    stray = lab.own.store.put(b"a state that a paused worker wrote when it woke up")
    lab.forget("loner-5")
    assert not lab.own.store.has(stray)
    assert lab.audit().is_equal


def test_a_failed_purge_shows_as_failed_and_a_retry_completes_it(lab: Lab) -> None:
    request = lab.world.sealed("loner-6")
    claim = lab.claim()
    assert claim is not None
    context = lab.advance(claim, until="purge")
    fail(
        lab.own.sessions,
        context.claim,
        store=lab.own.store,
        error="the blob is still there",
        is_retryable=True,
    )
    (target,) = lab.world.targets(request)
    assert (target.status, target.reason) == ("failed", "the blob is still there")
    retry_failed(lab.own.sessions, lab.model_id)
    lab.work()
    assert lab.world.request(request).status == "completed"


def test_an_import_killed_before_its_commit_leaves_no_records(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with importing_folder(tmp_path / "dat_1"):
            (tmp_path / "dat_1" / "records.bin").write_bytes(b"somebody")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / "dat_1" / "records.bin").exists()
    assert remove_abandoned(tmp_path, is_known=lambda _: False) == ["dat_1"]
    assert list(tmp_path.iterdir()) == []


def test_neither_a_live_import_nor_a_committed_dataset_is_taken_for_abandoned(tmp_path: Path) -> None:
    with importing_folder(tmp_path / "dat_live"):
        assert remove_abandoned(tmp_path, is_known=lambda _: False) == []
    # Committed now; a worker with the wrong database must not remove it.
    assert remove_abandoned(tmp_path, is_known=lambda _: False) == []
    with pytest.raises(ZeroDivisionError), importing_folder(tmp_path / "dat_failed"):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["dat_live"]
