"""The door: raw subject and record ids become keyed hashes here and go no further."""

import secrets
from collections.abc import Mapping

from fastapi import Response
from pydantic import BaseModel

from app.api.deps import Context
from app.api.schemas import AcknowledgementOut, ChangesIn, ClassDeletionIn, DeletionIn, RectificationIn
from app.domain.changes import Changes
from app.domain.status import RequestKind
from app.domain.terms import DatasetId, Submission, TenantName
from app.keyring import Keyring, commitment
from app.services.submit import Acknowledgement, Idempotency, dataset_names
from models_store.manifest import canonical_json

NONCE_BYTES = 32
# In the place of a subject type; a class deletion has no refs, so nobody is looked for by it.
CLASS = "class"


def submission_of(body: DeletionIn, *, context: Context, tenant: TenantName) -> Submission:
    """Return what is asked for, with hashes instead of ids and a fresh nonce."""
    nonce, keyring = secrets.token_bytes(NONCE_BYTES), context.keyring
    return Submission(
        subject_refs=keyring.subject_refs(body.subject_id, subject_type=body.subject_type),
        subject_type=body.subject_type,
        commitment=commitment(nonce, body.subject_id, subject_type=body.subject_type),
        nonce=nonce,
        models=None if body.models is None else tuple(body.models),
        record_refs=_record_refs(body.record_ids, context=context, tenant=tenant),
        suppression_refs=_suppression_refs(body, body.record_ids or [], keyring=keyring),
        due_at=None if body.due_at is None else body.due_at.timestamp(),
        reason_code=body.reason_code,
        request_uuid=body.request_id,
    )


def class_deletion_of(body: ClassDeletionIn) -> Submission:
    """Return what is asked for; the commitment is to ``model/label``, of the subject type ``class``."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return Submission(
        subject_refs=(),
        subject_type=CLASS,
        commitment=commitment(nonce, f"{body.model}/{body.label}", subject_type=CLASS),
        nonce=nonce,
        models=(body.model,),
        due_at=None if body.due_at is None else body.due_at.timestamp(),
        reason_code=body.reason_code,
        request_uuid=body.request_id,
        kind=RequestKind.CLASS_DELETION,
        asked={"label": body.label},
    )


def changes_of(body: ChangesIn) -> Changes:
    """Return the changes as the domain checks them."""
    return Changes(label=body.label, features=body.features or {})


def rectification_of(
    body: RectificationIn, *, datasets: Mapping[DatasetId, str], keyring: Keyring
) -> Submission:
    """Return what is asked for, with hashes instead of ids; ``datasets`` are the names by id."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return Submission(
        subject_refs=keyring.subject_refs(body.subject_id, subject_type=body.subject_type),
        subject_type=body.subject_type,
        commitment=commitment(nonce, body.subject_id, subject_type=body.subject_type),
        nonce=nonce,
        record_refs={
            dataset: keyring.record_refs(body.record_id, dataset=name) for dataset, name in datasets.items()
        },
        suppression_refs=_suppression_refs(body, [body.record_id], keyring=keyring),
        dataset=body.dataset,
        due_at=None if body.due_at is None else body.due_at.timestamp(),
        reason_code=body.reason_code,
        request_uuid=body.request_id,
        kind=RequestKind.RECTIFICATION,
        asked=changes_of(body.changes).to_json(),
    )


def idempotency_of(key: str | None, body: BaseModel, *, keyring: Keyring) -> Idempotency | None:
    """Return the keyed hashes of an Idempotency-Key and of the parsed body; None without a key."""
    if key is None:
        return None
    parsed = canonical_json(body.model_dump(mode="json"))
    return Idempotency(
        key_mac=keyring.mac("idempotency-key", key.encode()), body_mac=keyring.mac("idempotency-body", parsed)
    )


def acknowledged(stored: Acknowledgement, *, response: Response) -> AcknowledgementOut:
    """Return the answer to a post of any kind, and say in its headers where and when to ask again."""
    response.headers["Location"] = f"/deletions/{stored.id}"
    response.headers["Retry-After"] = str(stored.retry_after)
    return AcknowledgementOut.model_validate(stored)


def _record_refs(
    record_ids: list[str] | None, *, context: Context, tenant: TenantName
) -> dict[DatasetId, tuple[bytes, ...]] | None:
    """Hash each record id within each dataset: the same id names another record in another dataset."""
    if record_ids is None:
        return None
    return {
        dataset: tuple(
            ref for record_id in record_ids for ref in context.keyring.record_refs(record_id, dataset=name)
        )
        for dataset, name in dataset_names(context.sessions, tenant=tenant).items()
    }


def _suppression_refs(
    body: DeletionIn | RectificationIn, record_ids: list[str], *, keyring: Keyring
) -> tuple[bytes, ...]:
    return tuple(
        ref
        for record_id in record_ids
        for ref in keyring.suppression_refs(
            record_id, subject_id=body.subject_id, subject_type=body.subject_type
        )
    )
