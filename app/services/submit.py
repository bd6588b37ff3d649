"""Submit a deletion: one transaction, and the same statements whoever the subject is."""

from dataclasses import dataclass

from sqlalchemy import and_, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.ids import new_id
from app.db.jobs import now
from app.db.models import all_models, names_of_datasets
from app.db.requests import OPEN
from app.db.session import Sessions, reading, writing
from app.db.tables import IdempotencyKey, Model, Request, Suppression, Target
from app.domain.errors import DueDatePassed, IdempotencyKeyReused, UnknownModels
from app.domain.scheduling import DAY_SECONDS, SUPPRESSION_YEARS, due_at, predicted_settle_seconds
from app.domain.status import RequestStatus, TargetStatus
from app.domain.terms import DatasetId, JsonObject, Submission, TenantName
from app.keyring import Keyring
from app.services.events import append_event
from models_store.manifest import canonical_json

SUPPRESSION_SECONDS = SUPPRESSION_YEARS * 365 * DAY_SECONDS


@dataclass(frozen=True)
class Idempotency:
    """The Idempotency-Key of a POST and its parsed body, both as keyed hashes."""

    key_mac: bytes
    body_mac: bytes


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
    """Store a deletion request and return its id; a repeat returns the first one's.

    The connection may be lost while the commit is on its way: whoever tries again passes the same ``own``
    id, under which the second try finds what the first one stored.

    Raises:
        UnknownModels: the request is narrowed to a model that the tenant does not have.
        IdempotencyKeyReused: the key, or the client's own request id, was used with another body.
        DueDatePassed: the wished due date lies in the past (a repeat may come after it).
    """
    own = own or Try(new_id("del"))
    for is_last in (False, True):
        try:
            with writing(sessions) as session:
                if (own.is_repeat or is_last) and session.get(Request, own.request_id) is not None:
                    return own.request_id
                return _submit(
                    session,
                    submission,
                    request_id=own.request_id,
                    tenant=tenant,
                    keyring=keyring,
                    grace_seconds=grace_seconds,
                    idempotency=idempotency,
                )
        except IntegrityError:
            # A repeat was in flight and has committed its row meanwhile: the second look finds it.
            if is_last:
                raise
    raise AssertionError("the last try returns or raises")


def _submit(
    session: Session,
    submission: Submission,
    *,
    request_id: str,
    tenant: TenantName,
    keyring: Keyring,
    grace_seconds: float,
    idempotency: Idempotency | None,
) -> str:
    first = _first_with_key(session, tenant=tenant, idempotency=idempotency)
    if first is not None:
        return first
    match_mac = keyring.mac("duplicates", canonical_json(_identity(submission)))
    uuid_mac = _uuid_mac(submission, keyring=keyring)
    posted_at = now(session)
    same = _first_with_uuid(session, submission, tenant=tenant, uuid_mac=uuid_mac)
    if same is not None:
        session.add_all(_first_answer(same, idempotency, tenant=tenant, at=posted_at))
        return same
    if submission.due_at is not None and submission.due_at <= posted_at:
        raise DueDatePassed("due_at lies in the past")
    models = _models_in_scope(session, submission, tenant=tenant)
    request = Request(
        id=request_id,
        tenant=tenant,
        status=RequestStatus.RECEIVED,
        request_uuid=submission.request_uuid,
        uuid_mac=uuid_mac,
        duplicate_of=_open_duplicate(session, match_mac, tenant=tenant, at=posted_at),
        subject_type=submission.subject_type,
        subject_refs=[ref.hex() for ref in submission.subject_refs],
        record_refs=_record_refs(submission),
        is_narrowed_by_models=submission.models is not None,
        match_mac=match_mac,
        reason_code=submission.reason_code,
        commitment=submission.commitment,
        nonce=submission.nonce,
        posted_at=posted_at,
        due_at=due_at(posted_at, submission.due_at),
        seal_at=posted_at + grace_seconds,
        reveal_at=posted_at + grace_seconds + _predicted_seconds(models),
    )
    session.add(request)
    session.flush()
    session.add_all(_targets(request, models))
    session.add_all(_suppressions(request, submission))
    session.add_all(_first_answer(request.id, idempotency, tenant=tenant, at=posted_at))
    append_event(session, request.id, "received")
    return request.id


