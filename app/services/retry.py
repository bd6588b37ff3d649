"""Try again what failed, by an admin's word."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import lock_model
from app.db.requests import failed_targets
from app.db.session import Sessions, writing
from app.db.tables import Job, Model
from app.domain.status import JobKind, JobStatus, TargetStatus
from app.domain.terms import JobId, ModelId
from app.services.move_target import move_target
from app.services.queue_job import queue_job
from app.services.workers import announce


def retry_failed(sessions: Sessions, model_id: ModelId) -> Sequence[JobId]:
    """Queue a new job for each kind whose newest job failed, and take the failed targets up again.

    A new job, not the old one: more may have been sealed since, and a job publishes one version at most.
    What the old one had run is found by its checkpoints' keys.
    """
    with writing(sessions) as session:
        model = lock_model(session, model_id)
        queued = [queue_job(session, model, kind=kind) for kind in _failed_kinds(session, model)]
        _revive_targets(session, model)
    jobs = [job_id for job_id in queued if job_id is not None]
    announce(sessions, jobs)
    return jobs


def _failed_kinds(session: Session, model: Model) -> list[JobKind]:
    query = select(Job.kind, Job.status).where(Job.model_id == model.id).order_by(Job.created_at, Job.id)
    newest: dict[str, str] = {}
    for kind, status in session.execute(query):
        newest[kind] = status
    return [JobKind(kind) for kind, status in newest.items() if status == JobStatus.FAILED]


def _revive_targets(session: Session, model: Model) -> None:
    for target in failed_targets(session, model.id):
        move_target(session, target, TargetStatus.SCHEDULED)
        target.reason, target.is_retryable = None, None
