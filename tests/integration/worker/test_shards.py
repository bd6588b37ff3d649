"""Shards: a deletion trains one constituent again and leaves the others' bytes alone; all are exact."""

import json
import random
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from app.domain.access import Scope
from app.domain.status import JobStatus
from app.main import create_app
from models_store.ensemble import load_ensemble
from models_store.manifest import Manifest, canonical_json
from models_store.tensors import tensor_digest, unpack
from tests.integration.worker.conftest import NewLab
from tests.integration.worker.test_crashes import has_power_cut, take_over
from tests.support.client import client_of
from tests.support.trained import MANY_LONERS, PLAN, Lab, few_digits, recipe_of
from worker.context import JobContext
from worker.determinism import choose_device
from worker.evaluation.utility import sample_of
from worker.steps.scope import prediction_of, unlearned_by
from worker.supervisor import Supervisor
from worker.training.factory import build_net, load_factory
from worker.training.recipe import Recipe
from worker.training.state import TrainingState, initial_state, weights
from worker.unlearners import joining, recording
from worker.unlearners.recording import RunRecorder

BLOCKS = PLAN["blocks"]
LAST = BLOCKS - 1
BeforeBlock = Callable[[int, int], None]


def manifest_of(lab: Lab) -> Manifest:
    return Manifest.from_bytes(lab.own.store.get(lab.version.manifest_digest))


def files(lab: Lab) -> list[str]:
    return [file.digest for file in manifest_of(lab).constituents]


def evidence(lab: Lab) -> dict[str, Any]:
    checks: dict[str, Any] = json.loads(lab.own.store.get(manifest_of(lab).evidence))["checks"]
    return checks


def blocks_of(lab: Lab, *people: str) -> list[tuple[int, int]]:
    """Return the (shard, block) of people who were trained on."""
    places = [place for name in people for place in lab.places[name]]
    return [(shard, block) for shard, block in places if shard is not None and block is not None]


@pytest.mark.parametrize(
    ("net", "optimizer", "shards"),
    [
        ("mlp", "sgd", 2),
        ("mlp", "adamw", 5),
        ("lenet5", "momentum", 3),
        ("lenet5_batch_norm", "adamw", 3),
        ("lenet5_dropout", "momentum", 3),
    ],
)
def test_every_constituent_equals_the_oracles_after_deletions(
    new_lab: NewLab, net: str, optimizer: str, shards: int
) -> None:
    people = few_digits(MANY_LONERS)
    lab = new_lab(recipe_of(net, optimizer, shards=shards), source=people, checkpoints="sqrt")
    lab.work()
    assert lab.audit().is_equal
    loner = lab.in_shard(shards - 1, block=2)[0]
    expected = lab.straight(without=[loner])
    lab.forget(loner)
    found = [tensor_digest(unpack(lab.own.store.get(digest))[0]) for digest in files(lab)]
    assert found == [tensor_digest(each) for each in expected]
    # Between publish and purge the family's records still exist: the oracle gets them as NaN.
    context = lab.advance(lab.settle_claim(lab.families[3]), until="purge")
    assert lab.audit(poisoned=True).is_equal
    lab.finish(context.claim)
    assert lab.audit().is_equal
    assert [version.status for version in lab.versions] == ["purged", "purged", "published"]


@pytest.mark.parametrize("shard", range(3))
def test_a_deletion_runs_the_blocks_of_one_shard_and_keeps_the_files_of_the_others(
    sharded: Lab, shard: int
) -> None:
    before, kept = files(sharded), [row for row in sharded.checkpoints if row.shard != shard]
    claim = sharded.settle_claim(sharded.in_shard(shard, block=2)[0])
    sharded.finish(claim)
    after, ran = files(sharded), sharded.view(claim).outputs["unlearn"]
    assert [other for other in range(3) if before[other] != after[other]] == [shard]
    assert ran["num_blocks"] == BLOCKS - 2  # type: ignore[index, call-overload]
    assert evidence(sharded)["witness"]["figures"]["touched"] == {str(shard): 2}
    assert [row.id for row in sharded.checkpoints if row.shard != shard] == [row.id for row in kept]
    own = [(row.position, row.job_id == claim.job_id) for row in sharded.checkpoints if row.shard == shard]
    assert own == [(position, position >= 2) for position in range(BLOCKS)]
    assert all(sharded.own.store.has(row.digest) for row in sharded.checkpoints)
    assert not sharded.own.store.has(before[shard])


