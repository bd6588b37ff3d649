"""Prove on two blocks that a recipe replays bit for bit, each run in a process of its own.

Two blocks straight against block + fresh process + block; and one record dropped against the same data
without it. What breaks replay shows here by the name of a tensor: non-persistent buffers, Python
attributes, a module's own random stream, losses that mix records. With several shards the straight run comes
after the nets of the others: a deletion builds only those that it touches. No torch is imported here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from worker.data.data_files import Layout
from worker.data.records import RecordTable
from worker.processes import FreshCalls
from worker.training.recipe import Recipe


@dataclass(frozen=True)
class ProofRun:
    """Some positions of shard 0 over some records; ``is_copied`` runs over a copy that holds nothing else.

    ``builds_all`` makes the nets of all other shards first, in the same process.
    """

    recipe: Recipe
    layout: Layout
    data_folder: Path
    dataset_id: str
    table: RecordTable
    positions: tuple[int, ...]
    state: bytes | None = None
    poisoned: tuple[int, ...] = ()
    is_copied: bool = False
    builds_all: bool = False


@dataclass(frozen=True)
class Measured:
    """Bytes of a full state, optimizer included, and of the parameters alone; seconds of a full training."""

    state_bytes: int
    parameter_bytes: int
    training_seconds: float


def prove(run: ProofRun, *, calls: FreshCalls) -> list[str]:
    """Return the names of tensors that differ between runs that must agree; empty when it replays.

    ``run`` names two consecutive positions with records in each.
    """
    first, second = run.positions
    straight = calls.begin("worker.trial:tensor_digests", replace(run, builds_all=True))
    half = calls.call("worker.trial:execute", replace(run, positions=(first,)))
    resumed = calls.begin("worker.trial:tensor_digests", replace(run, positions=(second,), state=half))
    without = run.table.chosen(np.arange(1, len(run.table)))
    dropped = replace(run, table=without, poisoned=(int(run.table.row_N[0]),))
    kept = calls.begin("worker.trial:tensor_digests", dropped)
    absent = calls.begin("worker.trial:tensor_digests", replace(dropped, poisoned=(), is_copied=True))
    pairs = [(straight.result(), resumed.result()), (kept.result(), absent.result())]
    return sorted({name for one, other in pairs for name in differing(one, other)})


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Return the names of tensors whose digests differ, or that only one of two states has."""
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
