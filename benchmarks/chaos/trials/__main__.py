"""Trials of the fence: one job delivered to many workers at once, or its holder stopped past the lease.

Each trial must end with exactly one version, and no write that a process began after another had taken its
job over may get through. Several lanes, each a model with its own hands, run beside each other.
"""

import argparse
import secrets
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.chaos.trials.lane import HANDS_A_LANE, Lane, open_lane
from benchmarks.processes import ended_by_signals
from benchmarks.results import Row, print_rows, sheet, write_rows
from tests.support.servers import PostgresServer

SETUPS = ("sqlite", "postgres")
NUM_TRIALS, NUM_LANES = 500, 8


def main() -> int:
    """Run the trials on the set-ups; exit code 1 if one showed what none may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=NUM_TRIALS)
    parser.add_argument("--setup", choices=[*SETUPS, "both"], default="both")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31))
    parser.add_argument("--write", action="store_true", help="keep the figures under benchmarks/results")
    given = parser.parse_args()
    command = f"python -m benchmarks.chaos.trials --trials {given.trials} --seed {given.seed}"
    rows: list[Row] = []
    with ended_by_signals():
        for setup in SETUPS if given.setup == "both" else (given.setup,):
            lanes = run(setup, num_trials=given.trials, seed=given.seed)
            wrong = [line for lane in lanes for line in lane.wrong]
            if wrong:
                print("\n".join([*wrong, f"replay: {command} --setup {setup}"]))
                return 1
            rows += _rows(setup, lanes, command=command)
    print_rows(rows, title="trials of the fence")
    if given.write:
        print(f"wrote {write_rows('chaos-trials', rows)}")
    return 0


def run(setup: str, *, num_trials: int, seed: int) -> list[Lane]:
    """Run the trials in several lanes at once and return them, judged."""
    with tempfile.TemporaryDirectory(prefix="trials-") as name, _databases(setup, Path(name)) as database:
        lanes = [
            open_lane(
                Path(name) / f"home-{number}",
                database_url=database(number),
                seed=f"{seed} {number}",
                num_trials=num_trials,
            )
            for number in range(NUM_LANES)
        ]
        shares = [len(range(number, num_trials, NUM_LANES)) for number in range(NUM_LANES)]
        with ThreadPoolExecutor(NUM_LANES) as pool:
            try:
                list(pool.map(Lane.run, lanes, shares))
            finally:
                # Before the pool waits for its threads: they end when their hands do.
                for lane in lanes:
                    lane.close()
        for lane in lanes:
            lane.check_line()
    return lanes


@contextmanager
def _databases(setup: str, folder: Path) -> Iterator[Callable[[int], str]]:
    """Yield what gives each lane a database of its own: a stopped writer blocks all of an SQLite file."""
    if setup == "sqlite":
        yield lambda number: f"sqlite:///{folder / f'{number}.db'}"
        return
    server = PostgresServer.start(folder / "postgres")
    try:
        yield lambda number: server.create_database(f"lane{number}")
    finally:
        server.stop()


def _rows(setup: str, lanes: list[Lane], *, command: str) -> list[Row]:
    made = sheet(command, threads=1)
    trials, fenced = Counter[str](), Counter[str]()
    for lane in lanes:
        trials += lane.trials
        fenced += lane.fenced
    posted = sum(lane.num_posted for lane in lanes)
    named = ", ".join(f"{num} {name}" for name, num in fenced.items())
    return [
        made.one(f"{setup}: trials", posted, unit="jobs", baseline=f"{NUM_LANES} x {HANDS_A_LANE} processes"),
        *(made.one(f"{setup}: {kind}", num, unit="jobs", baseline="") for kind, num in trials.items()),
        made.one(f"{setup}: published twice", 0, unit="jobs", baseline="target 0"),
        made.one(f"{setup}: stale writes fenced", fenced.total(), unit="writes", baseline=named),
        made.one(f"{setup}: stale writes that got through", 0, unit="writes", baseline="target 0"),
    ]


if __name__ == "__main__":
    sys.exit(main())
