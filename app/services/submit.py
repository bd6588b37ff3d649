"""Submit a deletion: one transaction, and the same statements whoever the subject is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.ids import new_id
from app.db.models import names_of_datasets
from app.db.posting import ModelInScope, Surroundings, look_before_submitting
from app.db.requests import request_by_id
from app.db.session import Sessions, reading, writing_once
from app.db.tables import Event, IdempotencyKey, Request, Suppression, Table, Target
from app.db.together import Values, store_together
from app.domain.errors import DoesNotFit, DueDatePassed, IdempotencyKeyReused, Misfit, UnknownModels
from app.domain.scheduling import DAY_SECONDS, SUPPRESSION_YEARS, due_at, predicted_settle_seconds
from app.domain.status import RequestKind, RequestStatus, TargetStatus
from app.domain.terms import DatasetId, JsonObject, Submission, TenantName
from app.domain.visibility import Clocked, seconds_to_wait
from app.keyring import Keyring
from app.services.events import began_held, first_event
from models_store.manifest import canonical_json

SUPPRESSION_SECONDS = SUPPRESSION_YEARS * 365 * DAY_SECONDS


@dataclass(frozen=True)
class Idempotency:
    """The Idempotency-Key of a POST and its parsed body, both as keyed hashes."""

    key_mac: bytes
    body_mac: bytes


@dataclass(frozen=True)
class Acknowledgement:
    """The answer to a POST, from what never changes: a repeat gets the same. ``status`` is how it began.

    ``nonce`` opens the commitment in the receipt; it is None once it was destroyed.
    """

    id: str
    status: RequestStatus
    posted_at: float
    due_at: float
    subject_type: str
    reason_code: str | None
    request_id: str | None
    duplicate_of: str | None
    commitment: bytes
    nonce: bytes | None
    retry_after: int


@dataclass(frozen=True)
class Try:
    """One try to submit: the id that its request gets, and whether an earlier try may have stored it."""

    request_id: str
    is_repeat: bool = False


def submit(
    sessions: Sessions,
    submission: Submission,
    *,
    tenant: TenantName,
    keyring: Keyring,
    grace_seconds: float = 0.0,
    idempotency: Idempotency | None = None,
    own: Try | None = None,
) -> str:
    """Store a deletion request and return its id, as ``acknowledge`` does."""
    return acknowledge(
        sessions, submission, tenant=tenant, keyring=keyring, grace_seconds=grace_seconds,
        idempotency=idempotency, own=own,
    ).id  # fmt: skip


def acknowledge(
    sessions: Sessions,
    submission: Submission,
    *,
    tenant: TenantName,
    keyring: Keyring,
    grace_seconds: float = 0.0,
    idempotency: Idempotency | None = None,
    own: Try | None = None,
    misfits: Sequence[Misfit] = (),
) -> Acknowledgement:
    """Store a deletion request and return what its POST is answered; a repeat gets the first answer.

    In scope of a model whose policy holds deletions it waits for an admin, whoever the subject is. A repeat
    may have ``misfits``: it is only a new request that they refuse.

    The connection may be lost while the commit is on its way: whoever tries again passes the same ``own``
    id, under which the second try finds what the first one stored.

    Raises:
        DoesNotFit: there are misfits.
        UnknownModels: the request is narrowed to a model that the tenant does not have.
        IdempotencyKeyReused: the key, or the client's own request id, was used with another body.
        DueDatePassed: the wished due date lies in the past (a repeat may come after it).
    """
    own = own or Try(new_id("del"))
    order = _Order(
        request_id=own.request_id,
        submission=submission,
        tenant=tenant,
        grace_seconds=grace_seconds,
        idempotency=idempotency,
        match_mac=keyring.mac("duplicates", canonical_json(_identity(submission))),
        uuid_macs=_uuid_macs(submission, keyring=keyring),
        misfits=misfits,
    )
    for is_last in (False, True):
        try:
            with writing_once(sessions) as session:
                return _stored(session, order, may_be_there=own.is_repeat or is_last)
        except IntegrityError:
            # A repeat was in flight and has committed its row meanwhile: the second look finds it.
            if is_last:
                raise
    raise AssertionError("the last try returns or raises")


@dataclass(frozen=True)
class _Order:
    """What one POST asks for, with all that is derived from it before the database is met."""

    request_id: str
    submission: Submission
    tenant: TenantName
    grace_seconds: float
    idempotency: Idempotency | None
    match_mac: bytes
    uuid_macs: Sequence[bytes]
    misfits: Sequence[Misfit]


def _stored(session: Session, order: _Order, *, may_be_there: bool) -> Acknowledgement:
    """Return the answer to an order: for what an earlier try or posting stored, else for a new request."""
    own = session.get(Request, order.request_id) if may_be_there else None
    if own is not None:
        return _first_acknowledgement(session, own)
    found = look_before_submitting(
        session,
        tenant=order.tenant,
        match_mac=order.match_mac,
        key_mac=None if order.idempotency is None else order.idempotency.key_mac,
        request_uuid=order.submission.request_uuid,
    )
    first = _first_posting(found, order)
    if first is not None:
        if found.keyed is None:
            store_together(session, {IdempotencyKey: _first_answer(first, order, at=found.at)})
        return _first_acknowledgement(session, request_by_id(session, first, tenant=order.tenant))
    return _acknowledgement(_new_request(session, order, found=found))


def _first_posting(found: Surroundings, order: _Order) -> str | None:
    """Return the id of the request that this order is a repeat of.

    A client that uses one id for two people must hear of it: the second would never be forgotten.
    """
    if found.keyed is not None and order.idempotency is not None:
        if found.keyed.mac != order.idempotency.body_mac:
            raise IdempotencyKeyReused("this Idempotency-Key came with another body before")
        return found.keyed.request_id
    if found.named is not None:
        if found.named.mac not in order.uuid_macs:
            raise IdempotencyKeyReused("this request_id came with another body before")
        return found.named.request_id
    return None


def _new_request(session: Session, order: _Order, *, found: Surroundings) -> Request:
    """Store the request with all that belongs to it."""
    submission, posted_at = order.submission, found.at
    if order.misfits:
        raise DoesNotFit(order.misfits)
    if submission.due_at is not None and submission.due_at <= posted_at:
        raise DueDatePassed("due_at lies in the past")
    models = _models_in_scope(found.models, submission)
    is_held, seal_at = _is_held(submission, models), posted_at + order.grace_seconds
    request = Request(
        id=order.request_id,
        tenant=order.tenant,
        kind=submission.kind,
        asked=submission.asked,
        status=RequestStatus.HELD if is_held else RequestStatus.RECEIVED,
        request_uuid=submission.request_uuid,
        uuid_mac=next(iter(order.uuid_macs), None),
        duplicate_of=found.duplicate_of,
        subject_type=submission.subject_type,
        subject_refs=[ref.hex() for ref in submission.subject_refs],
        record_refs=_record_refs(submission),
        is_narrowed_by_models=submission.models is not None,
        match_mac=order.match_mac,
        reason_code=submission.reason_code,
        commitment=submission.commitment,
        nonce=submission.nonce,
        posted_at=posted_at,
        due_at=due_at(posted_at, submission.due_at),
        seal_at=seal_at,
        reveal_at=seal_at + _predicted_seconds(models),
    )
    rows: dict[type[Table], list[Values]] = {
        Request: [_values(request)],
        Target: _targets(request, models),
        Suppression: _suppressions(request, submission),
        IdempotencyKey: _first_answer(request.id, order, at=posted_at),
        Event: [_values(first_event(request.id, at=posted_at, is_held=is_held))],
    }
    store_together(session, rows)
    return request


def _values(row: Table) -> Values:
    return {column.key: getattr(row, column.key) for column in row.__table__.columns}


def _models_in_scope(models: Sequence[ModelInScope], submission: Submission) -> list[ModelInScope]:
    if submission.models is None:
        return list(models)
    known = {model.name for model in models}
    unknown = [index for index, name in enumerate(submission.models) if name not in known]
    if unknown:
        raise UnknownModels(unknown)
    return [model for model in models if model.name in submission.models]


def _is_held(submission: Submission, models: Sequence[ModelInScope]) -> bool:
    """Whether an admin must approve: always what somebody says is true of a person, else by policy."""
    return submission.kind is RequestKind.RECTIFICATION or any(model.is_held for model in models)


def _predicted_seconds(models: Sequence[ModelInScope]) -> float:
    return max(
        (model.window_seconds + predicted_settle_seconds(model.training_seconds) for model in models),
        default=predicted_settle_seconds(0.0),
    )


def _uuid_macs(submission: Submission, *, keyring: Keyring) -> list[bytes]:
    """Return what a later post under the same uuid must match, even after the deletion: none without a uuid.

    The uuid is mixed in, so that two requests for one subject cannot be told by it. Records stand in it by
    the refs that they have in any dataset: one that was imported since makes no other request. Early
    requests match the last one, in which records stand by the datasets of then.
    """
    if submission.request_uuid is None:
        return []
    identity = _identity(submission) | {"uuid": submission.request_uuid}
    identities = [identity]
    if submission.record_refs is not None:
        records: JsonObject = {"any": [*sorted(ref.hex() for ref in submission.suppression_refs)]}
        identities.insert(0, identity | {"records": records, "dataset": submission.dataset})
    return [keyring.mac("request-uuid", canonical_json(each)) for each in identities]


def _identity(submission: Submission) -> JsonObject:
    """Return what is asked for: whom and what it is narrowed to."""
    whom: JsonObject = {
        "subject": next((ref.hex() for ref in submission.subject_refs), None),
        "models": None if submission.models is None else [*sorted(submission.models)],
        "records": _record_refs(submission),
    }
    if submission.kind is RequestKind.DELETION:
        return whom
    return whom | {"kind": submission.kind, "asked": submission.asked}


def _record_refs(submission: Submission) -> JsonObject | None:
    if submission.record_refs is None:
        return None
    return {dataset: [*sorted(ref.hex() for ref in refs)] for dataset, refs in submission.record_refs.items()}


def _targets(request: Request, models: Sequence[ModelInScope]) -> list[Values]:
    return [
        {
            "id": new_id("tgt"),
            "request_id": request.id,
            "model_id": model.id,
            "posted_at": request.posted_at,
            "status": TargetStatus.SCHEDULED,
            "is_late": False,
        }
        for model in models
    ]


def _suppressions(request: Request, submission: Submission) -> list[Values]:
    """Suppress the subject, or only the records that the request was narrowed to; others suppress nobody."""
    if submission.kind is not RequestKind.DELETION:
        return []
    common: Values = {
        "tenant": request.tenant,
        "request_id": request.id,
        "expires_at": request.posted_at + SUPPRESSION_SECONDS,
    }
    if submission.record_refs is None:
        return [common | {"subject_ref": ref, "record_ref": None} for ref in submission.subject_refs]
    return [common | {"subject_ref": None, "record_ref": ref} for ref in sorted(submission.suppression_refs)]


def _first_answer(request_id: str, order: _Order, *, at: float) -> list[Values]:
    if order.idempotency is None:
        return []
    macs: Values = {"key_mac": order.idempotency.key_mac, "body_mac": order.idempotency.body_mac}
    return [macs | {"tenant": order.tenant, "request_id": request_id, "created_at": at}]


def _first_acknowledgement(session: Session, request: Request) -> Acknowledgement:
    """Return what the first post of a request was answered."""
    # Every rectification is held; the first event of an early one does not say so.
    is_held = request.kind == RequestKind.RECTIFICATION or began_held(session, request.id)
    status = RequestStatus.HELD if is_held else RequestStatus.RECEIVED
    return replace(_acknowledgement(request), status=status)


def _acknowledgement(request: Request) -> Acknowledgement:
    posted = Clocked(completed_at=None, reveal_at=request.reveal_at, now=request.posted_at)
    return Acknowledgement(
        id=request.id, status=RequestStatus(request.status),
        posted_at=request.posted_at, due_at=request.due_at,
        subject_type=request.subject_type, reason_code=request.reason_code,
        request_id=request.request_uuid, duplicate_of=request.duplicate_of,
        commitment=request.commitment, nonce=request.nonce, retry_after=seconds_to_wait(posted),
    )  # fmt: skip


def dataset_names(sessions: Sessions, *, tenant: TenantName) -> dict[DatasetId, str]:
    """Return id -> name of the tenant's datasets: record ids are hashed together with the name."""
    with reading(sessions) as session:
        return {DatasetId(key): name for key, name in names_of_datasets(session, tenant=tenant).items()}
