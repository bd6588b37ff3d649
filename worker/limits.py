"""How long one attempt at a job may take, and how much memory its child may hold."""

import os
from dataclasses import dataclass
from pathlib import Path

from app.settings import Settings

LEAST_SOFT_SECONDS = 3600.0
TIMES_PREDICTED = 10.0

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Limits:
    """At the soft limit a child is asked to stop at its next block; so many seconds later it is killed."""

    soft_seconds: float
    stop_seconds: float
    memory_bytes: int | None


def limits_for(settings: Settings, *, predicted_seconds: float) -> Limits:
    """Return the limits of an attempt: generous, because they are for what hangs and not for what is slow."""
    derived = max(LEAST_SOFT_SECONDS, TIMES_PREDICTED * predicted_seconds)
    return Limits(
        soft_seconds=settings.soft_limit_seconds or derived,
        stop_seconds=settings.stop_seconds,
        memory_bytes=settings.child_memory_bytes,
    )


def resident_bytes(pid: int) -> int:
    """Return what a process holds in memory, with what it shares with its forkserver; 0 once it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0
