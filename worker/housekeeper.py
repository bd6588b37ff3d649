"""What is due besides jobs: seal, close, clear, expire, scrub; beside the jobs, in a thread of its own.

Promises: a request is sealed at most a poll after its grace, whatever a job or a broker does meanwhile; a
database that is away costs polls, not the worker. Never: runs a job.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.db.scrubbing import scrub
from app.domain.scheduling import HEARTBEAT_SECONDS
from app.domain.terms import DatasetId
from app.services.clear_copies import Kept, clear_copies
from app.services.close import close_ready, destroy_revealed_nonces
from app.services.expire import expire_leftovers
from app.services.schedule import schedule
from app.services.seal import seal_due
from app.services.workers import WorkerFacts, report_alive, report_gone
from worker.installation import Installation

LEFTOVERS_SECONDS = 1.0

_log = structlog.get_logger()


class Housekeeper:
    """One worker's sweep."""

    def __init__(self, installation: Installation, worker: WorkerFacts) -> None:
        self._own = installation
        self._worker = worker
        self._said_alive_at = self._cleared_at = -math.inf
        self._known_late: set[str] = set()
        self._known_uncleared: dict[DatasetId, Kept] = {}
        # Sweeps of one process would only wait for each other's locks in the database.
        self._one_sweep = threading.Lock()
        # Whoever closed a request may have been killed before the scrub, or a reader prevented it.
        self._needs_scrub = True
        self._has_failed = False

    @contextmanager
    def at_work(self, *, on_end: Callable[[], None]) -> Iterator[None]:
        """Sweep at every poll until the block ends; ``on_end`` is called then, or when a sweep breaks.

        What broke it is raised at the end of the block: a worker that no longer seals must not go on.
        """
        is_over = threading.Event()
        with ThreadPoolExecutor(1, thread_name_prefix="housekeeper") as threads:
            sweeping = threads.submit(self._sweep_until, is_over)
            sweeping.add_done_callback(lambda _: on_end())
            try:
                yield
            finally:
                is_over.set()
        self._say_gone()
        sweeping.result()

    def _say_gone(self) -> None:
        try:
            report_gone(self._own.sessions, self._worker.owner)
        except SQLAlchemyError as error:
            _log.warning("departure_not_told", error=type(error).__name__)

    def sweep(self) -> None:
        """Do everything that is due now."""
        self._guarded(is_whole=True)

    def look(self) -> None:
        """Seal what is due; do the rest when a job has ended, and once a second."""
        self._guarded(is_whole=False)

    def _guarded(self, *, is_whole: bool) -> None:
        with self._one_sweep:
            if self._own.settings.alive_file:
                self._own.settings.alive_file.touch()
            try:
                self._sweep_once(is_whole=is_whole)
                self._has_failed = False
            except SQLAlchemyError as error:
                # Once: four lines a second would bury what else happens while the database is away.
                if not self._has_failed:
                    _log.error("sweep_failed", error=type(error).__name__)
                self._has_failed = True

    def scrub_soon(self) -> None:
        """Let the next sweep empty the log of the database: a job has ended, however it did."""
        self._needs_scrub = True

    def _sweep_until(self, is_over: threading.Event) -> None:
        while not is_over.is_set():
            self.look()
            is_over.wait(self._own.settings.poll_seconds)

    def _sweep_once(self, *, is_whole: bool) -> None:
        self._say_alive()
        seal_due(self._own.sessions, contents=self._own.contents)
        # A poll of an idle worker costs a look for requests and one for jobs, and little else.
        is_time = time.monotonic() >= self._cleared_at + LEFTOVERS_SECONDS
        if is_whole or is_time or self._needs_scrub:
            self._clear_leftovers()
            self._cleared_at = time.monotonic()

    def _clear_leftovers(self) -> None:
        """Close what another worker left at ``purging``; destroy what nobody needs; expire; scrub."""
        sessions = self._own.sessions
        self._schedule()
        closed = close_ready(sessions, keyring=self._own.keyring, erase=self._own.erase)
        num_destroyed = destroy_revealed_nonces(sessions)
        self._known_uncleared = clear_copies(
            sessions, contents=self._own.contents, known=self._known_uncleared
        )
        num_expired = expire_leftovers(sessions)
        if closed or num_destroyed or num_expired or self._needs_scrub:
            self._scrub()

    def _say_alive(self) -> None:
        if time.monotonic() >= self._said_alive_at + HEARTBEAT_SECONDS:
            report_alive(self._own.sessions, self._worker)
            self._said_alive_at = time.monotonic()

    def _schedule(self) -> None:
        """Bring forward what must start to be in time; say once of each job that it will be late."""
        late = schedule(self._own.sessions).late_seconds
        for job_id in late.keys() - self._known_late:
            _log.warning("deadline_at_risk", job=job_id, late_seconds=round(late[job_id]))
        self._known_late = set(late)

    def _scrub(self) -> None:
        # First, because a job that ends meanwhile wants another one.
        self._needs_scrub = False
        if not scrub(self._own.engine):
            self._needs_scrub = True
