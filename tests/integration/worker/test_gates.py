"""Gates: a method with a fault never publishes; an exact version with low accuracy does, with a warning."""

from collections.abc import Container

import pytest

from app.domain.errors import GateFailed
from tests.support import faults
from tests.support.trained import Lab
from worker.context import JobContext
from worker.data.loader import Loader
from worker.evaluation.gates import Check
from worker.evaluation.witness import Recomputation, planned_work, recompute
from worker.steps.scope import prediction_of, scope_of, unlearned_by, watched_by
from worker.steps.verify import verify
from worker.training.state import restore, weights, weights_digest
from worker.unlearners import UNLEARNERS, Unlearner

CAUGHT_BY_LINEAGE = [faults.ResumesLate(), faults.HandsOverTheParent()]
CAUGHT_BY_WITNESS = [
    faults.ResumesLate(),
    faults.ResumesLateAndDeniesIt(),
    faults.LosesOptimizerState(),
    faults.FeedsTheForgotten(),
    faults.HandsOverTheParent(),
    faults.SignsForTheParent(),
]


@pytest.fixture
def person(lab: Lab) -> str:
    return lab.in_block(3)[0]


@pytest.fixture
def faulty(
    lab: Lab, person: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> JobContext:
    """A deletion in the middle of training, unlearned by a faulty method, about to be verified."""
    method: Unlearner = request.param
    monkeypatch.setitem(UNLEARNERS, "faulty", method)
    # All blocks are watched: their recorded states could clear a resume point, were they believed.
    lab.set_policy(final_method="faulty", witness_blocks=2)
    return lab.advance(lab.settle_claim(person), until="verify")


def named(method: object) -> str:
    return type(method).__name__


@pytest.mark.parametrize("faulty", CAUGHT_BY_LINEAGE, indirect=True, ids=named)
def test_lineage_catches_what_met_the_person(lab: Lab, faulty: JobContext) -> None:
    with pytest.raises(GateFailed, match=r"lineage: shard 0: the .* met tombstones"):
        verify(faulty)
    assert [version.number for version in lab.versions] == [1]


@pytest.mark.parametrize("faulty", CAUGHT_BY_WITNESS, indirect=True, ids=named)
def test_the_witness_alone_catches_it_too(faulty: JobContext) -> None:
    check = witness(faulty)
    assert check.is_gate
    assert not check.holds
    assert "is not the recorded one" in check.problem


@pytest.mark.parametrize("faulty", CAUGHT_BY_WITNESS, indirect=True, ids=named)
def test_a_fault_gives_other_weights_than_the_oracle_and_is_never_published(
    lab: Lab, person: str, faulty: JobContext
) -> None:
    assert final_digest(faulty) != lab.straight_digest(without=[person])
    with pytest.raises(GateFailed):
        verify(faulty)


def test_a_shard_that_ends_as_the_parent_is_recomputed_though_another_moved(
    sharded: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(UNLEARNERS, "faulty", faults.EndsAsTheParent())
    sharded.set_policy(final_method="faulty", witness_blocks=0)
    people = [sharded.in_shard(0, block=3)[0], sharded.in_shard(2, block=1)[0]]
    context = sharded.advance(sharded.settle_claim(*people), until="verify")
    with pytest.raises(GateFailed, match="witness: shard 2: the state after position 5"):
        verify(context)


def test_the_witness_watches_each_touched_shard_and_no_other(sharded: Lab) -> None:
    people = [sharded.in_shard(0, block=3)[0], sharded.in_shard(2, block=1)[0]]
    context = sharded.advance(sharded.settle_claim(*people), until="verify")
    watched = watched_by(context)
    assert {shard: positions[0] for shard, positions in watched.items()} == {0: 3, 2: 1}
    assert {len(positions) for positions in watched.values()} == {2}
    work = work_of(context)
    assert {(part.shard, part.stop) for part in work} >= {(s, p) for s, own in watched.items() for p in own}
    assert {part.shard for part in work} == {0, 2}
    assert recompute(context, scope_of(context), loader=retained_loader(context), work=work).holds


def test_honest_replay_passes_every_gate(lab: Lab, person: str) -> None:
    lab.set_policy(max_drop=1.0)
    context = lab.advance(lab.settle_claim(person), until="verify")
    assert witness(context).holds
    # On so few records a class may be lost, which informs and gates nothing.
    assert [said for said in verify(context)["warnings"] if not said.startswith("utility")] == []


def test_a_poisoned_record_in_a_recomputed_block_fails_the_witness(lab: Lab, person: str) -> None:
    context = lab.advance(lab.settle_claim(person), until="verify")
    forgotten = context.forgotten(above=0, covers=1)
    everybody = context.loader(context.retained(covers=0), poisoned=forgotten)
    assert not recompute(context, scope_of(context), loader=everybody, work=work_of(context)).holds


def test_the_witness_watches_the_first_touched_block_and_as_many_others_as_the_policy_says(lab: Lab) -> None:
    lab.set_policy(witness_blocks=2)
    context = lab.advance(lab.settle_claim(lab.in_block(1)[0]), until="verify")
    ((shard, watched),) = watched_by(context).items()
    assert (shard, watched[0], len(watched)) == (0, 1, 3)
    assert {part.stop for part in work_of(context)} >= set(watched)


def test_a_deletion_that_moved_nothing_is_recomputed_to_the_end(lab: Lab, person: str) -> None:
    context = lab.advance(lab.settle_claim(person), until="verify")
    work = work_of(context, unmoved={0})
    assert (work[0].after, work[0].stop) == (2, 5)
    assert recompute(context, scope_of(context), loader=retained_loader(context), work=work).holds


def test_an_exact_version_beyond_max_drop_is_published_with_a_warning(lab: Lab) -> None:
    lab.set_policy(max_drop=0.0)
    everybody = [name for block in range(6) for name in lab.in_block(block)]
    context = lab.advance(lab.settle_claim(*everybody[:-20]), until="publish")
    warnings = context.output_of("verify")["warnings"]
    assert isinstance(warnings, list)
    assert "utility: accuracy fell by" in str(warnings[0])
    lab.finish(context.claim)
    assert lab.version.number == 2


def witness(context: JobContext) -> Check:
    loader = retained_loader(context)
    return recompute(context, scope_of(context), loader=loader, work=work_of(context))


def work_of(context: JobContext, *, unmoved: Container[int] = ()) -> list[Recomputation]:
    predicted = prediction_of(context)
    return planned_work(
        context,
        scope_of(context),
        resumes_after=predicted.resumes_after,
        resumes_from=predicted.resumes_from,
        unmoved=unmoved,
    )


def retained_loader(context: JobContext) -> Loader:
    scope = scope_of(context)
    forgotten = context.forgotten(above=scope.settled, covers=scope.covers)
    return context.loader(context.retained(covers=scope.covers), poisoned=forgotten)


def final_digest(context: JobContext) -> str:
    data = context.installation.store.get(unlearned_by(context).constituents[0])
    return weights_digest([weights(restore(data, context.recipe, shard=0, device=context.device).net)])
