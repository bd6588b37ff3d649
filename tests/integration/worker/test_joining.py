"""Deletions sealed while a job runs: they join it, or send it back, and no bit tells the difference."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from app.db.session import reading
from app.db.tables import Job
from app.domain.errors import LeaseLost
from app.domain.status import JobKind
from tests.integration.worker.conftest import NewLab
from tests.integration.worker.test_crashes import has_power_cut, take_over
from tests.support.faults import PowerCut
from tests.support.trained import PLAN, Lab, recipe_of
from worker.steps.unlearn import unlearn
from worker.training.state import TrainingState
from worker.unlearners import Prediction, joining
from worker.unlearners.recording import RunRecorder

LAST = PLAN["blocks"] - 1
BeforeBlock = Callable[[int], None]


@pytest.fixture
def at_block(monkeypatch: pytest.MonkeyPatch) -> Callable[[BeforeBlock], None]:
    """Lets something happen after each block of a run, which looks at every block."""
    monkeypatch.setattr(joining, "LOOK_SECONDS", 0.0)

    def install(happen: BeforeBlock) -> None:
        recorded = RunRecorder.after_block

        def after_block(self: RunRecorder, position: int, state: TrainingState, *, num_records: int) -> None:
            recorded(self, position, state, num_records=num_records)
            happen(position)

        monkeypatch.setattr(RunRecorder, "after_block", after_block)

    return install


@pytest.mark.parametrize("when", [1, LAST - 1])
@pytest.mark.parametrize("block", range(LAST + 1))
def test_whoever_is_sealed_after_any_block_is_forgotten_by_the_running_job(
    lab: Lab, at_block: Callable[[BeforeBlock], None], block: int, when: int
) -> None:
    first, joined = lab.in_block(1)[0], lab.loners(block)[-1]
    expected = lab.straight_digest(without=[first, joined])
    at_block(once(when, lambda: lab.world.sealed(joined)))
    claim = lab.settle_claim(first)
    lab.finish(claim)
    assert (lab.version.weights_digest, lab.version.covers) == (expected, 2)
    prepared = lab.view(claim).outputs["prepare"]
    assert isinstance(prepared, dict)
    assert prepared["num_returns"] == (1 if block <= when else 0)
    assert lab.work().number == 2  # the job that was queued for it only purges and attests


def test_whoever_is_sealed_during_the_last_block_waits_for_the_next_job(
    lab: Lab, at_block: Callable[[BeforeBlock], None]
) -> None:
    first, late = lab.in_block(1)[0], lab.in_block(3)[0]
    at_block(once(LAST, lambda: lab.world.sealed(late)))
    lab.finish(lab.settle_claim(first))
    assert lab.version.covers == 1
    expected = lab.straight_digest(without=[first, late])
    version = lab.work()
    assert (version.number, version.covers, version.weights_digest) == (3, 2, expected)


def test_the_third_who_lies_behind_waits_for_the_next_job(
    lab: Lab, at_block: Callable[[BeforeBlock], None]
) -> None:
    first, *behind = lab.loners(1)[:4]
    coming = iter(behind)
    at_block(lambda position: seal_next(lab, coming) if position == 2 else None)
    claim = lab.settle_claim(first)
    expected = lab.straight_digest(without=[first, behind[0], behind[1]])
    all_digest = lab.straight_digest(without=[first, *behind])
    lab.finish(claim)
    assert (lab.version.weights_digest, lab.version.covers) == (expected, 3)
    version = lab.work()
    assert (version.number, version.covers, version.weights_digest) == (3, 4, all_digest)


def test_frozen_stays_frozen_for_those_who_lie_ahead(
    lab: Lab, at_block: Callable[[BeforeBlock], None]
) -> None:
    first, *behind = lab.loners(1)[:4]
    ahead = lab.loners(LAST)[0]
    expected = lab.straight_digest(without=[first, *behind[:2]])
    coming = iter([[behind[0]], [behind[1]], [behind[2], ahead]])

    def seal_some(position: int) -> None:
        for person in next(coming, []) if position == 2 else []:
            lab.world.sealed(person)

    at_block(seal_some)
    lab.finish(lab.settle_claim(first))
    assert (lab.version.weights_digest, lab.version.covers) == (expected, 3)
    everybody = lab.straight_digest(without=[first, *behind, ahead])
    assert lab.work().weights_digest == everybody


@pytest.mark.parametrize("block", [0, 2, LAST])
def test_a_training_leaves_out_whoever_is_deleted_meanwhile(
    new_lab: NewLab, at_block: Callable[[BeforeBlock], None], block: int
) -> None:
    lab = new_lab(recipe_of(), checkpoints="all")
    joined = lab.loners(block)[0]
    expected = lab.straight_digest(without=[joined])
    at_block(once(2, lambda: lab.world.sealed(joined)))
    claim = lab.settle_claim()
    lab.finish(claim)
    assert (lab.version.weights_digest, lab.version.covers) == (expected, 1)
    lab.work()
    assert [version.number for version in lab.versions] == [1]


def test_a_job_that_was_joined_survives_a_power_cut_at_every_write(
    trained_home: Path, tmp_path: Path, at_block: Callable[[BeforeBlock], None]
) -> None:
    for num_writes in count():
        lab = Lab.copied(trained_home, to=tmp_path / str(num_writes))
        first, joined = lab.in_block(1)[0], lab.loners(1)[-1]
        expected = lab.straight_digest(without=[first, joined])
        at_block(once(2, partial(lab.world.sealed, joined)))
        claim = lab.settle_claim(first)
        is_cut = has_power_cut(lab, claim, num_writes=num_writes, after_bytes=True)
        lab.world.sealed(joined)  # the power may have gone before position 2
        if is_cut:
            take_over(lab, claim)
        lab.work()
        assert (lab.version.covers, lab.version.weights_digest) == (2, expected)
        lab.close()
        if not is_cut:
            break
    assert num_writes >= 7


@pytest.mark.parametrize("has_said", [False, True])
def test_a_job_killed_right_after_somebody_joined_before_its_touched_block_ends_well(
    lab: Lab,
    at_block: Callable[[BeforeBlock], None],
    monkeypatch: pytest.MonkeyPatch,
    has_said: bool,
) -> None:
    first, joined = lab.in_block(4)[0], lab.loners(2)[-1]
    expected = lab.straight_digest(without=[first, joined])
    at_block(once(4, partial(lab.world.sealed, joined)))
    claim = lab.settle_claim(first)
    say = joining.Run.note

    def die(run: joining.Run, prediction: Prediction) -> None:
        if has_said:
            say(run, prediction)
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(joining.Run, "note", die)
        with pytest.raises(PowerCut):
            lab.finish(claim)
    take_over(lab, claim)
    assert (lab.version.covers, lab.version.weights_digest) == (2, expected)


def test_a_worker_that_was_paused_while_somebody_joined_cannot_write(
    lab: Lab, at_block: Callable[[BeforeBlock], None]
) -> None:
    first, joined = lab.in_block(1)[0], lab.in_block(4)[0]
    claim = lab.settle_claim(first)
    context = lab.advance(claim, until="unlearn")
    lab.world.expire(claim)
    other = lab.claim(owner="other")
    assert other is not None
    lab.world.sealed(joined)
    lab.finish(other)
    before = lab.version
    with pytest.raises(LeaseLost):
        unlearn(context)
    assert lab.version == before


def test_only_one_settle_job_serves_many_who_come_while_it_runs(
    lab: Lab, at_block: Callable[[BeforeBlock], None]
) -> None:
    people = [lab.loners(block)[0] for block in range(2, LAST + 1)]
    coming = iter(people)
    at_block(lambda position: seal_next(lab, coming))
    first = lab.in_block(0)[0]
    lab.finish(lab.settle_claim(first))
    lab.work()
    with reading(lab.own.sessions) as session:
        num_trained = sum(
            "unlearn" in job.outputs for job in session.query(Job).filter(Job.kind == JobKind.SETTLE)
        )
    assert lab.version.covers == 1 + len(people)
    assert num_trained <= 3


def once(when: int, happen: Callable[[], object]) -> BeforeBlock:
    """Return what happens at one position, the first time that it is reached."""
    left = [happen]

    def at(position: int) -> None:
        if position == when and left:
            left.pop()()

    return at


def seal_next(lab: Lab, coming: Iterator[str]) -> None:
    """Seal the deletion of the next person, if there is one."""
    for person in coming:
        lab.world.sealed(person)
        return
