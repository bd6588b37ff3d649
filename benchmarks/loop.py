"""Our training loop against a bare PyTorch loop over the very same batches: MNIST, LeNet-5, one thread.

The bare loop knows the batches beforehand, as lists of indices. It contains what any loop must: gather and
normalise a batch, forward, loss, backward, step, the next learning rate. It has no plan and no seeds, and
PyTorch's default kernels instead of the deterministic ones. Both run in one process, in pairs whose order
alternates, over the first 100 of 500 blocks; that both end with the same weights is checked first.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from benchmarks.homes import RECIPE, mnist_table
from benchmarks.packages import DataMissing
from benchmarks.results import Row, print_rows, sheet, write_rows
from worker.data.data_files import DataFile, Layout, row_digests
from worker.data.loader import Loader
from worker.data.records import RecordTable
from worker.data.sources import SourceTable
from worker.determinism import fix_kernels
from worker.training.inputs import transform_of
from worker.training.loop import run_positions
from worker.training.optimizers import learning_rate
from worker.training.plan import Visit, batches_of, place, schedule_step, tokens_from_bytes
from worker.training.recipe import Recipe, read_recipe
from worker.training.state import initial_state, weights, weights_digest

COMMAND = "python -m benchmarks.loop"
NUM_BLOCKS, NUM_PAIRS = 100, 11
PLAN_KEY = bytes(range(32))
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    """One step of the bare loop: which records, and how fast to learn."""

    indices: Tensor
    rate: float


@dataclass(frozen=True)
class Bench:
    """What both loops run over."""

    recipe: Recipe
    table: RecordTable
    loader: Loader
    images: Tensor
    labels: Tensor
    batches: list[Batch]

    @property
    def num_records(self) -> int:
        """Records met in one run."""
        return sum(len(batch.indices) for batch in self.batches)


def main() -> int:
    """Measure, print, write."""
    print(f"plan key and recipe are fixed; {NUM_PAIRS} pairs over {NUM_BLOCKS} blocks")
    try:
        bench = prepare(mnist_table())
    except DataMissing as error:
        print(f"loop: {error}", file=sys.stderr)
        return 2
    assert ours(bench) == bare(bench), "the two loops did not do the same"
    speeds: dict[str, list[float]] = {"ours": [], "bare": []}
    loops = {"ours": ours, "bare": bare}
    for pair in track(range(NUM_PAIRS), description="training"):
        for name in sorted(loops, reverse=bool(pair % 2)):
            speeds[name].append(bench.num_records / _seconds(loops[name], bench))
    rows = _rows(speeds)
    print_rows(rows, title="loop")
    print(f"wrote {write_rows('loop', rows)}")
    return 0


def ours(bench: Bench) -> str:
    """Train with the loop that training, replay and oracle share; return the weights digest."""
    fix_kernels(1)
    state = initial_state(bench.recipe, shard=0, device=CPU)
    run_positions(state, range(NUM_BLOCKS), recipe=bench.recipe, loader=bench.loader, shard=0, device=CPU)
    return weights_digest([weights(state.net)])


def bare(bench: Bench) -> str:
    """Train with a loop as one would write it by hand; return the weights digest."""
    fix_kernels(1)
    torch.set_deterministic_debug_mode("default")
    state = initial_state(bench.recipe, shard=0, device=CPU)
    net, optimizer = state.net, state.optimizer
    data, batch_size = bench.recipe.data, bench.recipe.plan.batch_size
    mean, std = data.mean[0], data.std[0]
    for batch in bench.batches:
        for group in optimizer.param_groups:
            group["lr"] = batch.rate
        inputs = bench.images.index_select(0, batch.indices).float().mul_(data.scale).sub_(mean).div_(std)
        labels = bench.labels.index_select(0, batch.indices)
        loss = F.cross_entropy(net(inputs), labels, reduction="sum") / batch_size
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return weights_digest([weights(net)])


def prepare(source: SourceTable) -> Bench:
    """Lay the records out for both loops and write down the batches that the plan makes."""
    recipe, _ = read_recipe(RECIPE)
    file, table = lay_out(source, recipe)
    return Bench(
        recipe=recipe,
        table=table,
        loader=loader_of(file, table, recipe),
        images=torch.from_numpy(np.ascontiguousarray(file.rows["features"])),
        labels=torch.from_numpy(np.ascontiguousarray(file.rows["label"])),
        batches=[batch for block in range(NUM_BLOCKS) for batch in _batches(table, recipe, block=block)],
    )


def lay_out(source: SourceTable, recipe: Recipe) -> tuple[DataFile, RecordTable]:
    """Return the records in memory and the plan of those that are trained on."""
    layout = Layout(shape=tuple(source.features.shape[1:]), dtype=source.features.dtype.str, num_classes=10)
    rows = np.zeros(len(source.labels), dtype=layout.row_dtype)
    rows["features"], rows["label"] = source.features, source.labels
    return DataFile(layout=layout, rows=rows), _table(source, recipe, rows).training()


def loader_of(file: DataFile, table: RecordTable, recipe: Recipe) -> Loader:
    """Return a loader that holds all records of a table."""
    return Loader(
        file,
        table,
        transform=transform_of(recipe, shape=file.layout.shape),
        device=CPU,
        resident_bytes=file.rows.nbytes,
    )


def _table(source: SourceTable, recipe: Recipe, rows: np.ndarray) -> RecordTable:
    """Place every record by keyed hashes of its ids, as an import and a plan would."""
    refs = [record_id.encode().ljust(32, b"\0") for record_id in source.record_ids]
    subjects = [subject_id.encode().ljust(32, b"\0") for subject_id in source.subject_ids]
    placed = [
        place(PLAN_KEY, recipe.plan, record_ref=ref, subject_ref=subject)
        for ref, subject in zip(refs, subjects, strict=True)
    ]
    assert source.held_out is not None
    return RecordTable(
        row_N=np.arange(len(refs)),
        record_refs=refs,
        salts=[b""] * len(refs),
        content_digests=row_digests(rows),
        is_held_out_N=source.held_out,
        shard_N=np.array([each.shard for each in placed]),
        block_N=np.array([each.block for each in placed]),
        token_N2=tokens_from_bytes(b"".join(each.token for each in placed)),
    )


def _batches(table: RecordTable, recipe: Recipe, *, block: int) -> list[Batch]:
    plan = recipe.plan
    rows = table.row_N[table.block_N == block]
    tokens = table.token_N2[table.block_N == block]
    visits = [Visit(shard=0, pass_index=0, block=block, epoch=epoch) for epoch in range(plan.epochs)]
    numbered = [(v.epoch, n, rows[i]) for v in visits for n, i in enumerate(batches_of(plan, tokens, v))]
    steps = [
        (schedule_step(plan, position=block, epoch=epoch, batch=number), chosen)
        for epoch, number, chosen in numbered
    ]
    return [
        Batch(
            indices=torch.from_numpy(chosen),
            rate=learning_rate(recipe.optimizer, recipe.schedule, step=step, num_steps=plan.num_steps),
        )
        for step, chosen in steps
        if len(chosen) >= plan.min_present
    ]


def _seconds(loop: Callable[[Bench], str], bench: Bench) -> float:
    started = time.perf_counter()
    loop(bench)
    return time.perf_counter() - started


def _rows(speeds: dict[str, list[float]]) -> list[Row]:
    made = sheet(COMMAND, threads=1)
    ratios = [own / other for own, other in zip(speeds["ours"], speeds["bare"], strict=True)]
    return [
        made.median("our loop / bare loop, by pairs", ratios, unit="ratio", baseline="target >= 0.90"),
        made.median("our loop", speeds["ours"], unit="records/s", baseline="the same batches"),
        made.median("bare loop", speeds["bare"], unit="records/s", baseline="the same batches"),
    ]


if __name__ == "__main__":
    sys.exit(main())