def test_people_of_several_shards_leave_in_one_job(sharded: Lab) -> None:
    people = [
        sharded.in_shard(0, block=4)[0],
        sharded.in_shard(2, block=1)[0],
        sharded.in_shard(2, block=3)[0],
    ]
    expected, before = sharded.straight_digest(without=people), files(sharded)
    context = sharded.advance(sharded.settle_claim(*people), until="verify")
    assert context.output_of("unlearn")["num_blocks"] == (BLOCKS - 4) + (BLOCKS - 1)
    sharded.finish(context.claim)
    assert (sharded.version.weights_digest, sharded.version.covers) == (expected, 3)
    assert [new == old for new, old in zip(files(sharded), before, strict=True)] == [False, True, False]
    assert sharded.audit().is_equal


def test_over_random_deletions_the_blocks_run_are_those_predicted_and_the_end_is_exact(
    new_lab: NewLab,
) -> None:
    lab = new_lab(recipe_of(shards=3, blocks=9), checkpoints="sqrt")
    lab.work()
    chance = random.Random(5)
    for _ in range(20):
        people = chance.sample(sorted(lab.places), k=chance.choice([1, 1, 2]))
        touched = {shard for shard, _ in blocks_of(lab, *people)}
        context = lab.advance(lab.settle_claim(*people), until="verify")
        predicted, ran = prediction_of(context), unlearned_by(context)
        assert ran.num_blocks == predicted.num_blocks
        assert {shard for shard in range(3) if predicted.resumes_after[shard] < 8} == touched
        lab.finish(context.claim)
    assert lab.audit().is_equal


@pytest.fixture
def at_block(monkeypatch: pytest.MonkeyPatch) -> Callable[[BeforeBlock], None]:
    """Lets something happen after each block (shard, position) of a run, which looks at every block."""
    monkeypatch.setattr(joining, "LOOK_SECONDS", 0.0)

    def install(happen: BeforeBlock) -> None:
        recorded = RunRecorder.after_block

        def after_block(self: RunRecorder, position: int, state: TrainingState, *, num_records: int) -> None:
            recorded(self, position, state, num_records=num_records)
            happen(self.shard, position)

        monkeypatch.setattr(RunRecorder, "after_block", after_block)

    return install


def seal_at(lab: Lab, shard: int, position: int, people: Iterator[str]) -> BeforeBlock:
    """Seal the next person whenever a block is through."""

    def happen(own: int, at: int) -> None:
        if (own, at) == (shard, position):
            for person in people:
                lab.world.sealed(person)
                return

    return happen


@pytest.mark.parametrize(
    ("shard", "block", "num_returns"),
    [
        (0, 1, 1),  # through already
        (0, LAST, 1),
        (1, 0, 0),  # nobody had left it: it begins last
        (2, 2, 1),  # at work, behind
        (2, 4, 0),  # at work, ahead
    ],
)
def test_whoever_joins_sends_back_only_the_shard_that_has_met_them(
    sharded: Lab, at_block: Callable[[BeforeBlock], None], shard: int, block: int, num_returns: int
) -> None:
    people = [sharded.in_shard(0, block=3)[0], sharded.in_shard(2, block=1)[0]]
    joined = sharded.in_shard(shard, block=block)[1]
    expected = sharded.straight_digest(without=[*people, joined])
    at_block(seal_at(sharded, 2, 3, iter([joined])))
    claim = sharded.settle_claim(*people)
    sharded.finish(claim)
    assert (sharded.version.weights_digest, sharded.version.covers) == (expected, 3)
    prepared: Any = sharded.view(claim).outputs["prepare"]
    assert prepared["num_returns"] == num_returns
    assert evidence(sharded)["witness"]["figures"]["touched"].keys() == {"0", "2", str(shard)}
    assert sharded.work().number == 2  # the job that was queued for them only purges and attests


