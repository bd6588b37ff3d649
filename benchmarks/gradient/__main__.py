"""Every gradient method with its shipped defaults in three scenarios, beside training again without them.

The seeds were not used when the defaults were chosen. ``floor`` is another training without the forgotten;
``nothing`` the original as it is. Accuracy in percent, cost in records gone forward and backward over.
"""

import argparse
import copy
import sys
import time
from dataclasses import dataclass

import torch
from rich.progress import track
from torch import nn

from app.domain.methods import PRESETS, Settings
from benchmarks.gradient.scenarios import NUM_CLASSES, Kind, Scenario, accuracies, divergence, drawn, trained
from benchmarks.results import Row, Sheet, print_rows, sheet, write_rows
from worker.unlearners.gradient.course import Course
from worker.unlearners.gradient.edit import run_edit
from worker.unlearners.gradient.method import Method, Reads, Task
from worker.unlearners.gradient.methods import METHODS
from worker.unlearners.gradient.records import Side, TensorRecords
from worker.unlearners.gradient.runner import CourseDiverged, begin, run_course

COMMAND = "python -m benchmarks.gradient"
SEEDS = (10, 11, 12)
FLOOR, AGAIN, NOTHING = "another training without them", "training without them", "doing nothing"


@dataclass(frozen=True)
class Outcome:
    """One method in one draw: percent by what is judged, nats from training again, records, seconds."""

    name: str
    kind: Kind
    accuracy: dict[str, float]
    divergence: float
    num_records: int = 0
    seconds: float = 0.0


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    wanted = parser.parse_args().methods
    torch.set_num_threads(1)
    outcomes: list[Outcome] = []
    draws = [(kind, seed) for seed in SEEDS for kind in Kind]
    for kind, seed in track(draws, description="forgetting"):
        outcomes += _one_draw(drawn(kind, seed=seed), seed=seed, methods=wanted)
    rows = _rows(sheet(COMMAND, threads=1), outcomes)
    print_rows(rows, title="gradient methods")
    print(f"wrote {write_rows('gradient', rows)}")
    return 0


def _one_draw(scenario: Scenario, *, seed: int, methods: list[str]) -> list[Outcome]:
    original = trained(scenario.everybody, seed=seed)
    retained = scenario.sides[Side.RETAIN]
    assert isinstance(retained, TensorRecords)
    again, floor = (trained(retained, seed=seed + 100 * n) for n in (1, 2))
    made = [
        Outcome(name, scenario.kind, accuracies(net, scenario), divergence(net, again, scenario))
        for name, net in ((AGAIN, again), (FLOOR, floor), (NOTHING, original))
    ]
    for name in methods:
        made.append(_run(METHODS[name], None, original, again, scenario, seed=seed))
        for preset, settings in PRESETS.get(name, {}).items():
            outcome = _run(METHODS[name], settings, original, again, scenario, seed=seed)
            made.append(Outcome(**{**vars(outcome), "name": f"{name} ({preset})"}))
    return made


def _run(
    method: Method, settings: Settings | None, original: nn.Module, again: nn.Module, scenario: Scenario,
    *, seed: int,
) -> Outcome:  # fmt: skip
    read = {Reads(each).side for each in method.reads}
    sides = {side: records for side, records in scenario.sides.items() if side in read}
    started = time.perf_counter()
    task = Task(copy.deepcopy(original), sides, num_classes=NUM_CLASSES, seed=seed)
    prepared = method.prepare(task, settings or method.settings())
    num_records = 0
    try:
        if isinstance(prepared.work, Course):
            state = run_course(begin(prepared.net, prepared.work), prepared.work, sides, seed=seed)
            num_records = state.diagnostics.total_records
        else:
            num_records = sum(run_edit(prepared.net, prepared.work, sides).num_records.values())
    except CourseDiverged as diverged:
        print(f"{method.name}, {scenario.kind}, seed {seed}: {diverged}", file=sys.stderr)
    net = prepared.finish(prepared.net)
    seconds = time.perf_counter() - started
    figures = accuracies(net, scenario), divergence(net, again, scenario)
    return Outcome(method.name, scenario.kind, *figures, num_records, seconds)


def _rows(made: Sheet, outcomes: list[Outcome]) -> list[Row]:
    rows: list[Row] = []
    for kind in Kind:
        of_kind = [each for each in outcomes if each.kind is kind]
        for name in dict.fromkeys(each.name for each in of_kind):
            rows += _rows_of(made, [each for each in of_kind if each.name == name])
    return rows


def _rows_of(made: Sheet, same: list[Outcome]) -> list[Row]:
    first = same[0]
    label = f"{first.kind.value}, {first.name}"
    seconds = [each.seconds for each in same]
    cost = f"{sum(each.num_records for each in same) / len(same):.0f} records, at most {max(seconds):.1f} s"
    rows = [
        made.median(
            f"{label}: {judged}", [each.accuracy[judged] for each in same], unit="%",
            baseline=cost if judged == "forget" and max(seconds) else "",
        )
        for judged in first.accuracy
    ]  # fmt: skip
    nats = [each.divergence for each in same]
    return [*rows, made.median(f"{label}: KL", nats, unit="nats", baseline="from training again, on test")]


if __name__ == "__main__":
    sys.exit(main())
