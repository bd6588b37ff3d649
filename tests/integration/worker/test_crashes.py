"""A job that dies at any moment and is claimed again ends with the same digest, one version, one receipt."""

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, func, select

from app.db.session import reading
from app.db.tables import Receipt, Table
from app.domain.errors import LeaseLost
from app.domain.status import JobKind, JobStatus
from app.domain.terms import Claim
from tests.integration.worker.conftest import NewLab
from tests.support.faults import DyingStore, PowerCut
from tests.support.trained import Lab, recipe_of
from worker.pipeline import STEPS, Run, run_steps
from worker.unlearners import recording

SETTLE_STEPS = [step.name for step in STEPS[JobKind.SETTLE]]
TRAIN_STEPS = [step.name for step in STEPS[JobKind.TRAIN]]


@pytest.mark.parametrize("after_bytes", [False, True])
def test_a_deletion_survives_a_power_cut_at_every_write(
    trained_home: Path, tmp_path: Path, after_bytes: bool
) -> None:
    for num_writes in count():
        lab = Lab.copied(trained_home, to=tmp_path / str(num_writes))
        person = lab.in_block(3)[0]
        expected = lab.straight_digest(without=[person])
        claim = lab.settle_claim(person)
        is_cut = has_power_cut(lab, claim, num_writes=num_writes, after_bytes=after_bytes)
        if is_cut:
            take_over(lab, claim)
        require_one_ending(lab, claim, weights_digest=expected)
        lab.close()
        if not is_cut:
            break
    assert num_writes >= 7


@pytest.mark.parametrize("after_bytes", [False, True])
def test_a_training_survives_a_power_cut_at_every_write(new_lab: NewLab, after_bytes: bool) -> None:
    for num_writes in count():
        lab = new_lab(recipe_of(blocks=4), checkpoints="all")
        claim = lab.settle_claim()
        is_cut = has_power_cut(lab, claim, num_writes=num_writes, after_bytes=after_bytes)
        if is_cut:
            take_over(lab, claim)
        assert lab.version.weights_digest == lab.straight_digest()
        assert len(lab.versions) == 1
        if not is_cut:
            break
    assert num_writes >= 7


@pytest.mark.parametrize("step", SETTLE_STEPS)
def test_a_deletion_that_died_before_it_could_say_so_repeats_the_step(lab: Lab, step: str) -> None:
    person = lab.in_block(2)[0]
    expected = lab.straight_digest(without=[person])
    claim = lab.settle_claim(person)
    context = lab.advance(claim, until=step)
    step_named(step, JobKind.SETTLE)(context)
    take_over(lab, claim)
    require_one_ending(lab, claim, weights_digest=expected)


@pytest.mark.parametrize("step", TRAIN_STEPS)
def test_a_training_that_died_before_it_could_say_so_repeats_the_step(new_lab: NewLab, step: str) -> None:
    lab = new_lab()
    claim = lab.settle_claim()
    context = lab.advance(claim, until=step)
    step_named(step, JobKind.TRAIN)(context)
    take_over(lab, claim)
    assert lab.version.weights_digest == lab.straight_digest()
    assert len(lab.versions) == 1


def test_a_job_that_dies_after_every_block_still_ends(lab: Lab) -> None:
    person = lab.in_block(0)[0]
    expected = lab.straight_digest(without=[person])
    claim = lab.settle_claim(person)
    num_deaths = 0
    while has_power_cut(lab, claim, num_writes=2, after_bytes=False):
        num_deaths += 1
        lab.world.expire(claim)
        again = lab.claim()
        assert again is not None
        claim = again
    assert num_deaths >= 4
    require_one_ending(lab, claim, weights_digest=expected)


def test_a_job_goes_on_from_its_own_rolling_checkpoint(
    new_lab: NewLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "ROLLING_SECONDS", 0.0)
    lab = new_lab(recipe_of(blocks=12), checkpoints="sqrt")
    lab.work()
    person = lab.in_block(0)[0]
    expected = lab.straight_digest(without=[person])
    claim = lab.settle_claim(person)
    assert has_power_cut(lab, claim, num_writes=7, after_bytes=True)
    take_over(lab, claim)
    assert lab.view(claim).outputs["unlearn"]["num_blocks"] < 11
    require_one_ending(lab, claim, weights_digest=expected)


def test_one_claim_after_another_takes_up_where_the_last_one_stopped(lab: Lab) -> None:
    claim = lab.settle_claim(lab.in_block(1)[0])
    assert has_power_cut(lab, claim, num_writes=4, after_bytes=False)
    own = [row for row in lab.checkpoints if row.job_id == claim.job_id]
    newest = max(row.position for row in own if lab.own.store.has(row.digest))
    take_over(lab, claim)
    assert lab.view(claim).outputs["unlearn"]["resumed_after"] == [newest]


WRITING_STEPS = ["prepare", "unlearn", "verify", "publish", "purge"]


@pytest.mark.parametrize("step", WRITING_STEPS)
def test_who_lost_the_lease_to_a_worker_that_ended_the_job_writes_nothing(lab: Lab, step: str) -> None:
    claim = lab.settle_claim(lab.in_block(2)[0])
    stale = lab.advance(claim, until=step)
    take_over(lab, claim)
    require_refused(lab, stale.claim)


@pytest.mark.parametrize("step", WRITING_STEPS)
def test_who_lost_the_lease_to_a_worker_that_only_began_writes_nothing(lab: Lab, step: str) -> None:
    claim = lab.settle_claim(lab.in_block(2)[0])
    stale = lab.advance(claim, until=step)
    lab.world.expire(claim)
    assert lab.claim(owner="somebody else") is not None
    require_refused(lab, stale.claim)


def require_refused(lab: Lab, stale: Claim) -> None:
    before = everything(lab)
    with pytest.raises(LeaseLost):
        run_steps(lab.own, stale)
    assert everything(lab) == before


def has_power_cut(lab: Lab, claim: Claim, *, num_writes: int, after_bytes: bool) -> bool:
    """Run a claimed job on a machine that stops after so many blobs; False if it came to its end."""
    url = lab.own.settings.resolved_store_url
    store = DyingStore(url, num_writes=num_writes, after_bytes=after_bytes)
    try:
        replace(lab, own=replace(lab.own, store=store)).finish(claim)
    except PowerCut:
        return True
    return False


def take_over(lab: Lab, claim: Claim) -> None:
    lab.world.expire(claim)
    again = lab.claim(owner="somebody else")
    assert again is not None
    assert (again.job_id, again.fence) == (claim.job_id, claim.fence + 1)
    lab.finish(again)


def require_one_ending(lab: Lab, claim: Claim, *, weights_digest: str) -> None:
    assert lab.view(claim).status is JobStatus.SUCCEEDED
    assert [version.number for version in lab.versions] == [1, 2]
    assert lab.version.weights_digest == weights_digest
    with reading(lab.own.sessions) as session:
        assert session.scalar(select(func.count()).select_from(Receipt)) == 1


def step_named(name: str, kind: JobKind) -> Run:
    return next(step.run for step in STEPS[kind] if step.name == name)


def everything(lab: Lab) -> tuple[dict[str, list[Row[Any]]], list[str]]:
    """Every row of the database and the name of every blob."""
    with reading(lab.own.sessions) as session:
        rows = {
            name: sorted(session.execute(select(table)).all(), key=repr)
            for name, table in Table.metadata.tables.items()
        }
    return rows, list(lab.own.store.digests())
