"""Queries about requests, targets, events, receipts and suppressions."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    String,
    and_,
    bindparam,
    delete,
    func,
    or_,
    select,
)
from sqlalchemy.orm import Session

from app.db.session import epoch_now
from app.db.tables import Event, Model, Receipt, Request, Suppression, Target, Tombstone
from app.domain.errors import NotFound
from app.domain.status import ENDED_TARGETS, RequestKind, RequestStatus, TargetStatus

SEALED = (RequestStatus.SCHEDULED, RequestStatus.RUNNING, RequestStatus.FAILED)
OPEN = (RequestStatus.RECEIVED, RequestStatus.HELD, *SEALED)
# Every worker asks this several times a second: it is put together once.
_TO_SEAL = (
    select(Request.id)
    .where(Request.status == RequestStatus.RECEIVED, Request.seal_at <= epoch_now())
    .order_by(Request.posted_at, Request.id)
    .limit(100)
)


def request_by_id(session: Session, request_id: str, *, tenant: str) -> Request:
    """Return a request of a tenant.

    Raises:
        NotFound: the tenant has no such request.
    """
    request = session.get(Request, request_id)
    if request is None or request.tenant != tenant:
        raise NotFound("no such deletion request")
    return request


def request_and_time(session: Session, request_id: str, *, tenant: str) -> tuple[Request, float]:
    """Return a request of a tenant and the time, in one statement.

    Raises:
        NotFound: the tenant has no such request.
    """
    query = select(Request, epoch_now()).where(Request.id == request_id, Request.tenant == tenant)
    row = session.execute(query).one_or_none()
    if row is None:
        raise NotFound("no such deletion request")
    return row[0], row[1]


def lock_request(session: Session, request_id: str) -> Request:
    """Lock a request row and return it fresh."""
    query = select(Request).where(Request.id == request_id).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).one()


def labels_asked(session: Session, model_id: str) -> set[int]:
    """Return the labels of the classes that a model was asked to forget; not where that was withdrawn."""
    query = select(Request.asked).join(Target, Target.request_id == Request.id)
    stands = Request.status.not_in([RequestStatus.CANCELLED, RequestStatus.REJECTED])
    found = session.scalars(
        query.where(Target.model_id == model_id, Request.kind == RequestKind.CLASS_DELETION, stands)
    )
    return {int(asked["label"]) for asked in found if asked is not None}


def labels_deleted(session: Session, model_id: str, *, above: int = 0, covers: int | None = None) -> set[int]:
    """Return the labels of the classes that a model was asked to forget, sealed or completed.

    With ``covers`` only those that a version covering so much has forgotten, and of these only those that
    one covering ``above`` had not.
    """
    query = select(Request.asked).join(Target, Target.request_id == Request.id)
    is_sealed = Request.status.in_([*SEALED, RequestStatus.COMPLETED])
    query = query.where(Target.model_id == model_id, Request.kind == RequestKind.CLASS_DELETION, is_sealed)
    found = session.scalars(
        query if covers is None else query.where(Target.through > above, Target.through <= covers)
    )
    return {int(asked["label"]) for asked in found if asked is not None}


def is_being_deleted(session: Session, model_ids: Sequence[str], *, row: int) -> bool:
    """Whether a deletion that is not closed yet gave a row of these models' dataset a tombstone."""
    query = select(Tombstone.number).join(Request, Request.id == Tombstone.request_id)
    is_open = Request.kind == RequestKind.DELETION, Request.status.in_(SEALED)
    found = query.where(Tombstone.model_id.in_(model_ids), Tombstone.row == row, *is_open)
    return session.scalar(found.limit(1)) is not None


def targets_of(session: Session, request_id: str) -> Sequence[tuple[Target, Model]]:
    """Return the targets of a request with their models, by model id."""
    query = select(Target, Model).join(Model, Model.id == Target.model_id)
    rows = session.execute(query.where(Target.request_id == request_id).order_by(Model.id))
    return [(target, model) for target, model in rows]


def targets_covered(session: Session, model_id: str, *, covers: int) -> Sequence[Target]:
    """Return the unfinished targets of a model that a version covering ``covers`` satisfies."""
    query = select(Target).where(
        Target.model_id == model_id, Target.through <= covers, Target.status.not_in(ENDED_TARGETS)
    )
    # In the order of requests: jobs of several models lock the same ones, and must not wait for each other.
    return session.scalars(query.order_by(Target.request_id)).all()


def finished_through(session: Session, model_id: str) -> int:
    """Return the tombstone number up to which a model has finished: published, and purged what saw them.

    Where a policy accepts an empirical method it may exceed what the current version has settled.
    """
    query = select(func.max(Target.through)).where(Target.model_id == model_id, Target.purged_at.is_not(None))
    return session.scalar(query) or 0


def num_waiting_targets(session: Session, model_id: str, *, above: int) -> int:
    """Return how many sealed targets of a model wait to be settled, with an interim version or without.

    Those up to the tombstone number ``above`` do not count: a settle job has taken them up.
    """
    query = select(func.count()).where(
        Target.model_id == model_id,
        Target.status.not_in(ENDED_TARGETS),
        Target.through > above,
        Target.purged_at.is_(None),
    )
    return session.scalar(query.select_from(Target)) or 0


