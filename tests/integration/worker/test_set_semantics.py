"""What is forgotten is a set: neither order nor the number of requests leaves a trace in the weights."""

import pytest

from app.db.session import writing
from app.db.tables import Checkpoint
from app.domain.status import JobKind
from app.services.prepare import fix_scope
from app.services.seal import seal_due
from tests.support.trained import Lab, few_digits
from worker.context import JobContext
from worker.unlearners import UNLEARNERS


def test_one_after_the_other_equals_the_other_way_round_and_both_at_once(
    lab: Lab, twin: Lab, third: Lab
) -> None:
    first, second = lab.families[0], lab.loners(4)[0]
    lab.forget(first)
    twin.forget(second)
    digests = {
        lab.forget(second).weights_digest,
        twin.forget(first).weights_digest,
        third.forget(first, second).weights_digest,
    }
    assert len(digests) == 1
    assert [len(each.versions) for each in (lab, twin, third)] == [3, 3, 2]
    assert third.audit().is_equal


def test_two_people_of_one_block_leave_it_in_any_order(lab: Lab, twin: Lab) -> None:
    first, second = lab.in_block(2)[:2]
    expected = lab.straight_digest(without=[first, second])
    lab.forget(first)
    twin.forget(second)
    assert lab.forget(second).weights_digest == twin.forget(first).weights_digest == expected


def test_forgetting_somebody_again_changes_nothing(lab: Lab) -> None:
    person = lab.in_block(2)[0]
    version = lab.forget(person)
    assert lab.forget(person) == version


def test_forgetting_a_stranger_changes_nothing(lab: Lab) -> None:
    before = lab.version
    assert lab.forget("nobody-we-know") == before


@pytest.mark.parametrize("newest", range(-1, 6))
def test_replaying_nothing_from_any_checkpoint_ends_in_the_same_bytes(lab: Lab, newest: int) -> None:
    final = lab.checkpoints[-1].digest
    drop_checkpoints(lab, after=newest)
    context = empty_job(lab)
    table = context.retained(covers=0)
    scope = fix_scope(lab.own.sessions, context.claim)
    unlearned = UNLEARNERS["replay"].unlearn(context, scope, table=table, watched={})
    assert unlearned.resumed_after == [newest]
    assert unlearned.constituents == [final]


def test_a_request_narrowed_to_one_record_forgets_that_record_alone(lab: Lab) -> None:
    family = lab.families[3]
    record_id = few_digits().record_ids[few_digits().subject_ids.index(family)]
    record = lab.own.keyring.record_refs(record_id, dataset="digits")
    lab.world.post(family, records={lab.dataset.id: record})
    seal_due(lab.own.sessions)
    lab.work()
    assert lab.version.covers == 1
    assert family in lab.blocks
    assert lab.version.weights_digest == lab.straight_digest() != lab.straight_digest(without=[family])


def drop_checkpoints(lab: Lab, *, after: int) -> None:
    with writing(lab.own.sessions) as session:
        session.query(Checkpoint).filter(Checkpoint.position > after).delete()


def empty_job(lab: Lab) -> JobContext:
    lab.world.queue(lab.model_id, kind=JobKind.SETTLE)
    return JobContext(lab.own, lab.settle_claim())
