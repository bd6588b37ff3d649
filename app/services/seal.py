"""Seal received requests: number the tombstones, queue the jobs.

A sealed request cannot be cancelled. Numbers are given under the model row's lock, several models in id
order, never by a database sequence: whoever sees number n sees all below.
"""

from itertools import takewhile

import structlog
from sqlalchemy.orm import Session

from app.db.ids import new_id
from app.db.jobs import now
from app.db.models import all_models, lock_models
from app.db.requests import events_of, lock_request, requests_to_seal, targets_of
from app.db.session import Sessions, asking, writing
from app.db.tables import Model, Request, Target
from app.domain.status import Outcome, RequestKind, RequestStatus, TargetStatus
from app.domain.terms import DatasetId, JobId, JsonObject
from app.services.contents import Contents
from app.services.events import append_event
from app.services.move_target import move_target
from app.services.numbering import NeedsContents, number_records
from app.services.queue_job import queue_deletion_jobs
from app.services.rewriting import rewrite_records
from app.services.workers import announce

_log = structlog.get_logger()


def seal_due(sessions: Sessions, *, contents: Contents | None = None) -> list[JobId]:
    """Seal every request whose grace has ended and announce the jobs that were queued.

    Without ``contents`` class deletions and rectifications are left to a process that has them.
    """
    with asking(sessions) as connection:
        due = requests_to_seal(connection)
    jobs: list[JobId] = []
    for request_id in due:
        try:
            jobs += seal(sessions, request_id, contents=contents)
        except NeedsContents:
            continue
        except (OSError, ValueError) as error:
            # A data file that cannot be used keeps its own requests waiting, and no others.
            if _note_waiting(sessions, request_id, problem=str(error)):
                _log.error("request_not_sealed", request=request_id, error=str(error))
    announce(sessions, jobs)
    return jobs


def seal(sessions: Sessions, request_id: str, *, contents: Contents | None = None) -> list[JobId]:
    """Seal one request and return the jobs queued for it; sealing twice does nothing.

    Raises:
        NeedsContents: its kind needs the bytes of records, and there are none here.
        ValueError, OSError: a data file cannot be used; nothing is stored.
    """
    with writing(sessions) as session:
        request = lock_request(session, request_id)
        if request.status != RequestStatus.RECEIVED:
            return []
        if request.kind == RequestKind.RECTIFICATION:
            if contents is None:
                raise NeedsContents
            rewrite_records(session, request, contents=contents)
        for model in _unknown_models(session, request):
            _add_late_target(session, request, model=model)
        targets = targets_of(session, request_id)
        lock_models(session, [model.id for _, model in targets])
        request.status = RequestStatus.SCHEDULED
        request.sealed_at = now(session)
        append_event(session, request.id, "scheduled")
        jobs = [
            seal_target(session, request, target=target, model=model, contents=contents)
            for target, model in targets
        ]
    if contents is not None:
        _note_committed(request, contents=contents)
    return [job_id for queued in jobs for job_id in queued]


def _note_committed(request: Request, *, contents: Contents) -> None:
    """Note beside the data files that the rows of a rectification are records from now on."""
    for dataset_id, (_, after) in ((request.asked or {}).get("rows") or {}).items():
        try:
            contents.note_committed(DatasetId(dataset_id), num_rows=after + 1)
        except (OSError, ValueError) as error:
            # It is sealed all the same: a mark that is too low says nothing wrong.
            _log.error("rows_not_noted", dataset=dataset_id, error=str(error))


def _note_waiting(sessions: Sessions, request_id: str, *, problem: str) -> bool:
    """Say in a request's trail why it waits; whether that had not been said since anything else happened.

    Workers may meet different problems in turn: each is said once.
    """
    with writing(sessions) as session:
        request = lock_request(session, request_id)
        body: JsonObject = {"problem": problem}
        said = takewhile(lambda event: event.name == "waiting", reversed(events_of(session, request_id)))
        if request.status != RequestStatus.RECEIVED or body in [event.body for event in said]:
            return False
        append_event(session, request_id, "waiting", body)
        return True


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


def seal_target(
    session: Session, request: Request, *, target: Target, model: Model, contents: Contents | None = None
) -> list[JobId]:
    """Number what the request means in one model and queue its jobs. The caller holds both locks."""
    held = number_records(session, request, model=model, contents=contents)
    target.num_records = held.num_records
    if held.through is None:
        target.outcome, target.done_at = Outcome.NO_DATA, now(session)
        move_target(session, target, TargetStatus.COMPLETED, outcome=target.outcome)
        return []
    target.through = held.through
    return queue_deletion_jobs(session, model)
