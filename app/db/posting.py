"""What a post depends on, looked up by one statement whoever the subject is."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, LargeBinary, ScalarSelect, Select, String, and_, bindparam, or_, select
from sqlalchemy.orm import Session

from app.db.requests import OPEN
from app.db.session import epoch_now
from app.db.tables import IdempotencyKey, Model, Request
from app.domain.status import RequestStatus
from app.domain.terms import JsonObject


@dataclass(frozen=True)
class ModelInScope:
    """What a new request needs to know of a model."""

    id: str
    name: str
    training_seconds: float
    policy: JsonObject

    @property
    def window_seconds(self) -> float:
        """How long a deletion may wait for others."""
        return float(str(self.policy.get("batch_window_seconds", 0.0)))

    @property
    def is_held(self) -> bool:
        """Whether every deletion waits for an admin's approval."""
        return bool(self.policy.get("hold", False))


@dataclass(frozen=True)
class FirstPosting:
    """A request that came before under the same key or id, and the keyed hash of what it asked for."""

    request_id: str
    mac: bytes | None


@dataclass(frozen=True)
class Surroundings:
    """What a new request meets: the time, its first posting if it is a repeat, and the tenant's models.

    ``keyed`` came under the same Idempotency-Key, ``named`` under the same id of the client's own.
    """

    at: float
    duplicate_of: str | None
    keyed: FirstPosting | None
    named: FirstPosting | None
    models: tuple[ModelInScope, ...]


def look_before_submitting(
    session: Session, *, tenant: str, match_mac: bytes, key_mac: bytes | None, request_uuid: str | None
) -> Surroundings:
    """Look at all that a new request depends on, in one statement whoever the subject is."""
    asked = {"tenant": tenant, "match_mac": match_mac, "key_mac": key_mac, "request_uuid": request_uuid}
    rows = session.connection().execute(_LOOK, asked).all()
    at, duplicate, keyed, body_mac, named, uuid_mac, *_ = rows[0]
    return Surroundings(
        at=at,
        duplicate_of=duplicate,
        keyed=None if keyed is None else FirstPosting(keyed, body_mac),
        named=None if named is None else FirstPosting(named, uuid_mac),
        models=tuple(ModelInScope(*row[6:]) for row in rows if row[6] is not None),
    )


def _look() -> Select[Any]:
    """Return the statement, built once: it is the most frequent one, and building costs more than running.

    The parameters are typed, so that an absent key is NULL, which equals nothing.
    """
    requests, keys, models = Request.__table__, IdempotencyKey.__table__, Model.__table__
    tenant, named = bindparam("tenant", type_=String), requests.alias("named")
    now = select(epoch_now().label("at"), _open_duplicate(tenant).label("duplicate")).subquery("now")
    same_key = and_(keys.c.tenant == tenant, keys.c.key_mac == bindparam("key_mac", type_=LargeBinary))
    same_uuid = and_(
        named.c.tenant == tenant, named.c.request_uuid == bindparam("request_uuid", type_=String)
    )
    return (
        select(now, keys.c.request_id, keys.c.body_mac, named.c.id, named.c.uuid_mac)
        .add_columns(models.c.id, models.c.name, models.c.training_seconds, models.c.policy)
        .select_from(now)
        .outerjoin(keys, same_key)
        .outerjoin(named, same_uuid)
        .outerjoin(models, models.c.tenant == tenant)
        .order_by(models.c.name)
    )


def _open_duplicate(tenant: BindParameter[str]) -> ScalarSelect[str]:
    """Say which request asks for the same and is not seen completed by any product yet.

    A completed one counts until it is revealed: otherwise a second post would tell who was not held.
    """
    row = Request.__table__.c
    is_hidden = and_(row.status == RequestStatus.COMPLETED, row.reveal_at > epoch_now())
    is_same = and_(row.tenant == tenant, row.match_mac == bindparam("match_mac", type_=LargeBinary))
    query = select(row.id).where(is_same, or_(row.status.in_(OPEN), is_hidden))
    return query.order_by(row.posted_at, row.id).limit(1).scalar_subquery()


_LOOK = _look()
