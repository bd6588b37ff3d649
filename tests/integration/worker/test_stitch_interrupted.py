"""What comes between stitching jobs: an exact version, a kill, a refusing gate; and stitching that ends."""

from collections.abc import Callable
from typing import Any

import pytest

from app.domain.status import Guarantee, JobKind, JobStatus
from app.domain.terms import DEFAULT_TENANT, Claim
from app.services.refuse import Refusal, note_refusal
from tests.integration.worker.conftest import NewLab
from tests.integration.worker.test_stitch_job import (
    EAGER,
    EPOCHS,
    NEVER,
    NUM_BLOCKS,
    checks_of,
    early,
    interim,
    missing_references,
    stitching,
    who_stops,
)
from tests.support.trained import MANY_LONERS, Lab, few_digits, recipe_of
from worker.context import JobContext
from worker.steps.unlearn import unlearn
from worker.traces import trace_of
from worker.training.state import TrainingState
from worker.unlearners import recording
from worker.unlearners.recording import RunRecorder


class Killed(BaseException):
    """The process dies here."""


def after(num_blocks: int, action: Callable[[], None]) -> Callable[[], bool]:
    """Return a ``should_stop`` that does something in the block after so many, and never stops the job."""
    seen = iter(range(10**6))

    def should_stop() -> bool:
        if next(seen) == num_blocks:
            action()
        return False

    return should_stop


def die() -> None:
    """Kill the process."""
    raise Killed


def final(new_lab: NewLab, **policy: object) -> Lab:
    """Return a model whose policy accepts stitching as the end."""
    return stitching(new_lab, interim_method=None, final_method="stitch", accept_empirical=True, **policy)  # type: ignore[arg-type]


def both(lab: Lab, person: str) -> tuple[Claim, Claim]:
    """Delete somebody and claim the interim and the settle job."""
    first = interim(lab, person)
    second = lab.claim()
    assert second is not None
    return first, second


def test_an_exact_version_that_comes_while_a_stitch_retrains_ends_the_interim_job(new_lab: NewLab) -> None:
    lab = stitching(new_lab, rule=NEVER)
    first, settle = both(lab, early(lab)[0])
    context = lab.advance(first, until="unlearn")
    going = JobContext(lab.own, context.claim, should_stop=after(6, lambda: lab.finish(settle)))
    lab.finish_in(going)
    assert lab.view(first).status is JobStatus.SUCCEEDED
    assert [row.guarantee for row in lab.versions[1:]] == [Guarantee.EXACT]


@pytest.mark.parametrize("step", ["unlearn", "verify", "publish"])
def test_an_exact_version_before_any_step_ends_the_interim_job(new_lab: NewLab, step: str) -> None:
    lab = stitching(new_lab, rule=NEVER)
    first, settle = both(lab, early(lab)[0])
    context = lab.advance(first, until=step)
    lab.finish(settle)
    lab.finish(context.claim)
    assert lab.view(first).status is JobStatus.SUCCEEDED
    assert [row.guarantee for row in lab.versions[1:]] == [Guarantee.EXACT]


def test_a_kill_behind_a_witness_state_leaves_no_gap_in_the_references(new_lab: NewLab) -> None:
    lab = stitching(new_lab, interim_method=None)
    kept = {row.position for row in lab.checkpoints if row.role in ("policy", "final")}
    blocks = {
        name: min(b for b in own if b is not None) for name, own in lab.blocks.items() if None not in own
    }
    person = next(name for name, d in blocks.items() if d >= 5 and not {d - 2, d - 1, d} & kept)
    context = lab.advance(lab.settle_claim(person), until="unlearn")
    num_before = blocks[person] - max(position for position in kept if position < blocks[person])
    with pytest.raises(Killed):
        unlearn(JobContext(lab.own, context.claim, should_stop=after(num_before, die)))
    lab.finish(context.claim)
    assert not missing_references(lab)


def test_the_witness_after_an_interim_version_costs_what_it_costs_without_one(new_lab: NewLab) -> None:
    lab = stitching(new_lab, rule=NEVER, witness_blocks=0)
    person = early(lab)[0]
    lab.world.sealed(person)
    (block,) = (b for b in lab.blocks[person] if b is not None)
    kept = [row.position for row in lab.checkpoints if row.role == "policy" and row.position < block]
    found = checks_of(lab, lab.work().number)["witness"]["figures"]
    assert [row.guarantee for row in lab.versions[1:]] == [Guarantee.EMPIRICAL, Guarantee.EXACT]
    assert found["num_blocks"] == block - max(kept, default=-1)


def test_stitching_that_settles_and_never_stops_is_replay_with_its_gates(new_lab: NewLab) -> None:
    lab = final(new_lab, rule=NEVER)
    person = early(lab)[0]
    expected = lab.straight_digest(without=[person])
    version = lab.forget(person)
    row = lab.versions[-1]
    assert (version.weights_digest, row.guarantee, row.method) == (expected, Guarantee.EXACT, "replay")
    assert {"lineage", "witness", "stitching"} <= checks_of(lab, row.number).keys()
    assert lab.audit().is_equal


