"""Approve a request that a model's policy holds: its grace begins now."""

from app.db.jobs import now
from app.db.requests import lock_request, request_by_id
from app.db.session import Sessions, writing
from app.domain.access import Caller
from app.domain.errors import NotHeld
from app.domain.status import RequestStatus
from app.services.events import append_event


def approve(sessions: Sessions, request_id: str, *, caller: Caller) -> None:
    """Let a held request go on.

    When products see it completed moves by as much as it was held, whoever the subject is; its due date
    stays.

    Raises:
        NotFound: the caller's tenant has no such request.
        NotHeld: it does not wait for anybody's word.
    """
    with writing(sessions) as session:
        request = lock_request(session, request_by_id(session, request_id, tenant=caller.tenant).id)
        if request.status != RequestStatus.HELD:
            raise NotHeld("the request is not held, so it cannot be approved")
        held_seconds = now(session) - request.posted_at
        request.status = RequestStatus.RECEIVED
        request.seal_at += held_seconds
        request.reveal_at += held_seconds
        append_event(session, request.id, "approved", {"actor": caller.key_id})
