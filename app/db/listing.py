"""Pages of requests by keyset, narrowed and in order, as admins or as product scopes see them."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, and_, false, select, true, tuple_, union_all
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.db.requests import SEALED
from app.db.tables import Model, Request, Target
from app.domain.status import RequestStatus
from app.domain.terms import JsonObject


@dataclass(frozen=True)
class Filters:
    """What a list of requests is narrowed to."""

    status: RequestStatus | None = None
    model: str | None = None
    due_before: float | None = None

    def to_json(self) -> JsonObject:
        """Return it as part of what a page token is signed for."""
        return {"status": self.status, "model": self.model, "due_before": self.due_before}


def page_of_requests(
    session: Session,
    *,
    tenant: str,
    filters: Filters,
    as_shown_at: float | None,
    after: tuple[float, str] | None,
    limit: int,
) -> Sequence[Request]:
    """Return requests newest first, or latest due date first when they are narrowed to one.

    By keyset: those after the ``position`` of the last page's end. With ``as_shown_at`` the status is the one
    that product scopes see at that time. Each status that shows as the wanted one is looked for by itself,
    so that an index in the order of the page answers it however few there are.
    """
    by, pool = _order_and_pool(session, filters, tenant=tenant, as_shown_at=as_shown_at)
    if after is not None:
        pool = pool.where(tuple_(*by) < tuple_(*after))
    # Whoever comes after an earlier date is due before the later one too. Told both, PostgreSQL begins at the
    # later and reads all that lies between.
    if filters.due_before is not None and (after is None or after[0] >= filters.due_before):
        pool = pool.where(Request.due_at < filters.due_before)
    order = [column.desc() for column in by]
    parts = [
        pool.where(part).order_by(*order).limit(limit).subquery().select()
        for part in _with_status(filters.status, as_shown_at=as_shown_at)
    ]
    shown = _sort_column(filters).desc(), Request.id.desc()
    query = select(Request).where(Request.id.in_(union_all(*parts)))
    return session.scalars(query.order_by(*shown).limit(limit)).all()


def position_in(filters: Filters, request: Request) -> tuple[float, str]:
    """Return where a request stands in the order of the list."""
    return request.posted_at if filters.due_before is None else request.due_at, request.id


def _sort_column(filters: Filters) -> InstrumentedAttribute[float]:
    return Request.posted_at if filters.due_before is None else Request.due_at


def _order_and_pool(
    session: Session, filters: Filters, *, tenant: str, as_shown_at: float | None
) -> tuple[tuple[InstrumentedAttribute[float], InstrumentedAttribute[str]], Select[str]]:
    """Return by what a list is sorted, and the query of all its ids but for the status and the due date.

    A model's requests are found through its targets, which know when they were posted.
    """
    if filters.model is None:
        by, pool = (_sort_column(filters), Request.id), select(Request.id)
    else:
        model_id = session.scalar(select(Model.id).where(Model.tenant == tenant, Model.name == filters.model))
        is_by_due = filters.due_before is not None
        by = (Request.due_at if is_by_due else Target.posted_at, Target.request_id)
        pool = select(Target.request_id).join(Request, Request.id == Target.request_id)
        pool = pool.where(Target.model_id == (model_id or ""))
        if as_shown_at is not None:
            pool = pool.where(Target.is_late.is_(False))
    return by, pool.where(Request.tenant == tenant)


def _with_status(status: RequestStatus | None, *, as_shown_at: float | None) -> list[ColumnElement[bool]]:
    """Say in SQL, one part for each stored status, which requests have or show a status.

    As shown it is what ``app.domain.visibility.public_status`` says of one request.
    """
    if status is None:
        return [true()]
    if as_shown_at is None:
        return [Request.status == status]
    is_seen = and_(Request.completed_at <= as_shown_at, Request.reveal_at <= as_shown_at)
    is_completed = Request.status == RequestStatus.COMPLETED
    match status:
        case RequestStatus.COMPLETED:
            return [and_(is_completed, is_seen)]
        case RequestStatus.SCHEDULED:
            # Whoever was seen completed has no nonce any more, so there is an index over the others.
            is_hidden = and_(
                is_completed, ~is_seen, Request.completed_at.is_not(None), Request.nonce.is_not(None)
            )
            return [is_hidden, *(Request.status == stored for stored in SEALED)]
        case RequestStatus.RUNNING | RequestStatus.FAILED:
            return [false()]
        case _:
            return [Request.status == status]
