"""Squared gradients of single records against plain training passes: LeNet-5, images of 28 x 28, one thread.

Plain is forward and backward over the same batches, with the gradient of each batch's mean loss and no step.
The squares are `mean_squares` with its own chunk size, and `torch.func` as its general way. All run in one
process, in rounds whose order alternates; that both ways give the same numbers is checked first. Images are
noise: what they show does not change the work.
"""

import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from rich.progress import track
from torch import nn

from benchmarks.results import Row, print_rows, sheet, write_rows
from worker.training.nets import lenet5
from worker.unlearners.gradient.losses import CrossEntropy
from worker.unlearners.gradient.records import TensorRecords, chunks
from worker.unlearners.gradient.statistics import CHUNK_GRADIENTS, mean_squares, squares_by_records

COMMAND = "python -m benchmarks.statistics"
NUM_RECORDS, NUM_ROUNDS = 2_048, 11
BATCHES = (64, 128, 256)
LOSS = CrossEntropy()


def main() -> int:
    """Measure, print, write."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net, records = lenet5(), _records()
    _check(net, records)
    ways: dict[str, Callable[[], None]] = {
        "squares": partial(_squares, net, records),
        "general": partial(_general, net, records),
        **{f"plain {size}": partial(_plain, net, records, size) for size in BATCHES},
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in track(range(NUM_ROUNDS), description="measuring"):
        for name in sorted(ways, reverse=bool(turn % 2)):
            speeds[name].append(NUM_RECORDS / _seconds(ways[name]))
    rows = _rows(speeds)
    print_rows(rows, title="statistics")
    print(f"wrote {write_rows('statistics', rows)}")
    return 0


def _records() -> TensorRecords:
    return TensorRecords(torch.randn(NUM_RECORDS, 1, 28, 28), torch.randint(0, 10, (NUM_RECORDS,)))


def _check(net: nn.Module, records: TensorRecords) -> None:
    """Compare both ways over the first records."""
    few = TensorRecords(records.all_inputs[:32], records.all_targets[:32])
    found, expected = mean_squares(net, LOSS, few), squares_by_records(net, LOSS, *_all(few))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value / len(few), rtol=1e-3, atol=1e-7)


def _all(records: TensorRecords) -> tuple[torch.Tensor, torch.Tensor]:
    return records.all_inputs, records.all_targets


def _squares(net: nn.Module, records: TensorRecords) -> None:
    mean_squares(net, LOSS, records)


def _general(net: nn.Module, records: TensorRecords) -> None:
    for indices_B in chunks(records, size=CHUNK_GRADIENTS):
        squares_by_records(net, LOSS, records.inputs(indices_B), records.targets(indices_B))


def _plain(net: nn.Module, records: TensorRecords, size: int) -> None:
    for indices_B in chunks(records, size=size):
        inputs = records.inputs(indices_B)
        net.zero_grad()
        LOSS(net, inputs, LOSS.aims(records, indices_B, inputs)).mean().backward()


def _seconds(way: Callable[[], None]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def _rows(speeds: dict[str, list[float]]) -> list[Row]:
    made = sheet(COMMAND, threads=1)
    rows = [
        made.median(
            f"squares / plain in batches of {size}, by rounds",
            [own / other for own, other in zip(speeds["squares"], speeds[f"plain {size}"], strict=True)],
            unit="ratio",
            baseline="target >= 0.50",
        )
        for size in BATCHES
    ]
    general = [own / other for own, other in zip(speeds["general"], speeds["plain 128"], strict=True)]
    rows.append(
        made.median("torch.func / plain in batches of 128", general, unit="ratio", baseline="no target")
    )
    named = {"squares": "squares", "general": "torch.func", **{f"plain {n}": f"plain, {n}" for n in BATCHES}}
    return rows + [
        made.median(shown, speeds[name], unit="records/s", baseline="the same records")
        for name, shown in named.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
