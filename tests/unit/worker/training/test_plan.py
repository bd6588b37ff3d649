"""The plan depends on a record's own key and on nothing else."""

import hmac

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.training import plan as planning
from worker.training.plan import (
    Visit,
    batch_seed,
    batches_of,
    chosen_positions,
    init_seed,
    place,
    schedule_step,
    tokens_from_bytes,
)
from worker.training.recipe import PlanPart

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15

no_deadline = settings(deadline=None, max_examples=60)
words = st.integers(0, MASK)
refs = st.binary(min_size=32, max_size=32)
tokens = st.lists(st.binary(min_size=16, max_size=16), unique=True, max_size=30)
visits = st.builds(
    Visit,
    shard=st.integers(0, 3),
    pass_index=st.integers(0, 3),
    block=st.integers(0, 999),
    epoch=st.integers(0, 9),
)
plans = st.builds(
    PlanPart,
    blocks=st.integers(1, 1000),
    shards=st.integers(1, 20),
    epochs=st.integers(1, 5),
    passes=st.integers(1, 3),
    batches_per_block=st.integers(1, 9),
    batch_size=st.integers(1, 64),
    seed=st.integers(0, 2**53 - 1),
)


def order_of(plan: PlanPart, visit: Visit, present: list[bytes]) -> list[list[bytes]]:
    """The tokens of each batch, in the order in which they are trained on."""
    return [
        [present[i] for i in batch] for batch in batches_of(plan, tokens_from_bytes(b"".join(present)), visit)
    ]


@no_deadline
@given(plan=plans, visit=visits, present=tokens, data=st.data())
def test_removing_anybody_moves_nobody_else(
    plan: PlanPart, visit: Visit, present: list[bytes], data: st.DataObject
) -> None:
    gone = set(data.draw(st.lists(st.sampled_from(present)) if present else st.just([])))
    with_all = order_of(plan, visit, present)
    without = order_of(plan, visit, [token for token in present if token not in gone])
    assert without == [[token for token in batch if token not in gone] for batch in with_all]


@no_deadline
@given(plan=plans, visit=visits, present=tokens, data=st.data())
def test_the_order_in_which_records_lie_does_not_matter(
    plan: PlanPart, visit: Visit, present: list[bytes], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(present))
    assert order_of(plan, visit, shuffled) == order_of(plan, visit, present)


@no_deadline
@given(plan=plans, visit=visits, present=tokens)
def test_every_record_is_met_once_in_every_epoch(plan: PlanPart, visit: Visit, present: list[bytes]) -> None:
    batches = order_of(plan, visit, present)
    assert len(batches) == plan.batches_per_block
    assert sorted(token for batch in batches for token in batch) == sorted(present)


def test_equal_ranks_are_ordered_by_the_token() -> None:
    plan = PlanPart(blocks=1, batch_size=1)
    half = bytes(range(8))
    same_rank = [first.to_bytes(8, "little") + half for first in (5, 3, 9)]
    expected = [sorted(same_rank, key=lambda token: int.from_bytes(token[:8], "little"))]
    assert order_of(plan, Visit(0, 0, 0, 0), same_rank) == expected


@no_deadline
@given(key=refs, plan=plans, subject=refs, records=st.lists(refs, min_size=2, max_size=20, unique=True))
def test_all_records_of_a_subject_lie_in_one_block(
    key: bytes, plan: PlanPart, subject: bytes, records: list[bytes]
) -> None:
    placed = [place(key, plan, record_ref=ref, subject_ref=subject) for ref in records]
    assert len({(each.shard, each.block) for each in placed}) == 1
    assert 0 <= placed[0].block < plan.blocks
    assert 0 <= placed[0].shard < plan.shards
    single = [
        place(key, plan.model_copy(update={"shards": 1}), record_ref=ref, subject_ref=subject)
        for ref in records
    ]
    assert [(each.block, each.token) for each in single] == [(each.block, each.token) for each in placed]
    assert len({each.token for each in placed}) == len(records)


@no_deadline
@given(key=refs, subject=refs, spread=st.integers(2, 6))
def test_a_spread_subject_uses_at_most_so_many_blocks_and_really_several(
    key: bytes, subject: bytes, spread: int
) -> None:
    plan = PlanPart(blocks=10**6, batch_size=1)
    records = [number.to_bytes(32, "little") for number in range(80)]
    blocks = {place(key, plan, record_ref=r, subject_ref=subject, spread=spread).block for r in records}
    assert 2 <= len(blocks) <= spread
    assert place(key, plan, record_ref=records[0], subject_ref=subject).block in blocks


likelihoods = st.none() | st.floats(0, 10)
hot_plans = st.lists(
    st.tuples(st.floats(0.001, 10), st.integers(1, 9)), max_size=4, unique_by=lambda cut: cut[0]
).map(
    lambda cuts: PlanPart(
        blocks=40,
        batch_size=1,
        hot_cuts=sorted(cut for cut, _ in cuts),
        hot_blocks=[num for _, num in cuts],
    )
)


