"""Park a settle job whose exact version an interim one has overtaken, and let it go on afterwards.

The exact version is staged: it has forgotten exactly, but the current one has forgotten more people. An
interim job on top of it makes a version that has both numbers; once that is published, the settle job goes on
at ``purge``. If no such version comes, the next settle job takes over. The caller holds the model's lock.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.jobs import now
from app.db.models import version_of_job
from app.db.tables import Job, Model
from app.domain.status import JobKind, JobStatus
from app.services.queue_job import AT_ONCE, policy_of, queue_job, queue_settle

STEP_AFTER = "purge"


def park(session: Session, model: Model, job: Job) -> None:
    """Let a job that has staged its version wait at ``purge`` for an interim version on top of it."""
    if policy_of(model).interim_method is None:
        _end(session, model, job)
        return
    job.step, job.owner, job.lease_until, job.start_at = STEP_AFTER, None, 0.0, None
    job.environment_digest = None
    queue_job(session, model, kind=JobKind.INTERIM)


def unpark(session: Session, model: Model, *, settled: int) -> None:
    """Let the parked job go on whose version the current one, ``settled`` so far, was built on."""
    job = _parked(session, model)
    version = None if job is None else version_of_job(session, job.id)
    if job is not None and version is not None and version.settled <= settled:
        job.start_at = AT_ONCE


def end_parked(session: Session, model: Model) -> None:
    """End a parked job for which no interim version will come; the next settle job does its work."""
    job = _parked(session, model)
    if job is not None:
        _end(session, model, job)


def _parked(session: Session, model: Model) -> Job | None:
    query = select(Job).where(
        Job.model_id == model.id,
        Job.kind == JobKind.SETTLE,
        Job.status == JobStatus.RUNNING,
        Job.start_at.is_(None),
    )
    return session.scalar(query)


def _end(session: Session, model: Model, job: Job) -> None:
    job.status, job.owner, job.lease_until, job.start_at = JobStatus.SUCCEEDED, None, None, AT_ONCE
    job.finished_at = now(session)
    # No interim job: what a gate has refused once, it would refuse again.
    queue_settle(session, model)
