"""A checkpoint's key changes with every record met so far, and with nothing met later."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from worker.data.records import RecordTable
from worker.training.checkpoints import RunIdentity, checkpoint_keys, records_digest
from worker.training.recipe import PlanPart

BLOCKS, NUM = 5, 12
IDENTITY = RunIdentity(
    recipe_digest="r", plan_key_id="p", environment_digest="e", factory_digest="f"
)  # fmt: skip
PLAN = PlanPart(blocks=BLOCKS, batch_size=1)


def table_of(num: int = NUM, *, blocks: list[int] | None = None) -> RecordTable:
    return RecordTable(
        row_N=np.arange(num),
        record_refs=[bytes([n]) * 32 for n in range(num)],
        salts=[bytes([n, 1]) * 8 for n in range(num)],
        content_digests=[bytes([n, 2]) * 16 for n in range(num)],
        is_held_out_N=np.zeros(num, dtype=bool),
        shard_N=np.zeros(num, dtype=np.int64),
        block_N=np.array(blocks or [n % BLOCKS for n in range(num)]),
        token_N2=np.zeros((num, 2), dtype=np.uint64),
    )


def keys_of(table: RecordTable, *, identity: RunIdentity = IDENTITY, plan: PlanPart = PLAN) -> list[str]:
    return checkpoint_keys(identity, table, plan=plan, shard=0)


@given(st.integers(0, NUM - 1))
def test_without_a_record_the_keys_differ_from_its_block_on_and_not_before(gone: int) -> None:
    table = table_of()
    block = int(table.block_N[gone])
    without = table.chosen(np.array([n for n in range(NUM) if n != gone]))
    same = [a == b for a, b in zip(keys_of(table), keys_of(without), strict=True)]
    assert same == [position < block for position in range(BLOCKS)]
    assert records_digest(table) != records_digest(without)


def test_in_a_second_pass_every_record_has_been_met() -> None:
    plan, table = PlanPart(blocks=BLOCKS, passes=2, batch_size=1), table_of()
    without = table.chosen(np.array([n for n in range(NUM) if table.block_N[n] != 4 or n != 4]))
    pairs = zip(keys_of(table, plan=plan), keys_of(without, plan=plan), strict=True)
    assert [a == b for a, b in pairs] == [True] * 4 + [False] * 6


def test_a_corrected_record_is_another_one() -> None:
    table = table_of()
    digests = [bytes(32), *table.content_digests[1:]]
    corrected = replace(table, content_digests=digests)
    assert not set(keys_of(table)) & set(keys_of(corrected))


def test_the_order_in_which_rows_were_read_does_not_matter() -> None:
    table = table_of()
    assert keys_of(table.chosen(np.arange(NUM)[::-1].copy())) == keys_of(table)


def test_held_out_records_are_in_no_key() -> None:
    table = table_of()
    held_out = replace(table, is_held_out_N=np.arange(NUM) == 3)
    assert keys_of(held_out) == keys_of(table.chosen(np.array([n for n in range(NUM) if n != 3])))


def test_any_part_of_the_identity_makes_other_keys() -> None:
    fields = ("recipe_digest", "plan_key_id", "environment_digest", "factory_digest")
    others = [replace(IDENTITY, **{name: "x"}) for name in fields]
    keys = [keys_of(table_of(), identity=identity)[0] for identity in (IDENTITY, *others)]
    assert len(set(keys)) == 5
