"""Celery's side of a job: the message is a hint, the claim decides, and what else waits comes right after."""

from celery import Celery

from app.dispatch import TASK_NAME
from app.domain.terms import JobId
from worker.supervisor import Supervisor


def register_tasks(app: Celery, supervisor: Supervisor) -> None:
    """Let this worker's supervisor run what messages name."""

    def run_job(job_id: str) -> None:
        # A worker that stopped after one job would leave those whose hints were lost to the next sweep.
        supervisor.run_all(first=JobId(job_id))

    app.task(run_job, name=TASK_NAME)