def _first_with_key(session: Session, *, tenant: str, idempotency: Idempotency | None) -> str | None:
    if idempotency is None:
        return None
    first = session.get(IdempotencyKey, (tenant, idempotency.key_mac))
    if first is None:
        return None
    if first.body_mac != idempotency.body_mac:
        raise IdempotencyKeyReused("this Idempotency-Key came with another body before")
    return first.request_id


def _first_with_uuid(
    session: Session, submission: Submission, *, tenant: str, uuid_mac: bytes | None
) -> str | None:
    if submission.request_uuid is None:
        return None
    query = select(Request).where(Request.tenant == tenant, Request.request_uuid == submission.request_uuid)
    first = session.scalar(query)
    if first is None:
        return None
    # A client that uses one id for two people must hear of it: the second would never be forgotten.
    if first.uuid_mac != uuid_mac:
        raise IdempotencyKeyReused("this request_id came with another body before")
    return first.id


def _models_in_scope(session: Session, submission: Submission, *, tenant: str) -> list[Model]:
    models = all_models(session, tenant=tenant)
    if submission.models is None:
        return list(models)
    known = {model.name for model in models}
    unknown = [index for index, name in enumerate(submission.models) if name not in known]
    if unknown:
        raise UnknownModels(unknown)
    return [model for model in models if model.name in submission.models]


def _predicted_seconds(models: list[Model]) -> float:
    return max(
        (predicted_settle_seconds(model.training_seconds) for model in models),
        default=predicted_settle_seconds(0.0),
    )


def _uuid_mac(submission: Submission, *, keyring: Keyring) -> bytes | None:
    """Return what a later post under the same uuid must match, even after the deletion.

    The uuid is mixed in, so that two requests for one subject cannot be told by it.
    """
    if submission.request_uuid is None:
        return None
    identity = _identity(submission) | {"uuid": submission.request_uuid}
    return keyring.mac("request-uuid", canonical_json(identity))


def _identity(submission: Submission) -> JsonObject:
    """Return what is asked for: whom and what it is narrowed to."""
    return {
        "subject": submission.subject_refs[0].hex(),
        "models": None if submission.models is None else [*sorted(submission.models)],
        "records": _record_refs(submission),
    }


def _record_refs(submission: Submission) -> JsonObject | None:
    if submission.record_refs is None:
        return None
    return {dataset: [*sorted(ref.hex() for ref in refs)] for dataset, refs in submission.record_refs.items()}


def _open_duplicate(session: Session, match_mac: bytes, *, tenant: str, at: float) -> str | None:
    """Return the request that asks for the same and that no product sees completed yet.

    A completed one counts until it is revealed: otherwise a second post would tell who was not held.
    """
    is_hidden = and_(Request.status == RequestStatus.COMPLETED, Request.reveal_at > at)
    query = select(Request.id).where(
        Request.tenant == tenant, Request.match_mac == match_mac, or_(Request.status.in_(OPEN), is_hidden)
    )
    return session.scalar(query.order_by(Request.posted_at, Request.id).limit(1))


def _targets(request: Request, models: list[Model]) -> list[Target]:
    return [
        Target(id=new_id("tgt"), request_id=request.id, model_id=model.id, status=TargetStatus.SCHEDULED)
        for model in models
    ]


def _suppressions(request: Request, submission: Submission) -> list[Suppression]:
    """Suppress the subject, or only the records that the request was narrowed to."""
    common = {
        "tenant": request.tenant,
        "request_id": request.id,
        "expires_at": request.posted_at + SUPPRESSION_SECONDS,
    }
    if submission.record_refs is None:
        return [Suppression(subject_ref=ref, **common) for ref in submission.subject_refs]
    return [Suppression(record_ref=ref, **common) for ref in sorted(submission.suppression_refs)]


def _first_answer(
    request_id: str, idempotency: Idempotency | None, *, tenant: str, at: float
) -> list[IdempotencyKey]:
    if idempotency is None:
        return []
    key_mac, body_mac = idempotency.key_mac, idempotency.body_mac
    return [
        IdempotencyKey(
            tenant=tenant, key_mac=key_mac, body_mac=body_mac, request_id=request_id, created_at=at
        )
    ]


def dataset_names(sessions: Sessions, *, tenant: TenantName) -> dict[DatasetId, str]:
    """Return id -> name of the tenant's datasets: record ids are hashed together with the name."""
    with reading(sessions) as session:
        return {DatasetId(key): name for key, name in names_of_datasets(session, tenant=tenant).items()}
