"""Bring jobs forward that must start to be in time, and say which will be late all the same.

A settle job waits for its batch window, but never past its latest safe start. Jobs that need one environment
share the live workers that have it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.db.jobs import live_workers, now, queued_settle_jobs, settle_run_seconds
from app.db.requests import first_due_at
from app.db.session import Sessions, reading, writing
from app.db.tables import Job, Model
from app.domain.scheduling import (
    WaitingJob,
    latest_safe_starts,
    predicted_lateness,
    predicted_settle_seconds,
    safe_seconds,
)
from app.domain.status import JobStatus
from app.domain.terms import JobId


@dataclass(frozen=True)
class Schedule:
    """What one look found: jobs brought forward, and by how many seconds others will miss their due date."""

    brought_forward: list[JobId]
    late_seconds: dict[str, float]


def schedule(sessions: Sessions) -> Schedule:
    """Bring forward the settle jobs whose latest safe start comes before the end of their batch window."""
    with reading(sessions) as session:
        at = now(session)
        starts, late = _look(session, at=at)
    for job_id, start_at in starts.items():
        with writing(sessions) as session:
            earlier = update(Job).where(
                Job.id == job_id, Job.status == JobStatus.QUEUED, Job.start_at > start_at
            )
            session.execute(earlier.values(start_at=start_at))
    return Schedule(brought_forward=[JobId(job_id) for job_id in starts], late_seconds=late)


def _look(session: Session, *, at: float) -> tuple[dict[str, float], dict[str, float]]:
    """Return the new starts of those that come forward, and who will be late by how much."""
    waiting = queued_settle_jobs(session)
    wished = {job.id: job.start_at or 0.0 for job, _ in waiting}
    starts: dict[str, float] = {}
    late: dict[str, float] = {}
    for environment in {job.environment_digest for job, _ in waiting}:
        group = _planned(session, [pair for pair in waiting if pair[0].environment_digest == environment])
        num_workers = len(live_workers(session, at=at, environment_digest=environment))
        starts |= latest_safe_starts(group, num_workers=num_workers)
        late |= predicted_lateness(group, now=at, num_workers=num_workers)
    return {job_id: start for job_id, start in starts.items() if start < wished[job_id]}, late


def _planned(session: Session, waiting: Iterable[tuple[Job, Model]]) -> list[WaitingJob]:
    planned = []
    for job, model in waiting:
        due_at = first_due_at(session, model.id)
        if due_at is not None:
            predicted = predicted_settle_seconds(model.training_seconds)
            seconds = safe_seconds(predicted, settle_run_seconds(session, model.id))
            planned.append(WaitingJob(id=job.id, due_at=due_at, seconds=seconds))
    return planned
