"""Queries about API keys and about facts that the database remembers of its installation."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.orm import Session

from app.db.session import epoch_now
from app.db.tables import ApiKey, SchemaNote
from app.domain.errors import NotFound


@dataclass(frozen=True)
class KeyFacts:
    """What says whether a token is valid, and what it allows; ``at`` is when the database was asked."""

    id: str
    tenant: str
    secret_hash: bytes
    scopes: tuple[str, ...]
    expires_at: float | None
    revoked_at: float | None
    at: float


# Built once, past the bookkeeping of the session: every call of the API begins with it.
_KEY = select(
    ApiKey.id,
    ApiKey.tenant,
    ApiKey.secret_hash,
    ApiKey.scopes,
    ApiKey.expires_at,
    ApiKey.revoked_at,
    epoch_now(),
).where(ApiKey.prefix == bindparam("prefix"))


def key_with_prefix(connection: Connection, prefix: str) -> KeyFacts | None:
    """Return the key with this public part, whatever its tenant."""
    row = connection.execute(_KEY, {"prefix": prefix}).one_or_none()
    return None if row is None else KeyFacts(*row)


def keys_of(session: Session, *, tenant: str) -> Sequence[ApiKey]:
    """Return the keys of a tenant, oldest first."""
    query = select(ApiKey).where(ApiKey.tenant == tenant)
    return session.scalars(query.order_by(ApiKey.created_at, ApiKey.id)).all()


def key_named(session: Session, name: str, *, tenant: str) -> ApiKey:
    """Return the key with this id or public prefix.

    Raises:
        NotFound: the tenant has no such key.
    """
    found = [key for key in keys_of(session, tenant=tenant) if name in (key.id, key.prefix)]
    if not found:
        raise NotFound("no such API key")
    return found[0]


def notes(session: Session, *, prefix: str) -> dict[str, str]:
    """Return the remembered facts whose names begin with ``prefix``."""
    query = select(SchemaNote).where(SchemaNote.name.startswith(prefix, autoescape=True))
    return {fact.name: fact.value for fact in session.scalars(query)}


def remember(session: Session, name: str, value: str) -> None:
    """Remember a fact, in place of what was remembered under the name."""
    session.merge(SchemaNote(name=name, value=value))
