"""One draw: the original, two trainings without the forgotten, and what a method makes of it."""

import copy
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from app.domain.methods import PRESETS, Settings
from benchmarks.gradient.judging import divergence, mean_gap, shares
from benchmarks.gradient.metering import metered
from benchmarks.gradient.scenarios import Kind, Scenario
from worker.unlearners.gradient.course import Course
from worker.unlearners.gradient.edit import run_edit
from worker.unlearners.gradient.method import Method, Prepared, Reads, Task
from worker.unlearners.gradient.methods import METHODS
from worker.unlearners.gradient.records import Sides, TensorRecords
from worker.unlearners.gradient.runner import MethodBrokeDown, begin, run_course

FLOOR, AGAIN, NOTHING = "another training without them", "training without them", "doing nothing"

Train = Callable[[TensorRecords, int], nn.Module]
"""Records and a seed -> a net that fits them."""


@dataclass(frozen=True)
class Outcome:
    """One method in one draw, by column."""

    name: str
    kind: Kind
    columns: dict[str, float]


@dataclass(frozen=True)
class Cost:
    """Records gone forward and backward, and forward alone; seconds by the clock."""

    both: int
    forward: int
    seconds: float


@dataclass(frozen=True)
class Wanted:
    """A method with settings; those of a preset are named with it."""

    name: str
    method: Method
    settings: Settings


@dataclass(frozen=True)
class Draw:
    """A scenario with its nets: trained on everybody, and twice without the forgotten."""

    scenario: Scenario
    seed: int
    original: nn.Module
    again: nn.Module
    floor: nn.Module

    def bounds(self) -> list[Outcome]:
        """Return what training again, another such training and doing nothing come to."""
        named = ((AGAIN, self.again), (FLOOR, self.floor), (NOTHING, self.original))
        return [Outcome(name, self.scenario.kind, self._columns(net)) for name, net in named]

    def outcome(self, wanted: Wanted) -> Outcome:
        """Return what a method comes to."""
        net, cost = _run(wanted, self.original, self.scenario, seed=self.seed)
        spent = {"cost": cost.both, "looks": cost.forward, "time": cost.seconds}
        return Outcome(wanted.name, self.scenario.kind, {**self._columns(net), **spent})

    def _columns(self, net: nn.Module) -> dict[str, float]:
        own, theirs = (shares(each, self.scenario) for each in (net, self.again))
        return {**own, "gap": mean_gap(own, theirs), "KL": divergence(net, self.again, self.scenario)}


@dataclass
class Trainer:
    """Draws with their nets; one retain set is trained on once, whatever the scenarios that share it."""

    train: Train
    _known: list[tuple[TensorRecords, int, nn.Module]] = field(default_factory=list)

    def draw(self, scenario: Scenario, *, seed: int) -> Draw:
        """Return a draw."""
        again, floor = (self._trained(scenario.retained, seed + 100 * n) for n in (1, 2))
        return Draw(scenario, seed, self._trained(scenario.everybody, seed), again, floor)

    def _trained(self, records: TensorRecords, seed: int) -> nn.Module:
        for known, own_seed, net in self._known:
            if own_seed == seed and _are_same(known, records):
                return net
        net = self.train(records, seed)
        self._known.append((records, seed, net))
        return net


def wanted_of(names: Sequence[str]) -> list[Wanted]:
    """Return methods with their defaults, and after all of them those with a preset."""
    defaults = [Wanted(name, METHODS[name], METHODS[name].settings()) for name in names]
    presets = [
        Wanted(f"{name} ({preset})", METHODS[name], settings)
        for name in names
        for preset, settings in PRESETS.get(name, {}).items()
    ]
    return [*defaults, *presets]


def _are_same(first: TensorRecords, second: TensorRecords) -> bool:
    return torch.equal(first.all_targets, second.all_targets) and torch.equal(
        first.all_inputs, second.all_inputs
    )


def _run(wanted: Wanted, original: nn.Module, scenario: Scenario, *, seed: int) -> tuple[nn.Module, Cost]:
    method = wanted.method
    sides = {side: scenario.sides[side] for side in {Reads(each).side for each in method.reads}}
    net = copy.deepcopy(original)
    started = time.perf_counter()
    with metered(net) as passes:
        task = Task(net, sides, num_classes=scenario.num_classes, seed=seed)
        prepared = method.prepare(task, wanted.settings)
        try:
            _work(prepared, sides, seed=seed)
        except MethodBrokeDown as refused:
            print(f"{method.name}, {scenario.kind}, seed {seed}: {refused}", file=sys.stderr)
        made = prepared.finish(prepared.net)
    return made, Cost(passes.both, passes.forward, time.perf_counter() - started)


def _work(prepared: Prepared, sides: Sides, *, seed: int) -> None:
    if isinstance(prepared.work, Course):
        run_course(begin(prepared.net, prepared.work), prepared.work, sides, seed=seed)
    else:
        run_edit(prepared.net, prepared.work, sides)
