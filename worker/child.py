"""The child process: runs the steps of one claimed job and says by its exit code how it ended.

Promises: it dies with its supervisor; whatever goes wrong is recorded at the job before it exits. This is
the one border of the worker with a broad ``except``.
"""

import gc
import os
import threading
from multiprocessing.connection import Connection

import structlog

from app.domain.errors import ExpungeError, LeaseLost
from app.domain.terms import Claim
from app.logs import configure_logging
from app.services.claim import fail, release
from app.settings import Settings
from worker.determinism import choose_device, environment
from worker.installation import Installation, open_installation
from worker.pipeline import run_steps
from worker.processes import Ending, die_by_signal

_log = structlog.get_logger()


def run_child(settings: Settings, claim: Claim, lifeline: Connection) -> None:
    """Run steps until the job ends or a step wants a fresh process; the entry point of the process."""
    die_with_parent(lifeline)
    # Without it structlog prints a trace with its local variables: refs, salts and digests of records.
    configure_logging()
    # What torch brought along stays: walking it at every collection takes as long as reading the records.
    gc.freeze()
    raise SystemExit(_run(open_installation(settings), claim))


def report_environment(answer: Connection) -> None:
    """Send this machine's environment digest to the supervisor, which imports no torch itself."""
    answer.send(environment(choose_device()).digest())
    answer.close()


def die_with_parent(lifeline: Connection) -> None:
    """Die when the supervisor does: by the kernel's signal, and when the pipe to it breaks."""
    die_by_signal()
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()


def _watch(lifeline: Connection) -> None:
    try:
        lifeline.recv()
    except (EOFError, OSError):
        os._exit(Ending.GAVE_UP)


def _run(installation: Installation, claim: Claim) -> Ending:
    try:
        following = run_steps(installation, claim)
    except LeaseLost:
        return Ending.LEASE_LOST
    except (ExpungeError, ValueError) as error:
        # It would go wrong the same way again: the cause is recorded and somebody has to mend it.
        _log.error("job_failed", job=claim.job_id, step=claim.step, error=str(error))
        return _fail(installation, claim, cause=str(error))
    except Exception as error:  # noqa: BLE001 - the border: the cause is recorded, the job tried again
        _log.exception("job_stopped", job=claim.job_id, step=claim.step)
        cause = f"{type(error).__name__}: {error}"
        release(installation.sessions, claim, error=cause)
        return Ending.GAVE_UP
    return Ending.DONE if following is None else Ending.GOES_ON


def _fail(installation: Installation, claim: Claim, *, cause: str) -> Ending:
    try:
        fail(installation.sessions, claim, error=cause, is_retryable=True)
    except LeaseLost:
        return Ending.LEASE_LOST
    return Ending.GAVE_UP
