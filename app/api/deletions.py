"""Routes of deletion requests: post one, follow it, fetch its receipt."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from app.api.deps import (
    Administers,
    CancelsDeletions,
    ContextDep,
    Creates,
    DeletionId,
    IdempotencyKeyDep,
    ReadsDeletions,
    require_json,
)
from app.api.door import acknowledged, idempotency_of, submission_of
from app.api.errors import Documented, documented
from app.api.plain import plain_post, plain_read, plainly
from app.api.repeating import RepeatingRoute, TryDep
from app.api.schemas import (
    AcknowledgementOut,
    AdminDeletionOut,
    AdminEventsOut,
    DeletionIn,
    DeletionOut,
    DeletionPageOut,
    DeletionsQuery,
    EventsOut,
)
from app.db.scrubbing import scrub_at_once
from app.services.approve import approve
from app.services.show_deletions import (
    DeletionView,
    list_deletions,
    show_deletion,
    show_events,
    show_receipt,
)
from app.services.submit import acknowledge
from app.services.withdraw import cancel, reject
from app.signing import MEDIA_TYPE as RECEIPT_MEDIA_TYPE

router = APIRouter(tags=["deletions"], route_class=RepeatingRoute)

_RECEIPT: Documented = {
    200: {"content": {RECEIPT_MEDIA_TYPE: {"schema": {"type": "string"}}}, "description": "A compact JWS"}
}


@router.post(
    "/deletions", status_code=202, operation_id="createDeletion", dependencies=[Depends(require_json)],
    responses=documented(400, 409, 413, 415, 422),
)  # fmt: skip
@plainly(plain_post)
def create_deletion(
    own: TryDep, body: DeletionIn, response: Response, context: ContextDep, caller: Creates,
    key: IdempotencyKeyDep,
) -> AcknowledgementOut:  # fmt: skip
    """Ask that every model in scope forgets a person; answers before anything is known of the person."""
    stored = acknowledge(
        context.sessions, submission_of(body, context=context, tenant=caller.tenant), tenant=caller.tenant,
        keyring=context.keyring, grace_seconds=context.settings.grace_seconds,
        idempotency=idempotency_of(key, body, keyring=context.keyring), own=own,
    )  # fmt: skip
    return acknowledged(stored, response=response)


@router.get("/deletions", operation_id="listDeletions", responses=documented(400, 422))
def get_deletions(
    query: Annotated[DeletionsQuery, Query()], context: ContextDep, caller: ReadsDeletions
) -> DeletionPageOut:
    """List requests, newest first; narrowed by `due_before`, those with the latest due date first."""
    page = list_deletions(
        context.sessions, caller=caller, filters=query.filters, limit=query.limit, token=query.page,
        keyring=context.keyring,
    )  # fmt: skip
    items = [_shaped(view, is_admin=caller.is_admin) for view in page.items]
    return DeletionPageOut.model_validate({"items": items, "next": page.next})


@router.get("/deletions/{deletion_id}", operation_id="getDeletion", responses=documented(404))
@plainly(plain_read)
def get_deletion(
    deletion_id: DeletionId, response: Response, context: ContextDep, caller: ReadsDeletions
) -> AdminDeletionOut | DeletionOut:
    """Say where a request stands; `Retry-After` as long as it has not ended."""
    view = show_deletion(context.sessions, deletion_id, caller=caller)
    if view.retry_after is not None:
        response.headers["Retry-After"] = str(view.retry_after)
    return _shaped(view, is_admin=caller.is_admin)


@router.delete(
    "/deletions/{deletion_id}", status_code=202, operation_id="cancelDeletion", responses=documented(404, 409)
)
def cancel_deletion(
    deletion_id: DeletionId, context: ContextDep, caller: CancelsDeletions
) -> AdminDeletionOut | DeletionOut:
    """Cancel a request whose grace has not ended, or that is held; later it is refused."""
    cancel(context.sessions, deletion_id, caller=caller)
    scrub_at_once(context.engine)
    view = show_deletion(context.sessions, deletion_id, caller=caller)
    return _shaped(view, is_admin=caller.is_admin)


@router.post(
    "/deletions/{deletion_id}:approve", operation_id="approveDeletion", responses=documented(404, 409)
)
def approve_deletion(deletion_id: DeletionId, context: ContextDep, caller: Administers) -> AdminDeletionOut:
    """Let a held request go on; its grace begins now, its due date stays."""
    approve(context.sessions, deletion_id, caller=caller)
    return AdminDeletionOut.model_validate(show_deletion(context.sessions, deletion_id, caller=caller))


@router.post("/deletions/{deletion_id}:reject", operation_id="rejectDeletion", responses=documented(404, 409))
def reject_deletion(deletion_id: DeletionId, context: ContextDep, caller: Administers) -> AdminDeletionOut:
    """Reject a held request: nothing is forgotten, and nothing of the subject is kept."""
    reject(context.sessions, deletion_id, caller=caller)
    scrub_at_once(context.engine)
    return AdminDeletionOut.model_validate(show_deletion(context.sessions, deletion_id, caller=caller))


@router.get("/deletions/{deletion_id}/events", operation_id="listDeletionEvents", responses=documented(404))
def get_events(
    deletion_id: DeletionId, context: ContextDep, caller: ReadsDeletions
) -> AdminEventsOut | EventsOut:
    """Return the audit trail: whole and hash-chained for admins, names and times for others."""
    trail = show_events(context.sessions, deletion_id, caller=caller)
    return (AdminEventsOut if caller.is_admin else EventsOut).model_validate(trail)


@router.get(
    "/deletions/{deletion_id}/receipt", operation_id="getReceipt", response_class=Response,
    responses=documented(404) | _RECEIPT,
)  # fmt: skip
def get_receipt(deletion_id: DeletionId, context: ContextDep, caller: ReadsDeletions) -> Response:
    """Return the signed receipt, once the deletion is completed: the full form for admins."""
    token = show_receipt(context.sessions, deletion_id, caller=caller)
    return Response(token, media_type=RECEIPT_MEDIA_TYPE)


def _shaped(view: DeletionView, *, is_admin: bool) -> AdminDeletionOut | DeletionOut:
    return (AdminDeletionOut if is_admin else DeletionOut).model_validate(view)
