"""A class of the digits at 28 x 28, forgotten by a small image generator in at most 50 cycles of SFR-on.

Every default, of training and of forgetting, was chosen on seeds 1 and 2, the stop rule's tolerance on seed
13 as well; the class is the seed's last digit. What is written is of later seeds; n says of how many.

A LeNet-5 that was trained on the same real digits as the generator reads the samples: ``forgotten`` is the
share of samples under the forgotten label still read as it (a tenth would be chance), ``others`` that
of the others' that are read as theirs. ``distance`` is the Frechet distance between the others' samples and
real ones, in what the last layer of that classifier is given; its floor is that of as many real digits, and
those compared with are no part of them. The errors are of predicting the noise in training records, over all
timesteps, on the same draws for every net: of the class under its own label, of the class under the others'
labels in turn, and of the others under theirs.
"""

import argparse
import copy
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from benchmarks.generation.judging import Judge, frechet, judge_of
from benchmarks.generation.training import real_digits, trained_generator
from benchmarks.results import Row, Sheet, print_rows, sheet, write_rows
from worker.generation.presets import PRESETS, Preset
from worker.generation.sampling import sampled
from worker.unlearners.gradient.course import Course
from worker.unlearners.gradient.generators import prepare
from worker.unlearners.gradient.method import Task
from worker.unlearners.gradient.noise_prediction import NoisePrediction
from worker.unlearners.gradient.records import Side, TensorRecords
from worker.unlearners.gradient.runner import begin, run_course

COMMAND = "python -m benchmarks.generation"
SEEDS, NUM_CLASSES = (14, 15, 16), 10
NUM_STEPS = {"unet_28": 1_000, "dit_28": 1_500}
NUM_OF_CLASS, NUM_SAMPLING_STEPS = 80, 25
REAL, AGAIN, NOTHING, FORGOTTEN = "real digits", "training without it", "doing nothing", "sfron"

Figures = dict[str, tuple[float, str]]
"""What is measured of one thing of one draw, by column: value and unit."""


@dataclass(frozen=True)
class Bench:
    """One draw: real digits, who reads them, and the class that is forgotten."""

    preset: Preset
    seen: TensorRecords
    unseen: TensorRecords
    judge: Judge
    num_steps: int
    seed: int

    @property
    def forgotten(self) -> int:
        """The class."""
        return self.seed % NUM_CLASSES

    @cached_property
    def sides(self) -> Mapping[Side, TensorRecords]:
        """The class and the others, of what the generator is trained on."""
        of_class = self.seen.all_targets == self.forgotten
        return {Side.FORGET: _of(self.seen, of_class), Side.RETAIN: _of(self.seen, ~of_class)}

    def floors(self) -> Figures:
        """Return what is measured of real digits: unseen ones of all classes, and as many as of samples."""
        _, others = self.halves()
        return {
            "others": (self.judge.right(self.unseen.all_inputs, self.unseen.all_targets), "%"),
            "distance": (self.distance(others[: (NUM_CLASSES - 1) * NUM_OF_CLASS]), "squared features"),
        }

    def figures(self, net: nn.Module) -> Figures:
        """Return what is measured of a generator."""
        labels_N = torch.arange(NUM_CLASSES).repeat_interleave(NUM_OF_CLASS)
        noise, shape = self.preset.noise, self.preset.shape
        images = sampled(net, noise, labels_N, shape=shape, num_steps=NUM_SAMPLING_STEPS, seed=self.seed)
        is_gone = labels_N == self.forgotten
        forget, retain = self.sides[Side.FORGET], self.sides[Side.RETAIN]
        turns = retain.all_targets.unique().repeat(len(forget))[: len(forget)]
        return {
            "forgotten": (self.judge.right(images[is_gone], labels_N[is_gone]), "%"),
            "others": (self.judge.right(images[~is_gone], labels_N[~is_gone]), "%"),
            "distance": (self.distance(images[~is_gone]), "squared features"),
            "error on it": (self._error(net, forget, forget.all_targets), "squared noise"),
            "under other labels": (self._error(net, forget, turns), "squared noise"),
            "error on others": (self._error(net, retain, retain.all_targets), "squared noise"),
        }

    def distance(self, images: Tensor) -> float:
        """Return how far images lie from the first half of the real digits of the other classes."""
        reference, _ = self.halves()
        return frechet(self.judge.features(images), self.judge.features(reference))

    def halves(self) -> tuple[Tensor, Tensor]:
        """Return the real digits of the other classes in two halves, either of seen and unseen ones."""
        real = torch.cat([self.seen.all_inputs, self.unseen.all_inputs])
        labels = torch.cat([self.seen.all_targets, self.unseen.all_targets])
        others = real[labels != self.forgotten]
        return others[::2], others[1::2]

    def _error(self, net: nn.Module, records: TensorRecords, labels: Tensor) -> float:
        loss, every = NoisePrediction(self.preset.noise.kept(), seed=self.seed), torch.arange(len(records))
        aims = loss.aims(records, every, records.all_inputs)._replace(labels=labels)
        with torch.no_grad():
            return float(loss(net.eval(), records.all_inputs, aims).mean())


