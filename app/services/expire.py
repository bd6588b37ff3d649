"""Delete what has served its time: Idempotency-Keys of revealed requests, suppressions past their date.

Promises: nothing is deleted that a product could miss before it sees the request completed; without
anything to delete no transaction is opened that would keep writers waiting.
"""

from sqlalchemy import ColumnElement, and_, delete, or_, select
from sqlalchemy.orm import Session

from app.db.jobs import now
from app.db.session import Sessions, reading, writing
from app.db.tables import IdempotencyKey, Request, Suppression
from app.domain.scheduling import DAY_SECONDS
from app.domain.status import RequestStatus

IDEMPOTENCY_SECONDS = DAY_SECONDS


def expire_leftovers(sessions: Sessions) -> int:
    """Delete them and return how many rows went."""
    with reading(sessions) as session:
        at = now(session)
        if not _has_any(session, at=at):
            return 0
    with writing(sessions) as session:
        keys = delete(IdempotencyKey).where(*_served_keys(at)).returning(IdempotencyKey.request_id)
        suppressions = delete(Suppression).where(Suppression.expires_at <= at).returning(Suppression.id)
        return len(session.execute(keys).all()) + len(session.execute(suppressions).all())


def _has_any(session: Session, *, at: float) -> bool:
    key = select(IdempotencyKey.request_id).where(*_served_keys(at)).exists()
    suppression = select(Suppression.id).where(Suppression.expires_at <= at).exists()
    return bool(session.scalar(select(or_(key, suppression))))


def _served_keys(at: float) -> tuple[ColumnElement[bool], ...]:
    """Say which keys no client needs any more: old, and of a request that it sees completed."""
    is_revealed = and_(Request.completed_at <= at, Request.reveal_at <= at)
    is_withdrawn = Request.status.in_((RequestStatus.CANCELLED, RequestStatus.REJECTED))
    revealed = select(Request.id).where(or_(is_revealed, is_withdrawn))
    return IdempotencyKey.created_at <= at - IDEMPOTENCY_SECONDS, IdempotencyKey.request_id.in_(revealed)
