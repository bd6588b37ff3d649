"""Kill -9 exactly where it hurts: while a job stands in a given step.

A step may last a few milliseconds. So the process that runs the job is stopped and let go again in slices of
a millisecond until the database shows the step; production code knows nothing of it.
"""

import json
import os
import signal
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass

import psutil

from tests.support.service import PATIENCE_SECONDS, Home, Process, processes_ended, send

STEPS = ("prepare", "unlearn", "verify", "publish", "purge", "attest")
SLICE_SECONDS = 0.001


class Missed(Exception):
    """The job has gone through the step before it could be stopped in it."""


@dataclass(frozen=True)
class Caught:
    """The worker that holds a job, and the process that runs it, which stands still."""

    worker: int
    child: int

    def kill_child(self) -> None:
        """Kill the process that runs the job; its worker lives."""
        send(self.child, signal.SIGKILL)

    def kill_worker(self) -> None:
        """Kill the worker and let the child go on: it has to notice by itself."""
        send(self.worker, signal.SIGKILL)
        self.let_go()

    def let_go(self) -> None:
        """Let the job go on."""
        send(self.child, signal.SIGCONT)


def kill_all(home: Home, process: Process, *, caught: Caught | None = None) -> None:
    """Kill -9 one process and see that nothing that it started outlives it.

    With ``caught`` its child dies where it stands still, without another instruction.
    """
    family = process.family()
    process.kill()
    if caught is not None:
        caught.kill_child()
    home.wait_for(f"the end of all that {process.name} had started", lambda: processes_ended(family))


def waiting_job(home: Home, kind: str) -> str:
    """Return the job of a kind that is queued or running; wait until there is one."""
    query = "SELECT id FROM jobs WHERE kind = ? AND status IN ('queued', 'running')"
    found = home.wait_for(f"a {kind} job", lambda: home.rows(query, kind))
    return str(found[0]["id"])


def caught_in(home: Home, job_id: str, step: str) -> Caught:
    """Stop the process that runs a job while the job stands in ``step``.

    Raises:
        Missed: the job has left the step.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    caught: Caught | None = None
    with home.database() as database:
        while time.monotonic() < deadline:
            job = database.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if job["status"] == "succeeded" or STEPS.index(job["step"]) > STEPS.index(step):
                raise Missed(f"{job_id} is at {job['step']} ({job['status']}), past {step}")
            assert job["status"] != "failed", home.told()
            if job["owner"] is None or _has_time(job, step):
                time.sleep(SLICE_SECONDS)
                continue
            caught = _holder(job, caught)
            if caught is None:
                continue
            _stop(caught.child)
            after = database.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if after["step"] == step and after["owner"] == job["owner"] and _runs(caught.child):
                return caught
            caught.let_go()
            time.sleep(SLICE_SECONDS)
    raise AssertionError(f"{job_id} never came to {step}\n{home.told()}")


def _has_time(job: sqlite3.Row, step: str) -> bool:
    """Whether the step is not near enough to go on in slices; unlearn and verify are long by themselves."""
    if job["step"] == step == "unlearn":
        return int(json.loads(job["progress"]).get("position", -1)) < 1
    distance = STEPS.index(step) - STEPS.index(job["step"])
    return distance > 1 or (distance == 1 and step in ("unlearn", "verify"))


def _holder(job: sqlite3.Row, known: Caught | None) -> Caught | None:
    """Return the worker of a job and the child of its forkserver; the search is slow, so not repeated."""
    worker = int(str(job["owner"]).rpartition(":")[2])
    if known is not None and known.worker == worker and _runs(known.child):
        return known
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(worker).children(recursive=True):
            if process.ppid() != worker and _runs(process.pid):
                return Caught(worker=worker, child=process.pid)
    return None


def _runs(pid: int) -> bool:
    return _status(pid) not in (None, psutil.STATUS_ZOMBIE)


def _stop(pid: int) -> None:
    """Stop a process and wait until it stands still, or has ended."""
    send(pid, signal.SIGSTOP)
    while _status(pid) not in (None, psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
        os.sched_yield()


def _status(pid: int) -> str | None:
    with suppress(psutil.NoSuchProcess):
        return str(psutil.Process(pid).status())
    return None
