"""The report of a run: what was done to the service, what it did, how long dead workers' jobs waited."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chaos.history import Audited, Died, Event, JobSeen, Posted, Retried, Struck, of_kind
from benchmarks.chaos.remains import Remains
from benchmarks.results import Row, Sheet

LEASE_LOST = 12
WORKER_DEATHS = ("kill worker", "kill machine")
_ENDED = ("succeeded", "failed")


def rows_of(made: Sheet, history: list[Event], left: Remains, *, logs: Path, num_reads: int) -> list[Row]:
    """Return the figures of a run in which nothing was wrong."""
    posts, faults = of_kind(history, Posted), of_kind(history, Struck)
    accepted = {post.id for post in posts if post.id is not None}
    counts: list[tuple[str, float, str, str]] = [
        ("faults", len(faults), "faults", ", ".join(f"{n} {kind}" for kind, n in kinds(faults).items())),
        ("acknowledged deletions", len(accepted), "requests", f"{len(posts)} tries"),
        ("lost", 0, "requests", "target 0"),
        ("versions", len(left.versions), "versions", "a job each; 0 published twice, coverage never fell"),
        ("jobs", len(left.jobs), "jobs", f"{_num_attempts(history)} claims"),
        ("tried again by hand", _num_retried(history), "jobs", "after 3 attempts"),
        ("stale workers fenced", num_fenced(logs), "jobs", "a worker that had lost its lease"),
        ("equal to the oracle", sum(bool(a.is_equal) for a in of_kind(history, Audited)), "versions",
         f"{sum(a.is_equal is None for a in of_kind(history, Audited))} could not be asked"),
        ("ended by themselves", len(of_kind(history, Died)), "processes", "started again"),
        ("reads", num_reads, "answers", "successes while it stormed"),
    ]  # fmt: skip
    rows = [made.one(metric, value, unit=unit, baseline=against) for metric, value, unit, against in counts]
    waits = rerun_seconds(history)
    return rows + waits_rows(made, waits, against="a killed worker's job while it storms on; lease 3 s")


def waits_rows(made: Sheet, waits: Sequence[float], *, against: str) -> list[Row]:
    """Return median and 95th percentile of how long a dead worker's job waited."""
    if not waits:
        return []
    p95 = percentile(waits, 0.95)
    return [
        made.median("until the job ran again", waits, unit="s", baseline=against),
        made.one("until the job ran again, p95", p95, unit="s", baseline=f"{len(waits)} kills"),
    ]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of all values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def rerun_seconds(history: list[Event]) -> list[float]:
    """Return, for every kill of a worker that held a job, how long until somebody claimed it again."""
    looks = of_kind(history, JobSeen)
    waits = []
    for death in of_kind(history, Struck):
        if death.kind not in WORKER_DEATHS or death.job is None or death.fence is None:
            continue
        again = [look.at for look in looks if look.id == death.job and look.at >= death.at
                 and (look.fence > death.fence or look.status in _ENDED)]  # fmt: skip
        if again:
            waits.append(min(again) - death.at)
    return waits


def kinds(faults: Sequence[Struck]) -> dict[str, int]:
    """Return how often each kind of fault struck, the most frequent first."""
    return dict(Counter(fault.kind for fault in faults).most_common())


def num_fenced(logs: Path) -> int:
    """Return how many children found, or whose supervisors found, that the lease was lost."""
    return sum(
        1
        for path in logs.glob("*worker*")
        for line in path.read_text(errors="replace").splitlines()
        if '"child_ended"' in line and _facts(line).get("code") == LEASE_LOST
    )


def _num_retried(history: list[Event]) -> int:
    return sum(len(retried.jobs) for retried in of_kind(history, Retried))


def _num_attempts(history: list[Event]) -> int:
    highest: dict[str, int] = {}
    for look in of_kind(history, JobSeen):
        highest[look.id] = max(look.fence, highest.get(look.id, 0))
    return sum(highest.values())


def _facts(line: str) -> dict[str, object]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
