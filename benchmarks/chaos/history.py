"""The history of a run: what was done to the service and what it answered, a JSON line each.

Promises: a line is on its way to the file before the next operation begins; what is read back is what was
written. Times are seconds since the run began, by one monotonic clock.
"""

import json
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar


@dataclass(frozen=True)
class Posted:
    """One try of one POST /deletions. ``status`` is None when no answer came, ``id`` when it was no 202."""

    at: float
    key: str
    subject: str
    models: tuple[str, ...] | None
    status: int | None
    id: str | None


@dataclass(frozen=True)
class Asked:
    """One GET that was not answered with a success; those that were are counted, not kept."""

    at: float
    path: str
    status: int | None


@dataclass(frozen=True)
class Seen:
    """What ``current`` of a model was when somebody looked, over HTTP."""

    at: float
    model: str
    number: int
    covers: int
    settled: int
    manifest_digest: str


@dataclass(frozen=True)
class JobSeen:
    """A job whose row had changed: its fence, who holds it, where it stands."""

    at: float
    id: str
    kind: str
    status: str
    step: str
    fence: int
    owner: str | None
    num_attempts: int
    error: str | None


@dataclass(frozen=True)
class Struck:
    """A fault. ``job`` and ``fence`` name what the process held that it hit, if it held any."""

    at: float
    number: int
    kind: str
    whom: str
    job: str | None = None
    fence: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class Repaired:
    """What a fault had taken away is there again."""

    at: float
    number: int
    kind: str
    whom: str


@dataclass(frozen=True)
class Died:
    """A process ended though nobody had killed it."""

    at: float
    whom: str
    code: int
    words: str


@dataclass(frozen=True)
class Retried:
    """An operator tried the failed jobs of a model again, by hand."""

    at: float
    model: str
    jobs: tuple[str, ...]


@dataclass(frozen=True)
class Audited:
    """What the oracle said of a version; ``is_equal`` is None when nobody can train it any more."""

    at: float
    model: str
    version: int
    is_equal: bool | None


Event = Posted | Asked | Seen | JobSeen | Struck | Repaired | Died | Retried | Audited
E = TypeVar("E", bound=Event)
_KINDS = {
    kind.__name__: kind for kind in (Posted, Asked, Seen, JobSeen, Struck, Repaired, Died, Retried, Audited)
}
_TUPLES = ("models", "jobs")


class Recorder:
    """Writes the history; many threads share it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._lock = threading.Lock()
        self._began = time.monotonic()

    def now(self) -> float:
        """Return the seconds since the run began."""
        return round(time.monotonic() - self._began, 4)

    def add(self, event: Event) -> None:
        """Append one event."""
        line = json.dumps({"event": type(event).__name__, **asdict(event)})
        with self._lock:
            self._file.write(line + "\n")

    def close(self) -> None:
        """Write no more."""
        self._file.close()


def read_history(path: Path) -> list[Event]:
    """Return the events of a file in the order of their times."""
    return sorted(
        (_event(json.loads(line)) for line in path.read_text().splitlines()), key=lambda event: event.at
    )


def of_kind(history: list[Event], kind: type[E]) -> list[E]:
    """Return the events of one kind."""
    return [event for event in history if isinstance(event, kind)]


def _event(facts: dict[str, object]) -> Event:
    kind = _KINDS[str(facts.pop("event"))]
    fixed = {name: tuple(value) if name in _TUPLES and isinstance(value, list) else value
             for name, value in facts.items()}  # fmt: skip
    return kind(**fixed)  # type: ignore[arg-type]