def first_due_at(session: Session, model_id: str) -> float | None:
    """Return the earliest due date among the sealed requests that a model has not settled."""
    query = select(func.min(Request.due_at)).join(Target, Target.request_id == Request.id)
    return session.scalar(
        query.where(
            Target.model_id == model_id, Target.through.is_not(None), Target.status.not_in(ENDED_TARGETS)
        )
    )


def failed_targets(session: Session, model_id: str) -> Sequence[Target]:
    """Return the targets of a model that failed."""
    query = select(Target).where(Target.model_id == model_id, Target.status == TargetStatus.FAILED)
    return session.scalars(query.order_by(Target.request_id)).all()


def requests_to_seal(connection: Connection) -> Sequence[str]:
    """Return the ids of received requests whose grace has ended, oldest first, a hundred at most."""
    return connection.scalars(_TO_SEAL).all()


def requests_to_close(session: Session, *, limit: int = 100) -> Sequence[str]:
    """Return the ids of sealed requests none of whose targets waits for a publication or its purge."""
    waiting = select(Target.id).where(
        Target.request_id == Request.id,
        Target.status.not_in([TargetStatus.COMPLETED, TargetStatus.CANCELLED]),
        or_(Target.status != TargetStatus.PURGING, Target.purged_at.is_(None)),
    )
    query = select(Request.id).where(
        Request.status.in_(SEALED),
        ~waiting.exists(),
    )
    return session.scalars(query.order_by(Request.posted_at, Request.id).limit(limit)).all()


def open_requests(session: Session, *, tenant: str) -> Sequence[str]:
    """Return the ids of the requests that a model created now must forget too, oldest first."""
    query = select(Request.id).where(
        Request.tenant == tenant, Request.status.in_(OPEN), Request.is_narrowed_by_models.is_(False)
    )
    return session.scalars(query.order_by(Request.posted_at, Request.id)).all()


def events_of(session: Session, request_id: str) -> Sequence[Event]:
    """Return the audit trail of a request in order."""
    query = select(Event).where(Event.request_id == request_id).order_by(Event.sequence)
    return session.scalars(query).all()


def newest_event(session: Session, request_id: str) -> tuple[int, str, float]:
    """Return sequence number and hash of the newest event of a request, and the time now."""
    query = select(Event.sequence, Event.hash, epoch_now()).where(Event.request_id == request_id)
    sequence, head, at = session.execute(query.order_by(Event.sequence.desc()).limit(1)).one()
    return sequence, head, at


def receipt_of(session: Session, request_id: str) -> Receipt | None:
    """Return the receipts of a request, once it is completed."""
    return session.get(Receipt, request_id)


def targets_of_requests(session: Session, request_ids: Sequence[str]) -> dict[str, list[tuple[Target, str]]]:
    """Return the targets of many requests, each with the name of its model."""
    query = select(Target, Model.name).join(Model, Model.id == Target.model_id)
    found: dict[str, list[tuple[Target, str]]] = {}
    for target, model_name in session.execute(query.where(Target.request_id.in_(request_ids))):
        found.setdefault(target.request_id, []).append((target, model_name))
    return found


@dataclass(frozen=True)
class Standing:
    """What a product is shown of a request: columns of its row, and the models in its scope."""

    id: str
    kind: str
    status: str
    posted_at: float
    due_at: float
    completed_at: float | None
    reveal_at: float
    reason_code: str | None
    request_uuid: str | None
    duplicate_of: str | None
    model_names: tuple[str, ...]


def standing_and_time(connection: Connection, request_id: str, *, tenant: str) -> tuple[Standing, float]:
    """Return where a request of a tenant stands, and the time, in one statement whoever the subject is.

    Raises:
        NotFound: the tenant has no such request.
    """
    rows = connection.execute(_STANDING, {"request_id": request_id, "tenant": tenant}).all()
    if not rows:
        raise NotFound("no such deletion request")
    *columns, _, at = rows[0]
    columns.append(tuple(row[-2] for row in rows if row[-2] is not None))
    return Standing(*columns), at


def _standing() -> Select[Any]:
    """Return the statement, built once, past the bookkeeping of the session: products poll a lot."""
    requests, targets, models = Request.__table__.c, Target.__table__, Model.__table__
    is_target = and_(targets.c.request_id == requests.id, targets.c.is_late.is_(False))
    columns = [requests[field.name] for field in fields(Standing) if field.name != "model_names"]
    return (
        select(*columns, models.c.name, epoch_now())
        .select_from(Request.__table__)
        .outerjoin(targets, is_target)
        .outerjoin(models, models.c.id == targets.c.model_id)
        .where(
            requests.id == bindparam("request_id", type_=String),
            requests.tenant == bindparam("tenant", type_=String),
        )
    )


_STANDING = _standing()


def live_suppressions(session: Session, *, tenant: str, now: float) -> tuple[set[bytes], set[bytes]]:
    """Return the suppressed subject refs and record refs of a tenant."""
    query = select(Suppression.subject_ref, Suppression.record_ref).where(
        Suppression.tenant == tenant, or_(Suppression.expires_at.is_(None), Suppression.expires_at > now)
    )
    pairs = session.execute(query).all()
    return {s for s, _ in pairs if s is not None}, {r for _, r in pairs if r is not None}


def delete_suppressions(session: Session, subject_refs: Sequence[bytes], *, tenant: str) -> int:
    """Delete the suppressions of a subject (all its refs) and return how many there were."""
    gone = delete(Suppression).where(Suppression.tenant == tenant, Suppression.subject_ref.in_(subject_refs))
    return len(session.execute(gone.returning(Suppression.id)).all())
