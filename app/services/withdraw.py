"""Withdraw a request before it is sealed: the caller cancels it, or an admin rejects it.

Promises: nothing was forgotten and nothing will be; of the subject nothing is kept, not even the suppression.
The statements are the same whether or not a model holds the subject.
"""

from sqlalchemy import delete
from sqlalchemy.orm import Session

from app.db.requests import lock_request, request_by_id, targets_of
from app.db.session import Sessions, writing
from app.db.tables import Request, Suppression
from app.domain.access import Caller
from app.domain.errors import IllegalMove, NotHeld
from app.domain.status import RequestStatus, TargetStatus
from app.services.events import append_event

_UNSEALED = (RequestStatus.RECEIVED, RequestStatus.HELD)


def cancel(sessions: Sessions, request_id: str, *, caller: Caller) -> None:
    """Cancel a request that is not sealed yet; cancelling twice is once.

    Raises:
        NotFound: the caller's tenant has no such request.
        IllegalMove: it is sealed or was rejected.
    """
    with writing(sessions) as session:
        request = _locked(session, request_id, caller=caller)
        if request.status == RequestStatus.CANCELLED:
            return
        if request.status not in _UNSEALED:
            raise IllegalMove("the deletion is under way and cannot be cancelled any more")
        _end(session, request, status=RequestStatus.CANCELLED, caller=caller)


def reject(sessions: Sessions, request_id: str, *, caller: Caller) -> None:
    """Reject a request that is held; rejecting twice is once.

    Raises:
        NotFound: the caller's tenant has no such request.
        NotHeld: it does not wait for anybody's word.
    """
    with writing(sessions) as session:
        request = _locked(session, request_id, caller=caller)
        if request.status == RequestStatus.REJECTED:
            return
        if request.status != RequestStatus.HELD:
            raise NotHeld("the request is not held, so it cannot be rejected")
        _end(session, request, status=RequestStatus.REJECTED, caller=caller)


def _locked(session: Session, request_id: str, *, caller: Caller) -> Request:
    return lock_request(session, request_by_id(session, request_id, tenant=caller.tenant).id)


def _end(session: Session, request: Request, *, status: RequestStatus, caller: Caller) -> None:
    for target, _ in targets_of(session, request.id):
        target.status = TargetStatus.CANCELLED
    session.execute(delete(Suppression).where(Suppression.request_id == request.id))
    request.status = status
    request.subject_refs, request.record_refs, request.nonce, request.match_mac = None, None, None, None
    request.asked = None
    append_event(session, request.id, status, {"actor": caller.key_id})