@no_deadline
@given(key=refs, plan=plans, subject=refs, record=refs, spread=st.integers(1, 4), likelihood=likelihoods)
def test_without_cuts_the_likelihood_says_nothing_and_the_block_is_the_hash_of_the_subject(
    key: bytes, plan: PlanPart, subject: bytes, record: bytes, spread: int, likelihood: float | None
) -> None:
    placed = place(key, plan, record_ref=record, subject_ref=subject, spread=spread, likelihood=likelihood)
    draw = int.from_bytes(placed.token[:8], "little") % spread
    name = b"block" if draw == 0 else b"block/%d" % draw
    digest = hmac.digest(key, name + b"\0" + subject, "sha256")
    assert placed.block == int.from_bytes(digest[:8], "little") % plan.blocks


@no_deadline
@given(key=refs, plan=hot_plans, subject=refs, record=refs, spread=st.integers(1, 4), likelihood=likelihoods)
def test_who_is_likelier_to_be_deleted_lies_in_the_range_of_the_highest_cut_reached(
    key: bytes, plan: PlanPart, subject: bytes, record: bytes, spread: int, likelihood: float | None
) -> None:
    placed = place(key, plan, record_ref=record, subject_ref=subject, spread=spread, likelihood=likelihood)
    num_reached = sum(likelihood is not None and likelihood >= cut for cut in plan.hot_cuts)
    behind = sum(plan.hot_blocks[num_reached:])
    size = plan.hot_blocks[num_reached - 1] if num_reached else 40 - sum(plan.hot_blocks)
    assert 40 - behind - size <= placed.block < 40 - behind
    cold = place(key, plan, record_ref=record, subject_ref=subject, spread=spread)
    assert (cold.shard, cold.token) == (placed.shard, placed.token)


def test_the_blocks_of_a_range_are_used_evenly_and_the_ranges_are_the_whole_plan() -> None:
    plan = PlanPart(blocks=20, batch_size=1, hot_cuts=(0.5, 2.0), hot_blocks=(5, 3))
    assert [block for band in plan.bands for block in band] == list(range(20))
    for likelihood, band in ((0.49, plan.bands[0]), (0.5, plan.bands[1]), (2.0, plan.bands[2])):
        subjects = [number.to_bytes(32, "little") for number in range(2000)]
        blocks = [
            place(b"k" * 32, plan, record_ref=ref, subject_ref=ref, likelihood=likelihood).block
            for ref in subjects
        ]
        counts = np.bincount(blocks, minlength=20)
        assert set(np.flatnonzero(counts)) == set(band)
        mean = len(subjects) / len(band)
        assert np.abs(counts[list(band)] - mean).max() < 5 * mean**0.5  # five standard deviations


def test_another_plan_key_gives_another_place() -> None:
    plan = PlanPart(blocks=10**6, batch_size=1)
    one, other = (place(key * 32, plan, record_ref=b"r", subject_ref=b"s") for key in (b"1", b"2"))
    assert one.block != other.block
    assert one.token != other.token


def test_splitmix64_gives_the_published_values() -> None:
    state, outputs = 1234567, []
    for _ in range(5):
        outputs.append(planning._mix(state))
        state = (state + GOLDEN) & MASK
    assert outputs == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@no_deadline
@given(st.lists(words, min_size=1, max_size=50))
def test_mixing_an_array_equals_mixing_each(values: list[int]) -> None:
    mixed = planning._mix_array(np.array(values, dtype=np.uint64))
    assert mixed.tolist() == [planning._mix(value) for value in values]


def test_all_seeds_of_a_training_differ() -> None:
    plan = PlanPart(blocks=50, epochs=2, passes=2, batches_per_block=5, batch_size=1)
    visits_of_plan = [Visit(0, p, b, e) for p in range(2) for b in range(50) for e in range(2)]
    seeds = {batch_seed(plan, visit, batch=batch) for visit in visits_of_plan for batch in range(5)}
    seeds |= {init_seed(plan, shard=shard) for shard in range(3)}
    assert len(seeds) == 2 * 50 * 2 * 5 + 3
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_steps_count_on_without_gap_over_passes_epochs_and_batches() -> None:
    plan = PlanPart(blocks=3, epochs=2, passes=2, batches_per_block=4, batch_size=1)
    steps = [
        schedule_step(plan, position=position, epoch=epoch, batch=batch)
        for position in range(plan.num_positions)
        for epoch in range(2)
        for batch in range(4)
    ]
    assert steps == list(range(plan.num_steps))


@pytest.mark.parametrize("num", [0, 1, 3, 9])
def test_watched_positions_are_some_of_the_candidates_and_depend_on_the_key(num: int) -> None:
    candidates = list(range(10, 15))
    chosen = chosen_positions(b"key", candidates=candidates, num=num)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(num, 5)
    assert set(chosen) <= set(candidates)
    others = {tuple(chosen_positions(bytes([n]), candidates=candidates, num=1)) for n in range(40)}
    assert len(others) == 5
