"""A deletion costs its blocks and little else: MNIST, LeNet-5, 500 blocks, `sqrt` checkpoints, one thread.

20 random subjects are forgotten one after the other by a running worker, each to the end with receipt. The
denominator is the loop of whole trainings of the same recipe, measured again between the deletions in a
second installation (the median of all), because the speed of a machine drifts. "Fixed" is everything between
claim and completed other than the unlearn step and the witness; its split by step follows.
"""

import random
import statistics
import sys
from collections.abc import Sequence

from rich.progress import track

from benchmarks.homes import SUBJECTS_SEED, Home, fill, mnist_table, temporary_home
from benchmarks.inside import Held, JobFigures, subjects_in_plan
from benchmarks.packages import DataMissing
from benchmarks.results import Row, Sheet, print_rows, sheet, write_rows

COMMAND = "python -m benchmarks.replay"
NUM_SUBJECTS, GROUP, SEED = 20, 5, 11
MEBIBYTE = 1 << 20


def main() -> int:
    """Measure, print, write."""
    print(f"seeds: {SEED} chooses the subjects to forget, {SUBJECTS_SEED} the sizes of all")
    try:
        table = mnist_table()
    except DataMissing as error:
        print(f"replay: {error}", file=sys.stderr)
        return 2
    with temporary_home() as home, temporary_home() as reference:
        fill(home, table)
        fill(reference, table)
        peak = reference.train_for_memory("memory")  # and it warms everything up
        trainings = [home.train("mnist")]
        home.processes.start("expunge-worker", "work")
        replays: list[JobFigures] = []
        for index, each in enumerate(track(_subjects(home, table.subject_ids), description="forgetting")):
            replays.append(home.forget(each.subject_id))
            if (index + 1) % GROUP == 0:
                trainings.append(reference.train(f"reference-{len(trainings)}"))
    rows = _rows(trainings, replays, peak_bytes=peak)
    print_rows(rows, title="replay")
    print(f"wrote {write_rows('replay', rows)}")
    return 0


def _subjects(home: Home, subject_ids: Sequence[str]) -> list[Held]:
    held = subjects_in_plan(home.own, "mnist", dict.fromkeys(subject_ids))
    chosen = random.Random(SEED).sample(sorted(held, key=lambda each: each.subject_id), NUM_SUBJECTS)
    print(f"forgetting {sum(each.num_records for each in chosen)} records of {NUM_SUBJECTS} subjects")
    return chosen


def _rows(trainings: list[JobFigures], replays: list[JobFigures], *, peak_bytes: int) -> list[Row]:
    made = sheet(COMMAND, threads=1)
    whole = statistics.median(each.loop_seconds for each in trainings)
    total, training = trainings[0].num_blocks, statistics.median(each.seconds for each in trainings)
    ratios = [each.loop_seconds / (whole * each.num_blocks / total) for each in replays]
    shares = [100 * each.checkpoint_seconds / each.loop_seconds for each in trainings]
    return [
        made.median("replay loop", ratios, unit="x its share", baseline="blocks run / all; target <= 1.05"),
        made.median("blocks run", [r.num_blocks for r in replays], unit="blocks", baseline=f"{total} in all"),
        made.median("training loop", [t.loop_seconds for t in trainings], unit="s", baseline="all blocks"),
        made.median("checkpoints, as the loop waits", shares, unit="% of training", baseline="target <= 3 %"),
        made.median(
            "claim to completed", [r.seconds for r in replays], unit="s", baseline=f"training: {training:.1f}"
        ),
        made.median("fixed", [r.fixed_seconds for r in replays], unit="s", baseline="target <= 3 s"),
        *_split(made, replays),
        made.median("witness", [r.witness_seconds for r in replays], unit="s", baseline="not in fixed"),
        made.one("peak memory", peak_bytes / MEBIBYTE, unit="MiB", baseline="a training; target < 1024"),
    ]


def _split(made: Sheet, replays: list[JobFigures]) -> list[Row]:
    parts = {
        "prepare": [each.steps["prepare"] for each in replays],
        "verify but the witness": [each.steps["verify"] - each.witness_seconds for each in replays],
        **{name: [each.steps[name] for each in replays] for name in ("publish", "purge", "attest")},
        "two processes and between steps": [each.between_steps_seconds for each in replays],
    }
    return [
        made.median(f"fixed: {name}", seconds, unit="s", baseline="part of fixed")
        for name, seconds in parts.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
