"""Which workers are alive: each says so every few seconds, and whoever falls silent does not count."""

from dataclasses import dataclass

from sqlalchemy import delete

from app.db.jobs import now
from app.db.session import Sessions, writing
from app.db.tables import Worker
from app.domain.scheduling import DAY_SECONDS


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
