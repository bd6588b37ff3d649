"""Which workers are alive: each says so every few seconds, and whoever falls silent does not count."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select

from app.db.jobs import now
from app.db.session import Sessions, reading, writing
from app.db.tables import Job, Worker
from app.dispatch import dispatch
from app.domain.scheduling import DAY_SECONDS
from app.domain.terms import JobId


@dataclass(frozen=True)
class WorkerFacts:
    """A worker: ``device_class`` names its queue (``cpu``, ``cuda``), the digest what jobs it fits."""

    owner: str
    device_class: str
    environment_digest: str


def report_alive(sessions: Sessions, worker: WorkerFacts) -> None:
    """Say that a worker is alive; rows of those that have been silent for a day go."""
    with writing(sessions) as session:
        at = now(session)
        session.merge(
            Worker(
                owner=worker.owner,
                device_class=worker.device_class,
                environment_digest=worker.environment_digest,
                seen_at=at,
            )
        )
        session.execute(delete(Worker).where(Worker.seen_at < at - DAY_SECONDS))


def report_gone(sessions: Sessions, owner: str) -> None:
    """Say that a worker has stopped."""
    with writing(sessions) as session:
        session.execute(delete(Worker).where(Worker.owner == owner))


def announce(sessions: Sessions, jobs: Sequence[JobId]) -> None:
    """Announce committed jobs, each to the class of those workers whose environment it needs.

    A job that fits any environment, or one that no worker of the last day has, is announced to all.
    """
    if not jobs:
        return
    with reading(sessions) as session:
        query = (
            select(Job.id, func.min(Worker.device_class).label("device_class"))
            .join(Worker, Worker.environment_digest == Job.environment_digest)
            .where(Job.id.in_(jobs))
            .group_by(Job.id)
        )
        classes = {row.id: row.device_class for row in session.execute(query)}
    for job_id in jobs:
        dispatch(job_id, device_class=classes.get(job_id))