def test_after_two_shards_went_back_the_third_waits_for_the_next_job(
    sharded: Lab, at_block: Callable[[BeforeBlock], None]
) -> None:
    people = [sharded.in_shard(shard, block=1)[0] for shard in range(3)]
    late = [sharded.in_shard(shard, block=1)[1] for shard in range(3)]
    all_gone = sharded.straight_digest(without=[*people, *late])
    two_gone = sharded.straight_digest(without=[*people, *late[:2]])

    def seal_all(shard: int, position: int) -> None:
        if (shard, position) == (2, 3):
            for person in late:
                sharded.world.sealed(person)

    at_block(seal_all)
    sharded.finish(sharded.settle_claim(*people))
    assert (sharded.version.weights_digest, sharded.version.covers) == (two_gone, 5)
    version = sharded.work()
    assert (version.number, version.covers, version.weights_digest) == (3, 6, all_gone)


def test_a_power_cut_at_any_write_of_a_job_over_two_shards_changes_no_bit(
    sharded_home: Path, tmp_path: Path
) -> None:
    resumed_in_second = 0
    for num_writes in count():
        lab = Lab.copied(sharded_home, to=tmp_path / str(num_writes))
        people = [lab.in_shard(0, block=3)[0], lab.in_shard(2, block=2)[0]]
        expected = lab.straight_digest(without=people)
        claim = lab.settle_claim(*people)
        is_cut = has_power_cut(lab, claim, num_writes=num_writes, after_bytes=True)
        if is_cut:
            take_over(lab, claim)
            resumed_in_second += resumes_in_second_shard(lab.view(claim).outputs["unlearn"])
        assert lab.view(claim).status is JobStatus.SUCCEEDED
        assert [version.number for version in lab.versions] == [1, 2]
        assert lab.version.weights_digest == expected
        lab.close()
        if not is_cut:
            break
    assert num_writes >= 12
    assert resumed_in_second >= 1


def resumes_in_second_shard(unlearned: Any) -> bool:
    """Whether shard 0 was found at its end and shard 2 in the middle."""
    first, _, second = unlearned["resumed_after"]
    return bool(first == LAST and 2 <= second < LAST)


def test_a_job_over_shards_runs_in_child_processes_to_the_same_digest(sharded: Lab) -> None:
    people = [sharded.in_shard(1, block=2)[0], sharded.in_shard(2, block=2)[0]]
    expected = sharded.straight_digest(without=people)
    for person in people:
        sharded.world.post(person)
    Supervisor(sharded.own).work_until_idle()
    assert sharded.version.weights_digest == expected


def test_retraining_trains_every_shard_and_gives_what_replay_gives(sharded: Lab) -> None:
    person = sharded.in_shard(1, block=4)[0]
    expected, before = sharded.straight_digest(without=[person]), files(sharded)
    sharded.set_policy(final_method="retrain")
    claim = sharded.settle_claim(person)
    sharded.finish(claim)
    ran: Any = sharded.view(claim).outputs["unlearn"]
    assert (ran["num_blocks"], ran["resumed_after"]) == (3 * BLOCKS, [-1, -1, -1])
    assert sharded.version.weights_digest == expected
    assert [new == old for new, old in zip(files(sharded), before, strict=True)] == [True, False, True]


def test_when_all_of_a_shard_are_deleted_its_constituent_is_the_initialisation_and_flagged(
    new_lab: NewLab,
) -> None:
    lab = new_lab(recipe_of(shards=8))
    lab.work()
    shard = min((each for each in range(8) if lab.in_shard(each)), key=lambda each: len(lab.in_shard(each)))
    context = lab.advance(lab.settle_claim(*lab.in_shard(shard)), until="publish")
    (warning,) = [str(each) for each in context.output_of("verify")["warnings"] if "remainder" in str(each)]  # type: ignore[union-attr]
    assert f"nobody is left in 1 of 8 shards ({shard})" in warning
    lab.finish(context.claim)
    assert lab.audit().is_equal
    fresh = initial_state(recipe_of(shards=8), shard=shard, device=choose_device())
    tensors, _ = unpack(lab.own.store.get(files(lab)[shard]))
    assert tensor_digest(tensors) == tensor_digest(weights(fresh.net))


