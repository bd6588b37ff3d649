"""Exact replay: what is published equals, bit for bit, training in a process that never had the person."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.db.session import reading
from app.db.tables import ScratchCopy
from app.domain.errors import Refused
from tests.integration.worker.conftest import NewLab
from tests.support.trained import NETS, OPTIMIZERS, Lab, recipe_of
from worker.determinism import choose_device
from worker.supervisor import Supervisor
from worker.training.state import initial_state, weights, weights_digest


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("net", NETS)
def test_deletions_of_one_and_of_several_records_equal_the_oracle(
    new_lab: NewLab, net: str, optimizer: str
) -> None:
    lab = new_lab(recipe_of(net, optimizer), checkpoints="sqrt")
    first = lab.work()
    loner, family = lab.loners(3)[0], lab.families[4]
    expected = lab.straight_digest(without=[loner])
    assert lab.forget(loner).weights_digest == expected
    # Between publish and purge the family's records still exist: the oracle gets them as NaN.
    context = lab.advance(lab.settle_claim(family), until="purge")
    assert lab.audit(poisoned=True).is_equal
    assert len({first.weights_digest, *(version.weights_digest for version in lab.versions)}) == 3
    lab.finish(context.claim)
    assert [version.status for version in lab.versions] == ["purged", "purged", "published"]


@pytest.mark.parametrize("net", ["mlp", "lenet5_batch_norm"])
def test_each_of_two_versions_in_a_row_equals_its_own_oracle(new_lab: NewLab, net: str) -> None:
    lab = new_lab(recipe_of(net, "adamw"))
    lab.work()
    lab.forget(lab.loners(1)[0])
    lab.advance(lab.settle_claim(lab.families[6]), until="purge")
    with ThreadPoolExecutor(2) as pool:
        audits = [pool.submit(lab.audit, version) for version in ("2", "3")]
    assert [audit.result().is_equal for audit in audits] == [True, True]


def test_a_deletion_replays_from_the_block_before_its_own(lab: Lab) -> None:
    claim = lab.settle_claim(lab.in_block(4)[0])
    output = lab.advance(claim, until="verify").output_of("unlearn")
    assert output["resumed_after"] == [3]
    assert output["num_blocks"] == 2


@pytest.mark.parametrize("block", [0, 5])
def test_deletions_in_the_first_and_in_the_last_block_are_exact(lab: Lab, block: int) -> None:
    person = lab.in_block(block)[0]
    expected = lab.straight_digest(without=[person])
    before = lab.version.weights_digest
    assert lab.forget(person).weights_digest == expected != before


def test_with_two_passes_a_deletion_replays_from_the_first(new_lab: NewLab) -> None:
    lab = new_lab(recipe_of(passes=2, epochs=1), checkpoints="all")
    lab.work()
    context = lab.advance(lab.settle_claim(lab.in_block(4)[0]), until="verify")
    assert context.output_of("unlearn")["resumed_after"] == [3]
    lab.finish(context.claim)
    assert lab.audit().is_equal


def test_a_whole_block_can_go(lab: Lab) -> None:
    before, everybody = lab.version.weights_digest, lab.in_block(3)
    version = lab.forget(*everybody)
    assert lab.in_block(3) == []
    assert version.weights_digest == lab.straight_digest() != before
    assert lab.audit().is_equal


def test_a_whole_batch_can_go(new_lab: NewLab) -> None:
    # With more batches than records, most people are alone in theirs, and their going leaves it empty.
    lab = new_lab(recipe_of(batches_per_block=90, batch_size=2, min_present=1), checkpoints="all")
    lab.work()
    loners = lab.loners(2)[:3]
    expected = lab.straight_digest(without=loners)
    assert lab.forget(*loners).weights_digest == expected


@pytest.mark.parametrize("net", ["mlp", "lenet5_batch_norm"])
def test_when_everybody_is_deleted_the_initialisation_remains(new_lab: NewLab, net: str) -> None:
    lab = new_lab(recipe_of(net))
    lab.work()
    version = lab.forget(*lab.blocks)
    fresh = initial_state(recipe_of(net), shard=0, device=choose_device())
    assert version.weights_digest == weights_digest([weights(fresh.net)])
    assert lab.blocks == {}


def test_a_subject_that_was_only_held_out_needs_no_block(lab: Lab) -> None:
    person = lab.in_block(None)[0]
    context = lab.advance(lab.settle_claim(person), until="verify")
    assert context.output_of("unlearn")["num_blocks"] == 0
    lab.finish(context.claim)
    before, after = lab.versions
    assert (after.weights_digest, after.settled) == (before.weights_digest, after.covers)
    assert after.covers > before.covers == 0
    assert before.revoked_at is None  # it never saw that person
    assert person not in lab.blocks


def test_retraining_gives_what_replay_gives(lab: Lab, twin: Lab) -> None:
    person = lab.families[5]
    twin.set_policy(final_method="retrain")
    replayed, claim = lab.forget(person), twin.settle_claim(person)
    twin.finish(claim)
    assert twin.view(claim).outputs["unlearn"]["num_blocks"] == 6
    assert [lab.versions[-1].method, twin.versions[-1].method] == ["replay", "retrain"]
    assert replayed.weights_digest == twin.version.weights_digest


def test_nobody_can_audit_a_version_whose_records_were_purged(lab: Lab) -> None:
    lab.forget(lab.in_block(3)[0])
    with pytest.raises(Refused, match="purged since"):
        lab.audit("1")
    with reading(lab.own.sessions) as session:
        assert session.query(ScratchCopy).all() == []


def test_a_job_runs_in_child_processes_to_the_same_digest(lab: Lab, twin: Lab) -> None:
    person = lab.in_block(2)[0]
    twin.world.post(person)
    Supervisor(twin.own).work_until_idle()
    assert twin.version.weights_digest == lab.forget(person).weights_digest
    assert [version.status for version in twin.versions] == ["purged", "published"]
