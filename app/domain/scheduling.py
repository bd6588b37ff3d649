"""When things happen: the grace before sealing, due dates, and when a product may see an outcome.

Seconds everywhere; points in time are UTC seconds since the epoch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

DAY_SECONDS = 86_400.0
DEFAULT_DUE_DAYS = 30
SUPPRESSION_YEARS = 3

LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = 10.0
MAX_ATTEMPTS_WITHOUT_PROGRESS = 3
MAX_ATTEMPTS = 50

# A worker that has not been heard of for so long does not count as alive.
WORKER_SILENCE_SECONDS = 30.0
NUM_RUNS_KNOWN = 5
SAFETY, SAFETY_UNKNOWN = 2.0, 3.0


def due_at(posted_at: float, wished: float | None) -> float:
    """Return when a request must be settled: what the caller wished, else 30 days after posting."""
    return posted_at + DEFAULT_DUE_DAYS * DAY_SECONDS if wished is None else wished


def days_left(due: float, now: float) -> int:
    """Return the whole days that remain, negative when overdue."""
    return math.floor((due - now) / DAY_SECONDS)


def visible_at(done_at: float, reveal_at: float) -> float:
    """Return when a product may see that a target is done.

    A subject that no model holds is done at once. Both kinds wait for ``reveal_at`` (posted plus the
    model's predicted settle time), so that the time of completion does not say who was held.
    """
    return max(done_at, reveal_at)


def predicted_settle_seconds(training_seconds: float, *, fixed_seconds: float = 5.0) -> float:
    """Return how long a settlement may take: a replay of all blocks plus the fixed part."""
    return 1.05 * training_seconds + fixed_seconds


def wished_start(sealed_at: float, *, window_seconds: float, num_waiting: int, count: int | None) -> float:
    """Return when a settle job should start: at the end of its batch window, or with enough requests.

    The window begins with the first request that waits; ``count`` None means that no number is enough.
    """
    if count is not None and num_waiting >= count:
        return sealed_at
    return sealed_at + window_seconds


@dataclass(frozen=True)
class WaitingJob:
    """A job that has not begun: when it must be done, and for how long it is expected to run (seconds)."""

    id: str
    due_at: float
    seconds: float


def safe_seconds(predicted_seconds: float, past_runs: Sequence[float]) -> float:
    """Return how long a job is planned for: 2 x P95 of the model's runs, 3 x the prediction until 5 exist."""
    if len(past_runs) < NUM_RUNS_KNOWN:
        return SAFETY_UNKNOWN * predicted_seconds
    ordered = sorted(past_runs)
    return SAFETY * ordered[math.ceil(0.95 * len(ordered)) - 1]


def latest_safe_starts(waiting: Sequence[WaitingJob], *, num_workers: int) -> dict[str, float]:
    """Return by when each job must start so that all are done in time, earliest due date first.

    Walks backwards from the latest due date; several workers share the sum of the work, but no single job.
    """
    starts: dict[str, float] = {}
    following = math.inf
    for job in sorted(waiting, key=lambda job: (job.due_at, job.id), reverse=True):
        following = min(following, job.due_at) - job.seconds / max(num_workers, 1)
        starts[job.id] = min(following, job.due_at - job.seconds)
    return starts


def predicted_lateness(waiting: Sequence[WaitingJob], *, now: float, num_workers: int) -> dict[str, float]:
    """Return, for jobs that will miss their due date even when all start now, by how many seconds."""
    late: dict[str, float] = {}
    ends_at = now
    for job in sorted(waiting, key=lambda job: (job.due_at, job.id)):
        ends_at = max(ends_at + job.seconds / max(num_workers, 1), now + job.seconds)
        if ends_at > job.due_at:
            late[job.id] = ends_at - job.due_at
    return late


def has_attempts_left(num_attempts: int, num_without_progress: int) -> bool:
    """Whether a job that stopped may be tried again."""
    return num_attempts < MAX_ATTEMPTS and num_without_progress < MAX_ATTEMPTS_WITHOUT_PROGRESS
