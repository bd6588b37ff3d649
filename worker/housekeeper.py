"""What is due besides jobs: seal, close, expire, scrub; beside the jobs, in a thread of its own.

Promises: a request is sealed at most a poll after its grace, whatever a job or a broker does meanwhile; a
database that is away costs polls, not the worker. Never: runs a job.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.db.scrubbing import scrub
from app.services.close import close_ready, destroy_revealed_nonces
from app.services.expire import expire_leftovers
from app.services.seal import seal_due
from worker.installation import Installation

_log = structlog.get_logger()


class Housekeeper:
    """One worker's sweep."""

    def __init__(self, installation: Installation) -> None:
        self._own = installation
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
        sweeping.result()

    def sweep(self) -> None:
        """Do everything that is due now."""
        with self._one_sweep:
            try:
                self._sweep_once()
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
            self.sweep()
            is_over.wait(self._own.settings.poll_seconds)

    def _sweep_once(self) -> None:
        """Seal what is due; close what another worker left at ``purging``; destroy revealed nonces; scrub."""
        sessions = self._own.sessions
        seal_due(sessions)
        closed = close_ready(sessions, keyring=self._own.keyring, erase=self._own.erase)
        num_destroyed = destroy_revealed_nonces(sessions)
        num_expired = expire_leftovers(sessions)
        if closed or num_destroyed or num_expired or self._needs_scrub:
            self._scrub()

    def _scrub(self) -> None:
        # First, because a job that ends meanwhile wants another one.
        self._needs_scrub = False
        if not scrub(self._own.engine):
            self._needs_scrub = True
