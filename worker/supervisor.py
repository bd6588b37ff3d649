"""The supervisor: seals requests, claims jobs, runs each in child processes, keeps the lease, sweeps.

Promises: it never imports torch, so it cannot be taken down by what a job does; a child never outlives it;
the cause of a child's death is recorded. Between two polls nothing is kept in memory that the database
does not hold.
"""

import importlib
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from functools import partial
from multiprocessing.process import BaseProcess

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.db.session import Sessions, scrub
from app.domain.errors import SetupError
from app.domain.scheduling import HEARTBEAT_SECONDS
from app.domain.terms import Claim, JobId
from app.services.claim import claim_next, heartbeat, job_view, release, waiting_for_environment
from app.services.close import close_ready, destroy_revealed_nonces
from app.services.expire import expire_leftovers
from app.services.import_dataset import has_dataset
from app.services.seal import seal_due
from app.settings import Settings
from worker.data.abandoned import remove_abandoned
from worker.installation import Installation
from worker.processes import Ending, fresh_processes

_log = structlog.get_logger()


class Supervisor:
    """One worker: one job at a time."""

    def __init__(self, installation: Installation) -> None:
        self._own = installation
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._stopping = threading.Event()
        self._misfits: set[JobId] = set()
        # Whoever closed a request may have been killed before the scrub, or a reader prevented it.
        self._needs_scrub = True
        self._context = fresh_processes()
        self.environment_digest = self._ask_environment()

    def stop_on_signals(self) -> None:
        """End after the current poll on SIGTERM or SIGINT; a running job is handed back."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())

    @property
    def is_stopping(self) -> bool:
        """Whether a signal asked to stop."""
        return self._stopping.is_set()

    def work(self, *, until_idle: bool = False) -> None:
        """Poll until stopped; with ``until_idle``, until there is nothing to do."""
        while not self._stopping.is_set():
            was_busy = self.run_next()
            if until_idle and not was_busy:
                return
            if not was_busy:
                self._stopping.wait(self._own.settings.poll_seconds)

    def run_next(self, only: JobId | None = None) -> bool:
        """Sweep, then claim one job and run it to its end; False when there was none."""
        self._sweep()
        claim = claim_next(
            self._sessions,
            owner=self._owner,
            environment_digest=self.environment_digest,
            only=only,
            lease_seconds=self._own.settings.lease_seconds,
        )
        if claim is None:
            self._warn_of_misfits()
            return False
        _log.info("job_claimed", job=claim.job_id, kind=claim.kind, step=claim.step, fence=claim.fence)
        self._run(claim)
        return True

    @property
    def _sessions(self) -> Sessions:
        return self._own.sessions

    def _run(self, claim: Claim) -> None:
        """Run child after child until the job no longer goes on in a fresh process."""
        # What a killed child or import left half-written may hold whom this job forgets.
        self._own.store.sweep_temporary()
        remove_abandoned(self._own.settings.data_folder, is_known=partial(has_dataset, self._sessions))
        while True:
            code = self._run_child(claim)
            if code != Ending.GOES_ON:
                break
            step = job_view(self._sessions, claim.job_id).step
            claim = replace(claim, step=step)
        _log.info("child_ended", job=claim.job_id, code=code)
        self._needs_scrub = True
        if self._stopping.is_set():
            release(self._sessions, claim, error=None, counts=False)
        elif code not in (Ending.DONE, Ending.GAVE_UP, Ending.LEASE_LOST):
            release(self._sessions, claim, error=_cause(code))

    def _run_child(self, claim: Claim) -> int:
        lifeline, other_end = self._context.Pipe()
        child = self._context.Process(target=_enter_child, args=(self._own.settings, claim, other_end))
        child.start()
        other_end.close()
        try:
            return self._watch(child, claim)
        finally:
            lifeline.close()

    def _watch(self, child: BaseProcess, claim: Claim) -> int:
        """Wait for the child, sweeping meanwhile and prolonging the lease; kill it when the lease is lost."""
        beat_at = time.monotonic() + self._heartbeat_seconds
        while True:
            child.join(self._own.settings.poll_seconds)
            if child.exitcode is not None:
                return child.exitcode
            if self._stopping.is_set():
                _kill(child)
                return Ending.GAVE_UP
            self._sweep()
            if time.monotonic() >= beat_at:
                beat_at = time.monotonic() + self._heartbeat_seconds
                if not heartbeat(self._sessions, claim, lease_seconds=self._own.settings.lease_seconds):
                    _kill(child)
                    return Ending.LEASE_LOST

    @property
    def _heartbeat_seconds(self) -> float:
        return min(HEARTBEAT_SECONDS, self._own.settings.lease_seconds / 3)

    def _sweep(self) -> None:
        """Do what is due besides jobs; a database that is away for a moment costs a poll, not the worker."""
        if self._own.settings.alive_file:
            self._own.settings.alive_file.touch()
        try:
            self._sweep_once()
        except SQLAlchemyError as error:
            _log.error("sweep_failed", error=type(error).__name__)

    def _sweep_once(self) -> None:
        """Seal what is due; close what another worker left at ``purging``; destroy revealed nonces; scrub."""
        seal_due(self._sessions)
        closed = close_ready(self._sessions, keyring=self._own.keyring, erase=self._own.erase)
        num_destroyed = destroy_revealed_nonces(self._sessions)
        num_expired = expire_leftovers(self._sessions)
        if closed or num_destroyed or num_expired or self._needs_scrub:
            self._needs_scrub = not scrub(self._own.engine)

    def _warn_of_misfits(self) -> None:
        """Say once for each job that it waits for another environment than this worker's."""
        for job_id in waiting_for_environment(self._sessions, environment_digest=self.environment_digest):
            if job_id not in self._misfits:
                self._misfits.add(job_id)
                _log.warning(
                    "waiting_for_environment", job=job_id, hint="trained elsewhere or before an upgrade"
                )

    def _ask_environment(self) -> str:
        answer, other_end = self._context.Pipe()
        probe = self._context.Process(target=_enter_probe, args=(other_end,))
        probe.start()
        other_end.close()
        try:
            return str(answer.recv())
        except EOFError as error:
            hint = "is the worker installed? pip install 'expunge[worker]'"
            raise SetupError(f"no child process could say what this machine is; {hint}") from error
        finally:
            probe.join()


def _enter_child(settings: Settings, claim: Claim, lifeline: object) -> None:
    # By name: an import statement here would bring torch into the supervisor's own import graph.
    importlib.import_module("worker.child").run_child(settings, claim, lifeline)


def _enter_probe(answer: object) -> None:
    importlib.import_module("worker.child").report_environment(answer)


def _kill(child: BaseProcess) -> None:
    child.kill()
    child.join()


def _cause(code: int) -> str:
    """Say how a child died."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (perhaps out of memory)" if -code == signal.SIGKILL else ""
        return f"the child process was killed by {name}{hint}"
    return f"the child process ended with code {code}"
