"""What a deletion costs under each placement of checkpoints: planned, predicted and run are one number."""

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from app.db.records import retained_records
from app.db.session import reading
from app.services.prepare import Scope
from app.services.queue_job import policy_of
from tests.integration.worker.conftest import NewLab
from tests.support.trained import Lab, few_digits, recipe_of
from worker.data.sources import SourceTable
from worker.training.placement import expected_blocks, first_touched_counts, kept_positions, resume_before
from worker.training.recipe import recipe_from_json
from worker.unlearners import UNLEARNERS

BLOCKS, CUTS, HOT_BLOCKS = 9, (0.5, 1.0), (2, 2)
NUM_DELETIONS = 8

PLACEMENTS: dict[str, dict[str, object]] = {
    "all": {"checkpoints": "all"},
    "sqrt": {"checkpoints": "sqrt"},
    "log": {"checkpoints": "log"},
    "uniform": {"checkpoints": "prior", "checkpoint_count": 2},
    "recency": {"checkpoints": "prior", "prior": {"kind": "recency", "half_life_blocks": 1.5}},
    "hot": {
        "checkpoints": "prior",
        "checkpoint_count": 4,
        "prior": {"kind": "hot_share", "deletion_share": 0.8, "block_share": 0.3},
    },
    "weights": {
        "checkpoints": "prior",
        "checkpoint_count": 1,
        "prior": {"kind": "weights", "weights": [0, 0, 1, 4, 0, 0, 1, 0, 0.5]},
    },
}


def likely_digits() -> SourceTable:
    """Return digits whose subjects are more or less likely to be deleted; families may use two blocks."""
    digits = few_digits()
    numbers = [int(subject.split("-")[1]) for subject in digits.subject_ids]
    return replace(
        digits,
        likelihood=np.array([(number % 6) / 4 for number in numbers]),
        spread=np.array([2 if subject.startswith("family") else 1 for subject in digits.subject_ids]),
    )


@pytest.fixture(params=PLACEMENTS)
def placed(request: pytest.FixtureRequest, new_lab: NewLab) -> Iterator[Lab]:
    """A model trained hot last under one placement."""
    recipe = recipe_of(blocks=BLOCKS, epochs=1, hot_cuts=CUTS, hot_blocks=HOT_BLOCKS)
    lab = new_lab(recipe, source=likely_digits(), **PLACEMENTS[request.param])
    lab.work()
    return lab


def planned_blocks(lab: Lab, subject: str) -> int:
    plan = recipe_from_json(lab.model.recipe).plan
    first = min(block for block in lab.blocks[subject] if block is not None)
    kept = kept_positions(policy_of(lab.model), plan=plan)
    return plan.num_positions - 1 - resume_before(first, kept)


def test_planned_predicted_and_run_blocks_are_equal_and_the_end_equals_the_oracle(placed: Lab) -> None:
    trained = [name for name, blocks in placed.blocks.items() if blocks != {None}]
    chosen = random.Random(5).sample(trained, NUM_DELETIONS)
    for number, subject in enumerate(chosen):
        planned = planned_blocks(placed, subject)
        context = placed.advance(placed.settle_claim(subject), until="purge")
        predicted, run = context.output_of("prepare")["prediction"], context.output_of("unlearn")
        assert (predicted["num_blocks"], run["num_blocks"]) == (planned, planned)
        assert predicted["resumes_after"] == run["resumed_after"]
        if number == NUM_DELETIONS - 1:
            assert placed.audit(poisoned=True).is_equal
        placed.finish(context.claim)


def test_the_expectation_is_the_mean_of_what_prepare_predicts_for_each_subject(placed: Lab) -> None:
    recipe, policy = recipe_from_json(placed.model.recipe), policy_of(placed.model)
    with reading(placed.own.sessions) as session:
        rows = [row for row in retained_records(session, placed.model, covers=0) if row.shard is not None]
    shard_N, block_N = (np.array([getattr(row, name) for row in rows]) for name in ("shard", "block"))
    refs = [row.subject_ref for row in rows]
    firsts = {ref: min((row.shard, row.block) for row in rows if row.subject_ref == ref) for ref in set(refs)}
    context = placed.advance(placed.settle_claim("loner-0"), until="unlearn")
    table = context.retained(covers=0)
    predicted = {}
    for ref, (shard, block) in firsts.items():
        owned = {row.row for row in rows if row.subject_ref == ref}
        others = table.chosen(np.flatnonzero(~np.isin(table.row_N, list(owned))))
        scope = Scope(covers=0, settled=0, first_touched={shard: block}, is_covered=False, has_version=True)
        predicted[ref] = UNLEARNERS["replay"].predict(context, scope, table=others).num_blocks
    counts_SB = first_touched_counts(refs, shard_N, block_N, plan=recipe.plan)
    kept = kept_positions(policy, plan=recipe.plan)
    mean = sum(predicted.values()) / len(predicted)
    assert expected_blocks(kept, counts_SB, plan=recipe.plan) == pytest.approx(mean, rel=1e-12)

    weights = policy.prior.block_weights(BLOCKS)
    chance = {ref: weights[block] / counts_SB[shard, block] for ref, (shard, block) in firsts.items()}
    weighted = sum(chance[ref] * num for ref, num in predicted.items()) / sum(chance.values())
    found = expected_blocks(kept, counts_SB, plan=recipe.plan, weights=weights)
    assert found == pytest.approx(weighted, rel=1e-12)


def test_who_is_likely_to_be_deleted_lies_in_the_last_blocks_and_costs_little(new_lab: NewLab) -> None:
    recipe = recipe_of(blocks=BLOCKS, epochs=1, hot_cuts=CUTS, hot_blocks=HOT_BLOCKS)
    lab = new_lab(recipe, source=likely_digits(), checkpoints="all")
    lab.work()
    likelihood = {name: int(name.split("-")[1]) % 6 / 4 for name in lab.blocks}
    for name, blocks in lab.blocks.items():
        low, high = (0, 5) if likelihood[name] < 0.5 else (5, 7) if likelihood[name] < 1 else (7, 9)
        assert all(block is None or low <= block < high for block in blocks)
    hottest = next(name for name in lab.in_block(7) if likelihood[name] >= 1)
    expected = lab.straight_digest(without=[hottest])
    context = lab.advance(lab.settle_claim(hottest), until="purge")
    assert context.output_of("unlearn")["num_blocks"] == 2
    assert lab.version.weights_digest == expected
    assert lab.audit(poisoned=True).is_equal


def test_no_placement_changes_a_bit_and_later_passes_keep_only_their_end(new_lab: NewLab) -> None:
    recipe = recipe_of(blocks=5, passes=2, epochs=1)
    digests = set()
    for policy in ({"checkpoints": "all"}, {"checkpoints": "log"}, {"checkpoints": "prior"}):
        lab = new_lab(recipe, **policy)
        lab.work()
        person = lab.in_block(4)[0]
        positions = [row.position for row in lab.checkpoints]
        assert positions == kept_positions(policy_of(lab.model), plan=recipe.plan)
        planned = planned_blocks(lab, person)
        context = lab.advance(lab.settle_claim(person), until="purge")
        assert context.output_of("prepare")["prediction"]["num_blocks"] == planned
        assert context.output_of("unlearn")["num_blocks"] == planned
        digests.add(lab.straight_digest(without=[person]))
        digests.add(lab.version.weights_digest)
    assert len(digests) == 3  # plan keys differ from model to model
