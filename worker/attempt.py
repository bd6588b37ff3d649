"""One attempt at a job: its child processes, the lease meanwhile, the limits, and how it ended.

Promises: a child is asked to stop before it is killed, unless it holds too much memory or may no longer
write; a database that is away ends no attempt before the lease has certainly run out; the cause of every
death is told. Never: writes to the job besides prolonging its lease.
"""

import importlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.domain.scheduling import HEARTBEAT_SECONDS
from app.domain.terms import Claim, JobView
from app.services.claim import heartbeat, job_view
from app.settings import Settings
from worker.installation import Installation
from worker.limits import limits_for, resident_bytes
from worker.processes import STOP, Ending, signal_group

TERM_SECONDS = 10.0
RETRY_SECONDS = 1.0

_log = structlog.get_logger()


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended. ``is_recorded``: the child has said so itself, or somebody else holds the job."""

    error: str | None = None
    counts: bool = True
    is_recorded: bool = False


DATABASE_AWAY = Outcome(error="the database was away", counts=False)
_RECORDED = Outcome(is_recorded=True)
_HANDED_OVER = Outcome(counts=False)


class Attempt:
    """Runs child after child until the job no longer goes on in a fresh process."""

    def __init__(
        self,
        installation: Installation,
        claim: Claim,
        *,
        context: ForkServerContext,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._own = installation
        self._claim = claim
        self._context = context
        self._is_stopping = is_stopping
        self._started = time.monotonic()
        self._limits = limits_for(self._settings, predicted_seconds=0.0)
        # The claim has just given the lease.
        self._held_until = self._started + self._settings.lease_seconds
        self._beat_at = self._started + self._beat_seconds
        self._asked_at: float | None = None
        self._fate: Outcome | None = None

    def run(self) -> Outcome:
        """Return how the attempt ended; no process of it is left."""
        while True:
            code = self._run_child()
            if code != Ending.GOES_ON or self._asked_at is not None or self._is_stopping():
                break
        _log.info("child_ended", job=self._claim.job_id, code=code)
        return self._outcome(code)

    def _outcome(self, code: int) -> Outcome:
        """Say what an exit code means; what a child says of itself is true whatever was asked of it."""
        if code in (Ending.DONE, Ending.GAVE_UP, Ending.LEASE_LOST):
            return _RECORDED
        if self._is_stopping():
            return _HANDED_OVER
        if self._fate is not None:
            return self._fate
        if code == Ending.LOST_DATABASE:
            return DATABASE_AWAY
        return Outcome(error=_cause(code))

    @property
    def _settings(self) -> Settings:
        return self._own.settings

    @property
    def _beat_seconds(self) -> float:
        return min(HEARTBEAT_SECONDS, self._settings.lease_seconds / 3)

    def _run_child(self) -> int:
        lifeline, other_end = self._context.Pipe()
        child = self._context.Process(target=_enter_child, args=(self._settings, self._claim, other_end))
        try:
            child.start()
        except (OSError, EOFError) as error:  # the forkserver died just now; the next start makes another
            self._fate = Outcome(error=f"no child process could be started: {type(error).__name__}")
            return Ending.NOT_STARTED
        other_end.close()
        try:
            return self._watch(child, lifeline)
        finally:
            lifeline.close()

    def _watch(self, child: BaseProcess, lifeline: Connection) -> int:
        while True:
            child.join(self._settings.poll_seconds)
            if child.exitcode is not None:
                return child.exitcode
            self._keep_lease(child)
            self._keep_limits(child, lifeline)

    def _keep_lease(self, child: BaseProcess) -> None:
        """Prolong the lease when it is time; a child whose lease is lost, or has run out, is killed."""
        now = time.monotonic()
        if now >= self._beat_at:
            self._beat(child, now)
        if time.monotonic() >= self._held_until:
            self._fate = Outcome(error="the lease ran out while the database was away", counts=False)
            _end(child, at_once=True)

    def _beat(self, child: BaseProcess, now: float) -> None:
        try:
            is_held = heartbeat(self._own.sessions, self._claim, lease_seconds=self._settings.lease_seconds)
            view = job_view(self._own.sessions, self._claim.job_id)
        except SQLAlchemyError as error:
            _log.warning("heartbeat_failed", job=self._claim.job_id, error=type(error).__name__)
            self._beat_at = now + min(RETRY_SECONDS, self._beat_seconds)
            return
        if not is_held:
            self._fate = _RECORDED
            _end(child, at_once=True)
        # From before the question: the database gave the lease at some time after.
        self._held_until = now + self._settings.lease_seconds
        self._beat_at = now + self._beat_seconds
        self._limits = limits_for(self._settings, predicted_seconds=_predicted_seconds(view))

    def _keep_limits(self, child: BaseProcess, lifeline: Connection) -> None:
        limits, seconds = self._limits, time.monotonic() - self._started
        if self._holds_too_much(child):
            self._fate = Outcome(error=f"out of memory: more than {limits.memory_bytes} bytes")
            _end(child, at_once=True)
        elif self._asked_at is not None:
            if time.monotonic() >= self._asked_at + limits.stop_seconds:
                _end(child, at_once=False)
        elif self._is_stopping():
            self._ask(lifeline)
        elif seconds >= limits.soft_seconds:
            self._fate = Outcome(error=f"timed out: an attempt may take {limits.soft_seconds:g} seconds")
            self._ask(lifeline)

    def _ask(self, lifeline: Connection) -> None:
        """Ask the child to stop at its next block, or between two steps."""
        self._asked_at = time.monotonic()
        try:
            lifeline.send(STOP)
        except OSError:
            return  # it has just ended

    def _holds_too_much(self, child: BaseProcess) -> bool:
        most = self._limits.memory_bytes
        return most is not None and child.pid is not None and resident_bytes(child.pid) > most


def _cause(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (perhaps out of memory)" if -code == signal.SIGKILL else ""
        return f"the child process was killed by {name}{hint}"
    return f"the child process ended with code {code}"


def _predicted_seconds(view: JobView) -> float:
    prepared = view.outputs.get("prepare")
    return float(str(prepared.get("predicted_seconds", 0.0))) if isinstance(prepared, dict) else 0.0


def _end(child: BaseProcess, *, at_once: bool) -> None:
    """Kill a child and all that it started: politely first, unless it must not run another moment."""
    assert child.pid is not None  # it was started
    if not at_once:
        signal_group(child.pid, signal.SIGTERM)
        child.join(TERM_SECONDS)
    if child.exitcode is None:
        signal_group(child.pid, signal.SIGKILL)
        child.join()


def _enter_child(settings: Settings, claim: Claim, lifeline: Connection) -> None:
    # By name: an import statement here would bring torch into the supervisor's own import graph.
    importlib.import_module("worker.child").run_child(settings, claim, lifeline)