def test_a_stitch_that_is_killed_ends_with_the_same_weights(new_lab: NewLab) -> None:
    lab = final(new_lab)
    person, stop = who_stops(lab)
    context = lab.advance(lab.settle_claim(person), until="unlearn")
    with pytest.raises(Killed):
        unlearn(JobContext(lab.own, context.claim, should_stop=after(4, die)))
    made = [unlearn(JobContext(lab.own, context.claim)) for _ in range(2)]
    assert made[0]["constituents"] == made[1]["constituents"]
    assert made[0]["trace"][0]["stopped_after"] == stop  # type: ignore[index, call-overload]


def test_a_retraining_that_was_refused_for_long_and_killed_goes_on_to_its_exact_end(new_lab: NewLab) -> None:
    recipe_blocks = 3 * NUM_BLOCKS
    lab = new_lab(
        recipe_of("mlp", "sgd", blocks=recipe_blocks, epochs=EPOCHS, min_present=1),
        source=few_digits(MANY_LONERS), checkpoints="all", final_method="stitch", accept_empirical=True,
        stitch=NEVER, max_drop=1.0,
    )  # fmt: skip
    lab.work()
    places = {
        name: min(b for b in own if b is not None) for name, own in lab.blocks.items() if None not in own
    }
    person = min(places, key=lambda name: (places[name] < 1, places[name]))
    expected = lab.straight_digest(without=[person])
    context = lab.advance(lab.settle_claim(person), until="unlearn")
    with pytest.raises(Killed):
        unlearn(JobContext(lab.own, context.claim, should_stop=after(30, die)))
    again = unlearn(JobContext(lab.own, context.claim))
    assert int(str(again["num_blocks"])) < recipe_blocks - 25
    lab.finish(context.claim)
    assert (lab.version.weights_digest, lab.versions[-1].guarantee) == (expected, Guarantee.EXACT)


def test_shards_are_measured_apart_and_settle_exactly(
    new_lab: NewLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "PROGRESS_SECONDS", 0.0)
    lab = new_lab(
        recipe_of("mlp", "sgd", blocks=14, epochs=EPOCHS, shards=2), source=few_digits(MANY_LONERS),
        interim_method="stitch", references=True, stitch=EAGER, max_drop=1.0,
    )  # fmt: skip
    lab.work()
    people = [
        next(name for name in lab.in_shard(shard) if min(block for _, block in lab.places[name]) == 1)
        for shard in (0, 1)
    ]
    expected = lab.straight_digest(without=people)
    claim, seen = interim(lab, *people), list[tuple[int, int]]()
    recorded = RunRecorder.after_block

    def after_block(self: RunRecorder, position: int, state: TrainingState, *, num_records: int) -> None:
        recorded(self, position, state, num_records=num_records)
        progress: Any = lab.view(claim).progress
        seen.append((progress["num_records"], progress["total_records"]))

    with monkeypatch.context() as watching:
        watching.setattr(RunRecorder, "after_block", after_block)
        context = lab.advance(claim, until="verify")
    trace = trace_of(lab.own, context.claim.job_id, tenant=DEFAULT_TENANT)
    assert [(shard["shard"], shard["touched"]) for shard in trace] == [(0, [1]), (1, [1])]
    # Progress is the whole job's; where a shard stops early there is less to do, never less done.
    done, totals = ([pair[index] for pair in seen] for index in (0, 1))
    assert (done, totals) == (sorted(done), sorted(totals, reverse=True))
    assert len(done) == sum(int(shard["num_blocks"]) for shard in trace)
    assert 0 < done[0] <= done[-1] <= totals[-1]
    lab.set_policy(interim_method=None)
    settle = lab.claim()
    assert settle is not None
    assert settle.kind is JobKind.SETTLE
    lab.finish(settle)
    assert lab.version.weights_digest == expected


def test_the_trace_of_a_refused_stitch_is_kept(new_lab: NewLab) -> None:
    lab = final(new_lab)
    person, _ = who_stops(lab)
    context = lab.advance(lab.settle_claim(person), until="verify")
    before = trace_of(lab.own, context.claim.job_id, tenant=DEFAULT_TENANT)
    refusal = Refusal(method="stitch", problem="utility", checks={}, trace=[dict(shard) for shard in before])
    note_refusal(lab.own.sessions, context.claim, refusal, next_plan={"method": "replay"})
    assert context.output_of("unlearn") == {}
    assert trace_of(lab.own, context.claim.job_id, tenant=DEFAULT_TENANT) == before


def test_what_is_measured_is_shown_when_references_end(new_lab: NewLab) -> None:
    lab = stitching(new_lab)
    person = early(lab)[0]
    (block,) = (b for b in lab.blocks[person] if b is not None)
    first = min(row.position for row in lab.checkpoints if row.role == "reference" and row.position >= block)
    for row in lab.checkpoints:
        if row.role == "reference" and row.position > first:
            lab.own.store.remove(row.digest)
    claim = interim(lab, person)
    lab.advance(claim, until="verify")
    (trace,) = trace_of(lab.own, claim.job_id, tenant=DEFAULT_TENANT)
    assert trace["touched"] == [block]
    assert trace["residuals"]
    assert "not kept" in str(trace["why"]) or "purged" in str(trace["why"])