def main() -> int:
    """Measure, print and write, after every draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", default="unet_28", choices=list(NUM_STEPS))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="one draw each")
    parser.add_argument("--retrain", action="store_true", help="at the end, train without the class as well")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    options = [f"--net {wanted.net}", "--seeds", *map(str, wanted.seeds), *["--retrain"] * wanted.retrain]
    made = sheet(" ".join([COMMAND, *options]), threads=1)
    benches = {seed: bench_of(wanted.net, seed=seed) for seed in wanted.seeds}
    draws: list[dict[str, Figures]] = []
    for bench in benches.values():
        draws.append(drawn(bench))
        write(made, wanted.net, draws)
    for bench, draw in zip(benches.values(), draws, strict=True) if wanted.retrain else ():
        draw[AGAIN] = trained_again(bench)
        write(made, wanted.net, draws)
    return 0


def write(made: Sheet, net: str, draws: Sequence[Mapping[str, Figures]]) -> None:
    """Print what there is so far, and write it."""
    rows = rows_of(made, draws)
    print_rows(rows, title=f"a class forgotten by a generator, {len(draws)} draws")
    print(f"wrote {write_rows(f'generation-{net}', rows)}", flush=True)


def rows_of(made: Sheet, draws: Sequence[Mapping[str, Figures]]) -> list[Row]:
    """Return the median and the range of every figure, over the draws that it was measured of."""
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for draw in draws:
        for name, figures in draw.items():
            for column, (value, unit) in figures.items():
                values[name, column, unit].append(value)
    return [
        made.median(f"{name}: {column}", found, unit=unit, baseline="")
        for (name, column, unit), found in values.items()
    ]


def bench_of(net: str, *, seed: int) -> Bench:
    """Return the draw of a seed, with its classifier."""
    seen, unseen = real_digits(seed=seed)
    return Bench(PRESETS[net], seen, unseen, judge_of(seen, seed=seed), NUM_STEPS[net], seed)


def drawn(bench: Bench) -> dict[str, Figures]:
    """Return what is measured of real digits, of a generator, and of it when it has forgotten the class."""
    original, spent = _trained(bench, bench.seen)
    nothing = bench.figures(original) | spent
    _show(NOTHING, nothing, bench.seed)
    treated, spent = _forgotten(bench, original)
    forgotten = bench.figures(treated) | spent
    _show(FORGOTTEN, forgotten, bench.seed)
    return {REAL: bench.floors(), NOTHING: nothing, FORGOTTEN: forgotten}


def trained_again(bench: Bench) -> Figures:
    """Return what is measured of a generator that never met the class."""
    again, spent = _trained(bench, bench.sides[Side.RETAIN])
    figures = bench.figures(again) | spent
    _show(AGAIN, figures, bench.seed)
    return figures


def _trained(bench: Bench, records: TensorRecords) -> tuple[nn.Module, Figures]:
    started = time.process_time()
    net = trained_generator(bench.preset, records, num_steps=bench.num_steps, seed=bench.seed)
    return net, {"time": (time.process_time() - started, "s of one core")}


def _forgotten(bench: Bench, original: nn.Module) -> tuple[nn.Module, Figures]:
    net, sides, started = copy.deepcopy(original), dict(bench.sides), time.process_time()
    task = Task(net, sides, NUM_CLASSES, bench.seed)
    work = prepare(task, bench.preset.forgetting, kept_T=bench.preset.noise.kept()).work
    assert isinstance(work, Course)
    state = run_course(begin(net, work), work, sides, seed=bench.seed)
    print(*state.diagnostics.warnings(), sep="\n", file=sys.stderr)
    spent = time.process_time() - started
    return net, {"time": (spent, "s of one core"), "cycles": (state.cycle, "cycles")}


def _show(name: str, figures: Figures, seed: int) -> None:
    told = ", ".join(f"{column} {value:.4g}" for column, (value, _) in figures.items())
    print(f"seed {seed}, {name}: {told}", flush=True)


def _of(records: TensorRecords, chosen: Tensor) -> TensorRecords:
    return TensorRecords(records.all_inputs[chosen], records.all_targets[chosen])


if __name__ == "__main__":
    sys.exit(main())
