"""Where checkpoints stand, and what a deletion costs: compared with counting it out."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.policy import CheckpointPlacement, Policy
from app.domain.prior import DeletionPrior, PriorKind
from worker.training.placement import (
    BEFORE_FIRST,
    best_positions,
    expected_blocks,
    first_touched_counts,
    kept_positions,
    resume_before,
    witness_gaps,
)
from worker.training.recipe import PlanPart

kept_lists = st.sets(st.integers(0, 40)).map(sorted)
weight_lists = st.lists(st.integers(0, 9).map(float), min_size=1, max_size=10).filter(any)


def plan_of(blocks: int, *, passes: int = 1, shards: int = 1) -> PlanPart:
    plan = PlanPart(blocks=blocks, passes=passes, batch_size=1)
    return plan.model_copy(update={"shards": shards})


def weighted(*weights: float) -> DeletionPrior:
    return DeletionPrior(kind=PriorKind.WEIGHTS, weights=weights)


def num_run(block: int, kept: Sequence[int], *, num_positions: int) -> int:
    """Count the blocks that a deletion in ``block`` runs again."""
    resume = max((position for position in kept if position < block), default=-1)
    return len(range(resume + 1, num_positions))


def cost_of(weights: Sequence[float], kept: Sequence[int]) -> float:
    num = len(weights)
    return sum(weight * num_run(block, kept, num_positions=num) for block, weight in enumerate(weights))


@given(kept=kept_lists, position=st.integers(0, 45))
def test_the_resume_point_is_the_newest_kept_one_strictly_before(kept: list[int], position: int) -> None:
    expected = max((each for each in kept if each < position), default=BEFORE_FIRST)
    assert resume_before(position, kept) == expected


@settings(deadline=None, max_examples=200)
@given(weights=weight_lists, num=st.integers(1, 10))
def test_the_best_positions_cost_what_the_best_of_all_subsets_does(weights: list[float], num: int) -> None:
    places = range(len(weights) - 1)
    chosen = best_positions(tuple(weights), num=num)
    assert list(chosen) == sorted(set(chosen) & set(places))
    assert len(chosen) == min(num, len(places))
    assert cost_of(weights, chosen) == min(
        cost_of(weights, subset) for subset in combinations(places, len(chosen))
    )


FIGURES = {499: 0.0, 64: 0.013, 22: 0.041, 9: 0.098, 4: 0.198}


@pytest.mark.parametrize("count", FIGURES)
def test_of_500_blocks_so_many_checkpoints_cost_so_much_more_than_all(count: int) -> None:
    policy = Policy(checkpoints=CheckpointPlacement.PRIOR, checkpoint_count=count)
    plan, counts_SB = plan_of(500), np.full((1, 500), 3)
    cost = expected_blocks(kept_positions(policy, plan=plan), counts_SB, plan=plan)
    # Evenly spaced ones cut the plan into count + 1 parts: B (count + 2) / (2 (count + 1)).
    assert cost == pytest.approx(500 * (count + 2) / (2 * (count + 1)), rel=1e-4)
    assert cost / 250.5 - 1 == pytest.approx(FIGURES[count], abs=0.0005)


def test_sqrt_costs_four_percent_more_than_all_and_has_the_published_witness_gap() -> None:
    plan, counts_SB = plan_of(500), np.full((1, 500), 3)
    kept = {
        placement: kept_positions(Policy(checkpoints=placement), plan=plan)
        for placement in CheckpointPlacement
    }
    cost = {name: expected_blocks(positions, counts_SB, plan=plan) for name, positions in kept.items()}
    assert cost["all"] == 250.5
    assert cost["sqrt"] / cost["all"] - 1 == pytest.approx(0.041, abs=0.001)
    assert len(kept[CheckpointPlacement.SQRT]) == 22 + 1
    gaps = {name: witness_gaps(positions, counts_SB, plan=plan) for name, positions in kept.items()}
    assert gaps["all"] == (0.0, 0)
    assert (round(gaps["sqrt"][0]), gaps["sqrt"][1]) == (10, 21)
    assert (round(gaps["log"][0]), gaps["log"][1]) == (81, 243)


def test_log_spacing_stands_a_power_of_two_before_the_end() -> None:
    kept = kept_positions(Policy(checkpoints=CheckpointPlacement.LOG), plan=plan_of(500))
    assert [499 - position for position in kept] == [256, 128, 64, 32, 16, 8, 4, 2, 1, 0]


@settings(deadline=None)
@given(weights=st.lists(st.floats(0, 1), min_size=2, max_size=300).filter(any), passes=st.integers(1, 3))
def test_log_spacing_stays_within_twice_the_optimum_for_any_prior(weights: list[float], passes: int) -> None:
    plan, policy = plan_of(len(weights), passes=passes), Policy(checkpoints=CheckpointPlacement.LOG)
    counts_SB = np.ones((1, plan.blocks), dtype=np.int64)
    kept = kept_positions(policy, plan=plan)
    most = range(plan.num_positions)  # nothing is cheaper than a state after every position
    assert expected_blocks(kept, counts_SB, plan=plan, weights=weights) < 2 * expected_blocks(
        most, counts_SB, plan=plan, weights=weights
    )


@given(blocks=st.integers(1, 300), passes=st.integers(1, 3))
def test_positions_end_with_the_last_and_every_other_one_can_be_resumed_from(
    blocks: int, passes: int
) -> None:
    plan = plan_of(blocks, passes=passes)
    for placement in CheckpointPlacement:
        *resumable, last = kept_positions(Policy(checkpoints=placement), plan=plan)
        assert resumable == sorted(set(resumable) & set(range(blocks - 1)))
        assert last == plan.num_positions - 1


@given(blocks=st.integers(2, 60), passes=st.integers(1, 3), data=st.data())
def test_with_its_own_prior_the_prior_placement_is_never_beaten(
    blocks: int, passes: int, data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.integers(0, 9), min_size=blocks, max_size=blocks).filter(any))
    plan, counts_SB = plan_of(blocks, passes=passes), np.ones((1, blocks), dtype=np.int64)
    for placement in (CheckpointPlacement.SQRT, CheckpointPlacement.LOG):
        kept = kept_positions(Policy(checkpoints=placement), plan=plan)
        best = Policy(
            checkpoints=CheckpointPlacement.PRIOR,
            checkpoint_count=max(1, len(kept) - 1),
            prior=weighted(*weights),
        )
        others, own = (
            expected_blocks(positions, counts_SB, plan=plan, weights=weights)
            for positions in (kept, kept_positions(best, plan=plan))
        )
        assert own <= others * (1 + 1e-12)


subjects = st.lists(  # of each subject: its shard, and the blocks of its records
    st.tuples(st.integers(0, 2), st.lists(st.integers(0, 11), min_size=1, max_size=5)), max_size=25
)
worlds = st.tuples(kept_lists, subjects, st.integers(1, 3))


def counts_of(people: list[tuple[int, list[int]]], *, plan: PlanPart) -> np.ndarray:
    rows = [(owner, shard, block) for owner, (shard, blocks) in enumerate(people) for block in blocks]
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    refs = [bytes([owner]) for owner, _, _ in rows]
    shard_N, block_N = (np.array([row[k] for row in rows], dtype=np.int64) for k in (1, 2))
    return first_touched_counts(refs, shard_N, block_N, plan=plan)


@given(worlds)
def test_the_expectation_is_what_counting_every_subjects_deletion_gives(
    world: tuple[list[int], list[tuple[int, list[int]]], int],
) -> None:
    kept, people, passes = world
    plan = plan_of(12, passes=passes, shards=3)
    counts_SB = counts_of(people, plan=plan)
    counted = [num_run(min(blocks), kept, num_positions=plan.num_positions) for _, blocks in people]
    expected = sum(counted) / len(counted) if counted else 0.0
    assert expected_blocks(kept, counts_SB, plan=plan) == pytest.approx(expected)
    gaps = [
        num - num_run(min(b), range(99), num_positions=12 * passes)
        for num, (_, b) in zip(counted, people, strict=True)
    ]
    mean, most = witness_gaps(kept, counts_SB, plan=plan)
    assert mean == pytest.approx(sum(gaps) / len(gaps) if gaps else 0.0)
    assert most >= max(gaps, default=0)


@given(world=worlds, weights=st.lists(st.integers(1, 9), min_size=12, max_size=12))
def test_under_a_prior_blocks_weigh_and_within_a_block_all_subjects_alike(
    world: tuple[list[int], list[tuple[int, list[int]]], int], weights: list[int]
) -> None:
    kept, people, passes = world
    plan = plan_of(12, passes=passes, shards=3)
    firsts = [(shard, min(blocks)) for shard, blocks in people]
    expected = 0.0
    for shard, block in firsts:
        of_shard = {b for s, b in firsts if s == shard}
        in_shard = [b for s, b in firsts if s == shard]
        is_hit = len(in_shard) / len(firsts) * weights[block] / sum(weights[b] for b in of_shard)
        expected += is_hit / in_shard.count(block) * num_run(block, kept, num_positions=plan.num_positions)
    found = expected_blocks(kept, counts_of(people, plan=plan), plan=plan, weights=weights)
    assert found == pytest.approx(expected)


def test_when_nobody_is_where_deletions_are_expected_everybody_counts() -> None:
    plan, counts_SB = plan_of(3), np.array([[1, 0, 3]])
    assert expected_blocks([0, 1, 2], counts_SB, plan=plan, weights=[0, 1, 0]) == (3 + 3 * 1) / 4
