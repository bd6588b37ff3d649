"""The child process: runs the steps of one claimed job and says by its exit code how it ended.

Promises: it dies with its supervisor, and all that it started with it; asked to stop, it does so at the next
block or step; whatever goes wrong is recorded at the job before it exits, but for a database that is away.
This is the one border of the worker with a broad ``except``.
"""

import gc
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection

import structlog
from sqlalchemy.exc import DBAPIError

from app.db.connecting import is_connection_lost
from app.domain.errors import ExpungeError, HandedOver, LeaseLost
from app.domain.terms import Claim
from app.logs import configure_logging
from app.services.claim import fail, job_view, release
from app.settings import Settings
from worker.determinism import choose_device, environment
from worker.installation import Installation, open_installation
from worker.pipeline import run_steps
from worker.processes import STOP, Ending, die_by_signal

_log = structlog.get_logger()


def run_child(settings: Settings, claim: Claim, lifeline: Connection) -> None:
    """Run steps until the job ends or a step wants a fresh process; the entry point of the process."""
    # A Ctrl-C is meant for the supervisor, which asks; and whoever kills us kills what we started.
    os.setpgrp()
    stop = follow_supervisor(lifeline)
    # Without it structlog prints a trace with its local variables: refs, salts and digests of records.
    configure_logging()
    # What torch brought along stays: walking it at every collection takes as long as reading the records.
    gc.freeze()
    raise SystemExit(_run(open_installation(settings), claim, stop=stop))


def report_machine(answer: Connection) -> None:
    """Send this machine's environment digest and device class to the supervisor, which imports no torch."""
    device = choose_device()
    with suppress(OSError):  # whoever asked may have been killed meanwhile
        answer.send((environment(device).digest(), device.type))
    answer.close()


def follow_supervisor(lifeline: Connection) -> threading.Event:
    """Die when the supervisor does: by the kernel's signal, and when the pipe to it breaks.

    The event is set when it asks to stop.
    """
    die_by_signal()
    stop = threading.Event()
    threading.Thread(target=_listen, args=(lifeline, stop), daemon=True).start()
    return stop


def _listen(lifeline: Connection, stop: threading.Event) -> None:
    try:
        while lifeline.recv() == STOP:
            stop.set()
    except (EOFError, OSError):
        os.killpg(os.getpgrp(), signal.SIGKILL)


def _run(installation: Installation, claim: Claim, *, stop: threading.Event) -> Ending:
    try:
        # Another child of this attempt may have come further than the claim says.
        going = replace(claim, step=job_view(installation.sessions, claim.job_id).step)
        following = run_steps(installation, going, should_stop=stop.is_set)
    except HandedOver:
        return Ending.HANDED_OVER
    except LeaseLost:
        return Ending.LEASE_LOST
    except (ExpungeError, ValueError) as error:
        # It would go wrong the same way again: the cause is recorded and somebody has to mend it.
        _log.error("job_failed", job=claim.job_id, error=str(error))
        return _record(
            partial(
                fail,
                installation.sessions,
                claim,
                error=str(error),
                is_retryable=True,
                store=installation.store,
            )
        )
    except Exception as error:  # noqa: BLE001 - the border: the cause is recorded, the job tried again
        if is_connection_lost(error):
            _log.warning("database_lost", job=claim.job_id)
            return Ending.LOST_DATABASE
        _log.exception("job_stopped", job=claim.job_id)
        cause = f"{type(error).__name__}: {error}"
        return _record(partial(release, installation.sessions, claim, error=cause))
    return Ending.DONE if following is None else Ending.GOES_ON


def _record(write: Callable[[], None]) -> Ending:
    """Write the cause down; without a database the supervisor gives the job back, and it shows again."""
    try:
        write()
    except LeaseLost:
        return Ending.LEASE_LOST
    except DBAPIError as error:
        if not is_connection_lost(error):
            raise
        return Ending.LOST_DATABASE
    return Ending.GAVE_UP
