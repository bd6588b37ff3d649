"""Every gradient method with its shipped defaults in three scenarios, beside training again without them.

Parts: `digits` and `mnist` with LeNet-5 at 28 x 28, 1 000 records, of which A forgets 100 wrong labels, B a
class, C a random tenth. `cifar`, which runs only when it is named and wants an accelerator: ResNet-18 on all
of CIFAR-10 forgets a random tenth. The seeds were not used when the defaults were chosen.

`another training without them` is the floor of every column, `doing nothing` the original as it is. `forget`,
`retain`, `test` and `true` (the right labels of the forgotten) are accuracies, `member` the share of the
forget set that a threshold attack on the loss, chosen on retained and test records, calls member. `gap` is
the mean distance to training without them over forget, retain, test and member, in points; `KL` is from its
answers on test records, in nats. `cost` counts records gone forward and backward, saliency included, `looks`
those gone forward alone, `time` is in seconds.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from rich.progress import track

from benchmarks.gradient.images import Images, cifar, digits, mnist
from benchmarks.gradient.measuring import Draw, Outcome, Train, Trainer, Wanted, wanted_of
from benchmarks.gradient.scenarios import Kind, drawn
from benchmarks.gradient.tables import rows_of
from benchmarks.gradient.training import trained_lenet, trained_resnet
from benchmarks.packages import DataMissing
from benchmarks.results import Row, print_rows, sheet, write_rows
from worker.determinism import choose_device
from worker.unlearners.gradient.methods import METHODS

COMMAND = "make bench-gradient"
SEEDS = (13, 14, 15)
CPU = torch.device("cpu")
SMALL, CIFAR = ("digits", "mnist"), "cifar"


@dataclass(frozen=True)
class Part:
    """What is forgotten from, in which scenarios, by which methods."""

    name: str
    images: Images
    train: Train
    kinds: Sequence[Kind]
    methods: Sequence[str]
    device: torch.device


def main() -> int:
    """Measure, print and write, after every method: what is measured is not lost."""
    options = _options()
    torch.set_num_threads(1)
    try:
        parts = [_part(name, options) for name in options.parts]
    except DataMissing as error:
        print(f"gradient: {error}", file=sys.stderr)
        return 2
    measured = [_Measured(part, _draws(part, seeds=options.seeds)) for part in parts]
    for wanted in track(wanted_of(options.methods or list(METHODS)), description="forgetting"):
        for each in measured:
            each.run(wanted)
    for each in measured:
        print_rows(each.rows(), title=f"gradient methods, {each.part.name}")
    return 0


def _draws(part: Part, *, seeds: Sequence[int]) -> list[Draw]:
    trainer = Trainer(part.train)
    draws = [(kind, seed) for seed in seeds for kind in part.kinds]
    return [
        trainer.draw(drawn(part.images, kind, seed=seed).on(part.device), seed=seed)
        for kind, seed in track(draws, description=f"training on {part.name}")
    ]


@dataclass
class _Measured:
    part: Part
    draws: list[Draw]
    outcomes: list[Outcome] = field(init=False)

    def __post_init__(self) -> None:
        self.outcomes = [outcome for draw in self.draws for outcome in draw.bounds()]

    def run(self, wanted: Wanted) -> None:
        """Run a method in every draw, where the part wants it, and write what there is."""
        if wanted.method.name in self.part.methods:
            self.outcomes += [draw.outcome(wanted) for draw in self.draws]
            write_rows(f"gradient-{self.part.name}", self.rows())

    def rows(self) -> list[Row]:
        """Return the rows so far."""
        return rows_of(sheet(COMMAND, threads=1), self.outcomes)


def _part(name: str, options: argparse.Namespace) -> Part:
    if name != CIFAR:
        images = digits() if name == "digits" else mnist()
        return Part(name, images, trained_lenet, tuple(Kind), options.methods or list(METHODS), CPU)
    train = partial(trained_resnet, epochs=options.epochs)
    methods = options.methods or ["sfron"]
    return Part(name, cifar(options.training), train, (Kind.ANYBODY,), methods, choose_device())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradient")
    parser.add_argument("parts", nargs="*", default=list(SMALL), help=", ".join((*SMALL, CIFAR)))
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), help="all; for cifar, sfron alone")
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--training", type=int, default=50_000, help="of cifar: records to train on")
    parser.add_argument("--epochs", type=int, default=30, help="of cifar: epochs of each training")
    options = parser.parse_args()
    if unknown := set(options.parts) - {*SMALL, CIFAR}:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join((*SMALL, CIFAR))}")
    return options


if __name__ == "__main__":
    sys.exit(main())
