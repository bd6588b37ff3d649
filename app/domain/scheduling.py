"""When things happen: the grace before sealing, due dates, and when a product may see an outcome.

Seconds everywhere; points in time are UTC seconds since the epoch.
"""

import math

DAY_SECONDS = 86_400.0
DEFAULT_DUE_DAYS = 30
SUPPRESSION_YEARS = 3

LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = 10.0
MAX_ATTEMPTS_WITHOUT_PROGRESS = 3
MAX_ATTEMPTS = 50


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


def has_attempts_left(num_attempts: int, num_without_progress: int) -> bool:
    """Whether a job that stopped may be tried again."""
    return num_attempts < MAX_ATTEMPTS and num_without_progress < MAX_ATTEMPTS_WITHOUT_PROGRESS
