"""Seal received requests: resolve the records, number the tombstones, queue the jobs.

A sealed request cannot be cancelled. Numbers are given under the model row's lock, several models in id
order, never by a database sequence: whoever sees number n sees all below.
"""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.db.ids import new_id
from app.db.jobs import now
from app.db.models import all_models, lock_models
from app.db.records import placements_of, rows_of_subject, tombstone_numbers
from app.db.requests import lock_request, requests_to_seal, targets_of
from app.db.session import Sessions, reading, writing
from app.db.tables import Model, Request, Target, Tombstone
from app.domain.status import Outcome, RequestStatus, TargetStatus
from app.domain.terms import JobId
from app.services.events import append_event
from app.services.move_target import move_target
from app.services.queue_job import queue_deletion_jobs
from app.services.workers import announce


@dataclass(frozen=True)
class _Held:
    """What a model holds of the subject: rows in order, and the highest tombstone number among them."""

    rows: list[int]
    through: int | None


def seal_due(sessions: Sessions) -> list[JobId]:
    """Seal every request whose grace has ended and announce the jobs that were queued."""
    with reading(sessions) as session:
        due = requests_to_seal(session, now=now(session))
    jobs = [job_id for request_id in due for job_id in seal(sessions, request_id)]
    announce(sessions, jobs)
    return jobs


def seal(sessions: Sessions, request_id: str) -> list[JobId]:
    """Seal one request and return the jobs queued for it; sealing twice does nothing."""
    with writing(sessions) as session:
        request = lock_request(session, request_id)
        if request.status != RequestStatus.RECEIVED:
            return []
        for model in _unknown_models(session, request):
            _add_late_target(session, request, model=model)
        targets = targets_of(session, request_id)
        lock_models(session, [model.id for _, model in targets])
        request.status = RequestStatus.SCHEDULED
        request.sealed_at = now(session)
        append_event(session, request.id, "scheduled")
        jobs = [seal_target(session, request, target=target, model=model) for target, model in targets]
        return [job_id for queued in jobs for job_id in queued]


def seal_late_targets(session: Session, request: Request) -> bool:
    """Give a sealed request a target in every model created since, and seal those; whether there were any.

    On PostgreSQL a model and a request that are committed at the same moment do not see each other. So three
    look, all under the request's lock: sealing, the model's own creation, and closing, which comes last.
    """
    models = lock_models(session, [model.id for model in _unknown_models(session, request)])
    for model in models:
        target = _add_late_target(session, request, model=model)
        # No worker is told: an idle one looks by itself.
        seal_target(session, request, target=target, model=model)
    return bool(models)


def _unknown_models(session: Session, request: Request) -> list[Model]:
    """Return the models in a request's scope in which it has no target."""
    if request.is_narrowed_by_models:
        return []
    known = {model.id for _, model in targets_of(session, request.id)}
    return [model for model in all_models(session, tenant=request.tenant) if model.id not in known]


def _add_late_target(session: Session, request: Request, *, model: Model) -> Target:
    """Give a request a target in a model that was created after it was posted; products never see it."""
    target = Target(
        id=new_id("tgt"),
        request_id=request.id,
        model_id=model.id,
        posted_at=request.posted_at,
        status=TargetStatus.SCHEDULED,
        is_late=True,
    )
    session.add(target)
    session.flush()
    return target


def seal_target(session: Session, request: Request, *, target: Target, model: Model) -> list[JobId]:
    """Number the subject's records in one model and queue its jobs. The caller holds both locks."""
    held = _number_records(session, request, model=model)
    target.num_records = len(held.rows)
    if held.through is None:
        target.outcome, target.done_at = Outcome.NO_DATA, now(session)
        move_target(session, target, TargetStatus.COMPLETED, outcome=target.outcome)
        return []
    target.through = held.through
    return queue_deletion_jobs(session, model)


def _number_records(session: Session, request: Request, *, model: Model) -> _Held:
    refs = [bytes.fromhex(ref) for ref in request.subject_refs or []]
    narrowed = _narrowed(request, model.dataset_id)
    rows = rows_of_subject(session, model.dataset_id, subject_refs=refs, record_refs=narrowed)
    numbers = tombstone_numbers(session, model.id, rows)
    places = placements_of(session, model, rows)
    for row in rows:
        if row in numbers:
            continue
        model.num_sealed += 1
        numbers[row] = model.num_sealed
        shard, block = places.get(row, (None, None))
        session.add(
            Tombstone(
                model_id=model.id,
                number=model.num_sealed,
                request_id=request.id,
                row=row,
                shard=shard,
                position=block,
            )
        )
    return _Held(rows=rows, through=max(numbers.values(), default=None))


def _narrowed(request: Request, dataset_id: str) -> list[bytes] | None:
    if request.record_refs is None:
        return None
    return [bytes.fromhex(ref) for ref in request.record_refs.get(dataset_id, [])]
