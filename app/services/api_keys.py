"""API keys: create, authenticate, list, revoke.

A token is ``exp_PREFIX_SECRET``. The prefix is public and finds the row; of the secret only a SHA-256 is
kept, which is enough for 256 random bits (there is nothing to guess, so nothing to slow down).
"""

import hashlib
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field

from app.db.ids import new_id
from app.db.jobs import now
from app.db.keys import KeyFacts, key_named, key_with_prefix, keys_of
from app.db.session import Sessions, asking, reading, writing
from app.db.tables import ApiKey
from app.domain.access import Caller, Scope
from app.domain.errors import KeyRefused
from app.domain.terms import KeyId, TenantName

_TOKEN = re.compile(r"exp_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_SECRET_BYTES = 32
_NO_HASH = bytes(32)


@dataclass(frozen=True)
class NewKey:
    """A key that was just made; the token is shown once and never again."""

    id: KeyId
    token: str = field(repr=False)


@dataclass(frozen=True)
class KeyView:
    """What may be shown of a key."""

    id: KeyId
    name: str
    prefix: str
    scopes: tuple[Scope, ...]
    created_at: float
    expires_at: float | None
    revoked_at: float | None


def create_key(
    sessions: Sessions,
    *,
    tenant: TenantName,
    name: str,
    scopes: Collection[Scope],
    lifetime_seconds: float | None = None,
) -> NewKey:
    """Make a key; without a lifetime it lives until it is revoked."""
    prefix, secret = secrets.token_hex(6), secrets.token_urlsafe(_SECRET_BYTES)
    with writing(sessions) as session:
        created_at = now(session)
        key = ApiKey(
            id=new_id("key"), tenant=tenant, name=name, prefix=prefix, secret_hash=_hash(secret),
            scopes=sorted(scopes), created_at=created_at,
            expires_at=None if lifetime_seconds is None else created_at + lifetime_seconds,
        )  # fmt: skip
        session.add(key)
        return NewKey(id=KeyId(key.id), token=f"exp_{prefix}_{secret}")


def has_form_of_key(token: str) -> bool:
    """Whether a token looks like one of ours; whether it is one, the database says."""
    return _TOKEN.fullmatch(token) is not None


def authenticate(sessions: Sessions, token: str) -> Caller:
    """Return whose token this is.

    Raises:
        KeyRefused: it is malformed, unknown, expired or revoked; the message does not say which.
    """
    parts = _TOKEN.fullmatch(token)
    if parts is None:
        raise KeyRefused("the API key is not valid")
    with asking(sessions) as connection:
        key = key_with_prefix(connection, parts[1])
    known = _NO_HASH if key is None else key.secret_hash
    is_right = secrets.compare_digest(_hash(parts[2]), known)
    if key is None or not is_right or not _is_live(key, at=key.at):
        raise KeyRefused("the API key is not valid")
    scopes = frozenset(Scope(scope) for scope in key.scopes)
    return Caller(key_id=KeyId(key.id), tenant=TenantName(key.tenant), scopes=scopes)


def list_keys(sessions: Sessions, *, tenant: TenantName) -> list[KeyView]:
    """Return the keys of a tenant, revoked ones too."""
    with reading(sessions) as session:
        return [_view(key) for key in keys_of(session, tenant=tenant)]


def has_admin_key(sessions: Sessions, *, tenant: TenantName) -> bool:
    """Whether somebody can still administrate the tenant."""
    with reading(sessions) as session:
        at = now(session)
        return any(
            _is_live(key, at=at) and Scope.ADMIN in key.scopes for key in keys_of(session, tenant=tenant)
        )


def revoke_key(sessions: Sessions, name: str, *, tenant: TenantName) -> KeyView:
    """Refuse a key (its id or prefix) from now on; revoking twice is once."""
    with writing(sessions) as session:
        key = key_named(session, name, tenant=tenant)
        key.revoked_at = key.revoked_at or now(session)
        return _view(key)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _is_live(key: ApiKey | KeyFacts, *, at: float) -> bool:
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > at)


def _view(key: ApiKey) -> KeyView:
    return KeyView(
        id=KeyId(key.id), name=key.name, prefix=key.prefix, scopes=tuple(Scope(s) for s in key.scopes),
        created_at=key.created_at, expires_at=key.expires_at, revoked_at=key.revoked_at,
    )  # fmt: skip
