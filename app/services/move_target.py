"""Move one target: the lawful status, an event in the trail, and what follows for the request.

Use it for every move of a target: ``move_target(session, target, TargetStatus.FAILED, reason=error)``. It
locks the request's row itself; facts go into the event's body, beside the model's name. Who only stays
where it is leaves no event. Other columns of the target (outcome, reason, purged_at) are the caller's.

Never: completes a request. Its last target's end does not; closing it does, with a receipt.
"""

from sqlalchemy.orm import Session

from app.db.requests import lock_request, targets_of
from app.db.tables import Model, Target
from app.domain.status import RequestStatus, TargetStatus, derived, moved
from app.domain.terms import JsonValue
from app.services.events import append_event


def move_target(session: Session, target: Target, to: TargetStatus, **facts: JsonValue) -> None:
    """Let a target go to ``to`` and say so; admins alone read the event (``target_running`` and the like).

    Raises:
        IllegalMove: it may not go there from where it is.
    """
    request = lock_request(session, target.request_id)
    before = TargetStatus(target.status)
    target.status = moved(before, to)
    if before is to:
        return
    model = session.get_one(Model, target.model_id)
    append_event(session, request.id, f"target_{to}", {"model": model.name, **facts})
    restate(session, request.id)


def restate(session: Session, request_id: str) -> None:
    """Let a sealed request that has not ended say what its targets say."""
    request = lock_request(session, request_id)
    said = derived([TargetStatus(target.status) for target, _ in targets_of(session, request.id)])
    is_open = request.status in (RequestStatus.SCHEDULED, RequestStatus.RUNNING, RequestStatus.FAILED)
    if is_open and said is not RequestStatus.COMPLETED:
        request.status = said
