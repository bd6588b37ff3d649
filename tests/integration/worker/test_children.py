"""Jobs in child processes: what kills one is recorded and stops nobody else; what was stopped goes on."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import forkserver

import psutil
import pytest
from sqlalchemy import select

from app.db.session import reading
from app.db.tables import Job
from app.domain.errors import HandedOver
from app.domain.scheduling import MAX_ATTEMPTS_WITHOUT_PROGRESS
from app.domain.status import JobStatus
from app.domain.terms import DEFAULT_TENANT, JobId, JobView
from app.services.claim import job_view, release
from app.services.create_model import NewModel, create_model
from tests.integration.worker.conftest import NewLab
from tests.support.bad_nets import MEMORY_BYTES, with_factory
from tests.support.service import processes_ended
from tests.support.trained import Lab, recipe_of
from worker.checking import placer
from worker.installation import Installation
from worker.pipeline import run_steps
from worker.supervisor import Supervisor

PATIENCE_SECONDS = 120.0


def add_model(lab: Lab, factory: str, **arguments: object) -> JobId:
    """Order the training of another model, whose factory is a bad one; return the job."""
    recipe = with_factory(recipe_of(), factory, **arguments)
    new = NewModel(
        name=recipe.name,
        dataset=recipe.data.dataset,
        recipe=recipe.to_json(),
        recipe_digest=recipe.digest(),
        policy={},
        training_seconds=1.0,
    )
    place = partial(placer, lab.own.keyring, recipe)
    job_id = create_model(lab.own.sessions, new, tenant=DEFAULT_TENANT, place=place).job_id
    assert job_id is not None
    return job_id


def with_settings(own: Installation, **settings: object) -> Installation:
    return replace(own, settings=own.settings.model_copy(update={"poll_seconds": 0.05, **settings}))


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("abort", "the child process was killed by SIGABRT"),
        ("exit", "the child process ended with code 7"),
        ("segfault", "the child process was killed by SIGSEGV"),
        ("memory", f"out of memory: more than {MEMORY_BYTES} bytes"),
        ("hang", "timed out: an attempt may take 2 seconds"),
    ],
)
def test_a_poison_job_fails_with_its_cause_while_another_model_is_trained(
    new_lab: NewLab, fault: str, cause: str
) -> None:
    lab = new_lab(with_factory(recipe_of(), "Slow", seconds=0.0))
    poison = add_model(lab, "dying", fault=fault)
    limits = {
        "memory": {"child_memory_bytes": MEMORY_BYTES},
        "hang": {"soft_limit_seconds": 2.0, "stop_seconds": 0.2},
    }
    Supervisor(with_settings(lab.own, **limits.get(fault, {}))).work_until_idle()
    failed = job_view(lab.own.sessions, poison)
    assert (failed.status, failed.error) == (JobStatus.FAILED, cause)
    assert failed.num_attempts == MAX_ATTEMPTS_WITHOUT_PROGRESS
    assert only_job(lab, but=poison).status is JobStatus.SUCCEEDED


def test_a_job_that_takes_too_long_goes_on_attempt_by_attempt_and_ends_exactly(new_lab: NewLab) -> None:
    lab = new_lab(with_factory(recipe_of(), "Slow", seconds=0.1))
    Supervisor(with_settings(lab.own, soft_limit_seconds=0.5)).work_until_idle()
    done = only_job(lab)
    assert done.status is JobStatus.SUCCEEDED
    assert done.num_attempts > 1
    assert lab.version.weights_digest == lab.straight_digest()


def test_a_stopped_supervisor_hands_its_job_back_and_the_next_one_goes_on_there(new_lab: NewLab) -> None:
    lab = new_lab(with_factory(recipe_of(), "Slow", seconds=0.1), checkpoints="sqrt")
    with at_work(Supervisor(with_settings(lab.own))):
        wait_until(lambda: only_job(lab).progress.get("position", -1) != -1)
    given_back = only_job(lab)
    assert (given_back.status, given_back.num_attempts) == (JobStatus.RUNNING, 0)
    assert (given_back.step, given_back.error) == ("unlearn", None)
    furthest = lab.checkpoints[-1].position
    assert furthest >= 0

    Supervisor(with_settings(lab.own)).work_until_idle()
    done = only_job(lab)
    assert (done.status, done.num_attempts) == (JobStatus.SUCCEEDED, 1)
    assert done.outputs["unlearn"]["resumed_after"] == [furthest]
    assert lab.version.weights_digest == lab.straight_digest()


def test_a_job_that_is_stopped_after_every_block_keeps_each_one_and_ends_exactly(new_lab: NewLab) -> None:
    lab = new_lab(checkpoints="sqrt")
    num_handed_over = 0
    while (claim := lab.claim()) is not None:
        try:
            while (going := run_steps(lab.own, claim, should_stop=lambda: True)) is not None:
                claim = going
        except HandedOver:
            num_handed_over += 1
            release(lab.own.sessions, claim, error=None, counts=False)
    done = only_job(lab)
    # Six blocks, and the ends of prepare, unlearn and verify.
    assert (done.status, num_handed_over) == (JobStatus.SUCCEEDED, 9)
    assert lab.version.weights_digest == lab.straight_digest()
    assert not [row for row in lab.checkpoints if row.role == "rolling"]


def test_a_child_dies_with_its_forkserver_and_the_next_attempt_starts_another(new_lab: NewLab) -> None:
    lab = new_lab(with_factory(recipe_of(), "Slow", seconds=0.1))
    supervisor = Supervisor(with_settings(lab.own))
    with at_work(supervisor):
        wait_until(lambda: only_job(lab).progress.get("position", -1) != -1)
        family = psutil.Process(forkserver._forkserver._forkserver_pid)  # type: ignore[attr-defined]
        children = family.children(recursive=True)
        os.kill(family.pid, signal.SIGKILL)
        wait_until(lambda: processes_ended(children))
        wait_until(lambda: only_job(lab).status is JobStatus.SUCCEEDED)
    assert children
    assert lab.version.weights_digest == lab.straight_digest()


@contextmanager
def at_work(supervisor: Supervisor) -> Iterator[None]:
    """Let a supervisor poll beside the test, and stop it at the end of the block."""
    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(supervisor.work)
        try:
            yield
        finally:
            supervisor.stop()
        working.result()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def only_job(lab: Lab, *, but: JobId | None = None, kind: str = "train") -> JobView:
    with reading(lab.own.sessions) as session:
        (job_id,) = session.scalars(select(Job.id).where(Job.id != (but or ""), Job.kind == kind))
    return job_view(lab.own.sessions, JobId(job_id))
