"""Prove on two blocks that a recipe replays bit for bit, each run in a process of its own.

Two blocks straight against block + fresh process + block; and one record dropped against the same data
without it. What breaks replay shows here by the name of a tensor: non-persistent buffers, Python
attributes, a module's own random stream, losses that mix records. With several shards the straight run comes
after the nets of the others: a deletion builds only those that it touches.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from models_store.tensors import tensor_digest, unpack
from worker.data.data_files import DataFile, Layout, open_data_file, read_rows
from worker.data.loader import Loader, Transform
from worker.data.records import RecordTable
from worker.determinism import choose_device, fix_kernels
from worker.processes import die_with_parent, fresh_processes
from worker.training.loop import run_positions
from worker.training.recipe import Recipe
from worker.training.state import initial_state, pack_state, restore


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


def prove(run: ProofRun) -> list[str]:
    """Return the names of tensors that differ between runs that must agree; empty when it replays.

    ``run`` names two consecutive positions with records in each.
    """
    first, second = run.positions
    with ProcessPoolExecutor(
        1, mp_context=fresh_processes(), initializer=die_with_parent, max_tasks_per_child=1
    ) as processes:
        straight = processes.submit(execute, replace(run, builds_all=True))
        half = processes.submit(execute, replace(run, positions=(first,))).result()
        resumed = processes.submit(execute, replace(run, positions=(second,), state=half))
        without = run.table.chosen(np.arange(1, len(run.table)))
        dropped = replace(run, table=without, poisoned=(int(run.table.row_N[0]),))
        kept = processes.submit(execute, dropped)
        absent = processes.submit(execute, replace(dropped, poisoned=(), is_copied=True))
        pairs = [(straight.result(), resumed.result()), (kept.result(), absent.result())]
    return sorted({name for one, other in pairs for name in differing(one, other)})


def execute(run: ProofRun) -> bytes:
    """Run the positions and return the packed state."""
    fix_kernels(run.recipe.execution.threads)
    device = choose_device()
    data = run.recipe.data
    file, table = _opened(run)
    loader = Loader(
        file,
        table,
        transform=Transform(
            scale=data.scale, mean=data.mean, std=data.std, shape=data.shape or run.layout.shape
        ),
        device=device,
        resident_bytes=file.layout.row_dtype.itemsize * (len(table) + 1),
        poisoned=run.poisoned,
    )
    if run.builds_all:
        for shard in range(1, run.recipe.plan.shards):
            initial_state(run.recipe, shard=shard, device=device)
    if run.state is None:
        state = initial_state(run.recipe, shard=0, device=device)
    else:
        state = restore(run.state, run.recipe, shard=0, device=device)
    run_positions(state, run.positions, recipe=run.recipe, loader=loader, shard=0, device=device)
    return pack_state(state)


def differing(one: bytes, other: bytes) -> Sequence[str]:
    """Return the names of tensors that differ between two packed states."""
    left, right = unpack(one)[0], unpack(other)[0]
    return [
        name
        for name in sorted({*left, *right})
        if name not in left
        or name not in right
        or tensor_digest({name: left[name]}) != tensor_digest({name: right[name]})
    ]


def _opened(run: ProofRun) -> tuple[DataFile, RecordTable]:
    file = open_data_file(run.data_folder, run.dataset_id, layout=run.layout)
    if not run.is_copied:
        return file, run.table
    rows = read_rows(file, run.table.row_N, digests=run.table.content_digests)
    return DataFile(layout=run.layout, rows=rows), replace(run.table, row_N=np.arange(len(rows)))
