"""``make chaos``: a storm of faults over one or both set-ups, then the checker; code 1 if a promise broke.

The faults, the wishes and their order come from one seed; when each lands hangs on the machine, so a replay
repeats the storm and not every moment of it. The folder of a run that failed is kept.
"""

import argparse
import random
import secrets
import shutil
import sys
import time

from benchmarks.chaos.calm import settle_down
from benchmarks.chaos.checker import forgotten_subjects, violations
from benchmarks.chaos.history import Recorder, read_history
from benchmarks.chaos.installation import Installation, installed
from benchmarks.chaos.models import MODELS, subject_ids
from benchmarks.chaos.remains import collect, subjects_known
from benchmarks.chaos.report import rows_of
from benchmarks.chaos.setups import FOLDER, SETUPS, set_up
from benchmarks.chaos.storm import Storm
from benchmarks.chaos.workload import Wishes, Workload, audit
from benchmarks.processes import ended_by_signals
from benchmarks.results import print_rows, sheet, write_rows

DEFAULT_KILLS = 40
SECONDS_PER_FAULT = 1.5
NUM_WISHES, MIN_PAUSE_SECONDS = 420, 0.6
START_SECONDS, GLANCE_SECONDS = 120.0, 0.1
HISTORY, SHOWN = "history.jsonl", 12


class PromiseBroken(Exception):
    """The checker found something; the message says what and where it can be looked at."""


def main() -> int:
    """Run the set-ups one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=DEFAULT_KILLS)
    parser.add_argument("--setup", choices=[*SETUPS, "both"], default="both")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31))
    parser.add_argument("--write", action="store_true", help="keep the figures under benchmarks/results")
    given = parser.parse_args()
    try:
        with ended_by_signals():
            for setup in SETUPS if given.setup == "both" else (given.setup,):
                run(setup, kills=given.kills, seed=given.seed, writes=given.write)
    except PromiseBroken as broken:
        print(broken)
        print(f"replay: {_command(given.setup, kills=given.kills, seed=given.seed)}")
        return 1
    return 0


def run(setup: str, *, kills: int, seed: int, writes: bool) -> None:
    """Let it storm over a fresh installation and check.

    Raises:
        PromiseBroken: the checker found something.
    """
    folder = (FOLDER / f"{setup}-{seed}").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    command = _command(setup, kills=kills, seed=seed)
    print(f"{command}\nhistory and logs: {folder}", flush=True)
    with installed(Installation(folder)) as own:
        if not own.has_own_store:
            print("this user may not mount: the store is not filled up in this run", flush=True)
        set_up(own, setup)
        known = subjects_known(own, ids=subject_ids())
        num_reads = _storm(own, kills=kills, seed=seed)
        history = read_history(folder / HISTORY)
        left = collect(own, known=known, forgotten=forgotten_subjects(history))
        found = violations(history, left)
        if found:
            raise PromiseBroken(_told(found))
        made = sheet(command, threads=1)
        rows = rows_of(made, history, left, logs=own.logs, num_reads=num_reads)
    print_rows(rows, title=f"chaos, {setup}")
    if writes:
        print(f"wrote {write_rows(f'chaos-{setup}', rows)}")
    shutil.rmtree(folder)


def _storm(own: Installation, *, kills: int, seed: int) -> int:
    """Let it storm under load and wait for the calm; return how many reads were answered."""
    recorder = Recorder(own.folder / HISTORY)
    wishes = Wishes(random.Random(f"wishes {seed}"), subject_ids(), tuple(MODELS))
    pause = max(MIN_PAUSE_SECONDS, kills * SECONDS_PER_FAULT / NUM_WISHES)
    workload = Workload(own, recorder, wishes, pause_seconds=pause)
    storm = Storm(own, recorder, random.Random(f"faults {seed}"))
    workload.start()
    try:
        _await_work(own)
        storm.rage(kills)
        workload.stop_posting()
        settle_down(own, storm, workload, recorder)
        for model in MODELS:
            audit(own, recorder, model)
    finally:
        workload.stop()
        recorder.close()
    return workload.num_reads


def _await_work(own: Installation) -> None:
    """Wait until a worker has taken the first job: a storm over processes that still start tells little."""
    until = time.monotonic() + START_SECONDS
    while not own.rows("SELECT 1 FROM jobs WHERE kind = 'settle' AND owner IS NOT NULL"):
        if time.monotonic() > until:
            raise PromiseBroken("no worker takes a job, and nothing was killed yet")
        time.sleep(GLANCE_SECONDS)


def _told(found: dict[str, list[str]]) -> str:
    lines = []
    for promise, words in found.items():
        lines += [f"{promise}: {len(words)}", *(f"    {line}" for line in words[:SHOWN])]
    return "\n".join(["broken promises:", *lines])


def _command(setup: str, *, kills: int, seed: int) -> str:
    return f"make chaos SEED={seed} KILLS={kills} SETUP={setup}"


if __name__ == "__main__":
    sys.exit(main())
