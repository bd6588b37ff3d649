"""The supervisor: claims jobs, has each run in child processes, gives back what did not come to its end.

Promises: it never imports torch, so it cannot be taken down by what a job does; one job at a time, whoever
asks; the cause of a child's death is recorded; a database that is away costs time, never the worker and
never an attempt. Between two jobs nothing is kept in memory that the database does not hold.
"""

import importlib
import math
import os
import signal
import socket
import threading
import time
from functools import partial
from multiprocessing.connection import Connection

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.db.connecting import is_passing
from app.db.session import Sessions
from app.domain.errors import SetupError
from app.domain.terms import Claim, JobId
from app.services.claim import claim_next, release, waiting_for_environment
from app.services.import_dataset import has_dataset
from app.services.workers import WorkerFacts
from worker.attempt import DATABASE_AWAY, RETRY_SECONDS, Attempt, Outcome
from worker.data.abandoned import remove_abandoned
from worker.housekeeper import Housekeeper
from worker.installation import Installation
from worker.processes import fresh_processes

MISFITS_SECONDS = 1.0

_log = structlog.get_logger()


class Supervisor:
    """One worker: one job at a time."""

    def __init__(self, installation: Installation) -> None:
        self._own = installation
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._stopping = threading.Event()
        self._one_job = threading.Lock()
        self._misfits: set[JobId] = set()
        self._misfits_sought_at = -math.inf
        self._is_database_away = False
        self._context = fresh_processes()
        self.environment_digest, self.device_class = self._ask_machine()
        facts = WorkerFacts(
            owner=self._owner, device_class=self.device_class, environment_digest=self.environment_digest
        )
        self.housekeeper = Housekeeper(installation, facts)

    def stop_on_signals(self) -> None:
        """Stop on SIGTERM or SIGINT: a running job is handed back, then the worker ends."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())

    def stop(self) -> None:
        """Claim nothing more and hand back what runs; returns at once."""
        self._stopping.set()

    @property
    def is_stopping(self) -> bool:
        """Whether somebody asked to stop."""
        return self._stopping.is_set()

    def wait(self, seconds: float) -> None:
        """Wait so long, or until somebody asks to stop."""
        self._stopping.wait(seconds)

    def work(self) -> None:
        """Poll until stopped."""
        while not self.is_stopping:
            if not self.run_next():
                self.wait(self._own.settings.poll_seconds)

    def work_until_idle(self) -> None:
        """Run jobs until there is nothing to do."""
        self.housekeeper.sweep()
        while self.run_next():
            self.housekeeper.sweep()

    def look_around(self) -> None:
        """At every sweep, unless it is busy, run all that waits: for a worker that a broker may forget."""
        while not self.is_stopping:
            if self._one_job.acquire(blocking=False):
                self._one_job.release()
                self.run_all()
            self.wait(self._own.settings.sweep_seconds)

    def run_all(self, first: JobId | None = None) -> None:
        """Run the job that was asked for if it waits, then whatever else waits."""
        if first is not None:
            self.run_next(only=first)
        while self.run_next():
            pass

    def run_next(self, only: JobId | None = None) -> bool:
        """Claim one job and run it to its end; False when there was none, no database, or no time left."""
        with self._one_job:
            claim = None if self.is_stopping else self._claim(only)
            if claim is None:
                return False
            _log.info("job_claimed", job=claim.job_id, kind=claim.kind, step=claim.step, fence=claim.fence)
            self._run(claim)
            return True

    @property
    def _sessions(self) -> Sessions:
        return self._own.sessions

    def _claim(self, only: JobId | None) -> Claim | None:
        try:
            claim = claim_next(
                self._sessions,
                owner=self._owner,
                environment_digest=self.environment_digest,
                store=self._own.store,
                only=only,
                lease_seconds=self._own.settings.lease_seconds,
            )
            if claim is None:
                self._warn_of_misfits()
            self._is_database_away = False
            return claim
        except SQLAlchemyError as error:
            if not is_passing(error):
                raise
            if not self._is_database_away:
                _log.warning("database_away", error=type(error).__name__)
            self._is_database_away = True
            return None

    def _run(self, claim: Claim) -> None:
        outcome = self._attempt(claim)
        self.housekeeper.scrub_soon()
        if not outcome.is_recorded:
            self._give_back(claim, outcome)

    def _attempt(self, claim: Claim) -> Outcome:
        try:
            # What a killed child or import left half-written may hold whom this job forgets.
            self._own.store.sweep_temporary()
            remove_abandoned(self._own.settings.data_folder, is_known=partial(has_dataset, self._sessions))
        except SQLAlchemyError as error:
            if not is_passing(error):
                raise
            return DATABASE_AWAY
        attempt = Attempt(self._own, claim, context=self._context, is_stopping=self._stopping.is_set)
        return attempt.run()

    def _give_back(self, claim: Claim, outcome: Outcome) -> None:
        """End the lease, waiting for a database that is away; a worker that stops waits a moment only.

        Without it the lease runs out by itself, but the attempt has counted.
        """
        num_tries_left = math.ceil(self._own.settings.stop_seconds / RETRY_SECONDS)
        while not self._released(claim, outcome):
            if self.is_stopping:
                num_tries_left -= 1
            if not num_tries_left:
                _log.error("job_not_given_back", job=claim.job_id)
                return
            time.sleep(RETRY_SECONDS)

    def _released(self, claim: Claim, outcome: Outcome) -> bool:
        try:
            release(self._sessions, claim, error=outcome.error, counts=outcome.counts)
        except SQLAlchemyError as error:
            if not is_passing(error):
                raise
            return False
        return True

    def _warn_of_misfits(self) -> None:
        """Say once for each job that it waits for another environment than this worker's."""
        if time.monotonic() < self._misfits_sought_at + MISFITS_SECONDS:
            return
        self._misfits_sought_at = time.monotonic()
        for job_id in waiting_for_environment(self._sessions, environment_digest=self.environment_digest):
            if job_id not in self._misfits:
                self._misfits.add(job_id)
                _log.warning(
                    "waiting_for_environment", job=job_id, hint="trained elsewhere or before an upgrade"
                )

    def _ask_machine(self) -> tuple[str, str]:
        try:
            environment_digest, device_class = self._probed()
        except (OSError, EOFError) as error:
            hint = "is the worker installed? pip install 'expunge[worker]'"
            raise SetupError(f"no child process could say what this machine is; {hint}") from error
        return str(environment_digest), str(device_class)

    def _probed(self) -> tuple[str, str]:
        answer, other_end = self._context.Pipe()
        probe = self._context.Process(target=_enter_probe, args=(other_end,))
        probe.start()
        other_end.close()
        try:
            said: tuple[str, str] = answer.recv()
            return said
        finally:
            probe.join()


def _enter_probe(answer: Connection) -> None:
    # By name: an import statement here would bring torch into the supervisor's own import graph.
    importlib.import_module("worker.child").report_machine(answer)