def test_shards_that_were_empty_from_the_start_are_flagged_and_exact(new_lab: NewLab) -> None:
    lab = new_lab(recipe_of(shards=60, blocks=1, epochs=1))
    lab.work()
    remainder = evidence(lab)["remainder"]
    sizes = remainder["figures"]["by_shard"]
    assert (len(sizes), min(sizes), remainder["holds"]) == (60, 0, False)
    assert sum(sizes) == remainder["figures"]["num_training_records"]
    person = lab.in_shard(max(range(60), key=sizes.__getitem__))[0]
    expected = lab.straight_digest(without=[person])
    assert lab.forget(person).weights_digest == expected


def test_progress_is_that_of_the_whole_job(new_lab: NewLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "PROGRESS_SECONDS", 0.0)
    lab = new_lab(recipe_of(shards=3), checkpoints="all")
    seen: list[tuple[int, int]] = []
    recorded = RunRecorder.after_block

    def after_block(self: RunRecorder, position: int, state: TrainingState, *, num_records: int) -> None:
        recorded(self, position, state, num_records=num_records)
        progress: Any = lab.view(claim).progress
        seen.append((progress["num_records"], progress["total_records"]))

    monkeypatch.setattr(RunRecorder, "after_block", after_block)
    claim = lab.settle_claim()
    lab.finish(claim)
    num_training = evidence(lab)["remainder"]["figures"]["num_training_records"]
    assert {total for _, total in seen} == {num_training * PLAN["epochs"]}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)  # a block may hold nobody
    assert seen[-1][0] == num_training * PLAN["epochs"]
    assert len(seen) == 3 * BLOCKS


@pytest.mark.parametrize("combine", ["mean", "vote"])
def test_what_a_consumer_loads_is_what_the_evidence_judged(
    new_lab: NewLab, tmp_path: Path, combine: str
) -> None:
    recipe = voting(recipe_of(shards=3, epochs=12)) if combine == "vote" else recipe_of(shards=3, epochs=12)
    lab = new_lab(recipe, source=few_digits(MANY_LONERS))
    lab.work()
    manifest = fetch(lab, tmp_path)
    assert manifest.combine == combine
    names = ["weights-000.safetensors", "weights-001.safetensors", "weights-002.safetensors"]
    assert [file.name for file in manifest.files] == [*names, "evidence.json"]
    version = load_ensemble(tmp_path, manifest, factory=load_factory(recipe))
    context = JobContext(lab.own, lab.settle_claim(lab.in_shard(0)[0]))
    table = context.retained(covers=0).held_out()
    held_out = sample_of(context.loader(table), table)
    hits = version.labels(held_out.inputs) == held_out.labels
    stated = evidence(lab)["utility"]["figures"]["after"]["held_out"]
    assert round(float(hits.double().mean()), 6) == stated > 0.2
    shares = version.probabilities(held_out.inputs)
    whole = (shares * 3).round().eq(shares * 3).all()
    assert bool(whole) is (combine == "vote")


def fetch(lab: Lab, folder: Path) -> Manifest:
    """Fetch the current version as the README does: its facts, then its files."""
    app = create_app(lab.own.settings)
    with client_of(app, lab.world.key(Scope.VERSIONS_READ)) as api:
        url = f"/models/{lab.model.name}/versions/{lab.version.number}"
        facts = api.get(url).json()
        for file in facts["files"]:
            (folder / file["name"]).write_bytes(api.get(f"{url}/files/{file['name']}").content)
    app.state.context.engine.dispose()
    return Manifest.from_bytes(canonical_json(facts["manifest"]))


def test_a_version_of_one_shard_says_nothing_of_combining(lab: Lab) -> None:
    manifest = manifest_of(lab)
    assert (manifest.combine, "combine" in manifest.to_json()) == (None, False)
    assert [file.name for file in manifest.files] == ["weights.safetensors", "evidence.json"]


def test_constituents_begin_and_learn_differently(sharded: Lab) -> None:
    device = choose_device()
    inits = [
        tensor_digest(build_net(recipe_of(shards=3), shard=s, device=device).state_dict()) for s in range(3)
    ]
    assert len(set(inits)) == len(set(files(sharded))) == 3


def voting(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"combine": "vote"})})
