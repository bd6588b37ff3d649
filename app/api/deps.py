"""What routes are given: the context of the process, the caller, parsed headers."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Engine
from starlette.exceptions import HTTPException

from app.db.session import Sessions
from app.domain.access import Caller, Scope
from app.domain.errors import KeyRefused
from app.keyring import Keyring
from app.services.api_keys import authenticate
from app.settings import Settings
from models_store.blobs import BlobStore

_BEARER = HTTPBearer(auto_error=False, description="An API key: `exp_PREFIX_SECRET`.")
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_PRINTABLE = re.compile(r"[\x20-\x7e]{1,255}")
_ENTITY_TAG = re.compile(r'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"')


@dataclass(frozen=True)
class Context:
    """What one process of the service holds for as long as it lives."""

    settings: Settings
    engine: Engine
    sessions: Sessions
    keyring: Keyring
    store: BlobStore


async def get_context(request: Request) -> Context:
    """Return the context that ``create_app`` made."""
    # Dependencies without I/O are coroutines: FastAPI would send a plain function to another thread.
    context: Context = request.app.state.context
    return context


ContextDep = Annotated[Context, Depends(get_context)]


def get_caller(
    context: ContextDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
) -> Caller:
    """Return who calls.

    Raises:
        KeyRefused: there is no valid API key in the Authorization header.
    """
    if credentials is None:
        raise KeyRefused("send an API key: Authorization: Bearer exp_...")
    return authenticate(context.sessions, credentials.credentials)


def allowed(scope: Scope) -> Callable[[Caller], Awaitable[Caller]]:
    """Return a dependency that lets pass only callers with ``scope``."""

    async def check(caller: Annotated[Caller, Depends(get_caller)]) -> Caller:
        caller.require(scope)
        return caller

    return check


Creates = Annotated[Caller, Depends(allowed(Scope.DELETIONS_CREATE))]
ReadsDeletions = Annotated[Caller, Depends(allowed(Scope.DELETIONS_READ))]
CancelsDeletions = Annotated[Caller, Depends(allowed(Scope.DELETIONS_CANCEL))]
Administers = Annotated[Caller, Depends(allowed(Scope.ADMIN))]
ReadsVersions = Annotated[Caller, Depends(allowed(Scope.VERSIONS_READ))]
MovesAliases = Annotated[Caller, Depends(allowed(Scope.ALIASES_WRITE))]

DeletionId = Annotated[str, Path(pattern=r"^del_[0-9a-f]{32}$")]
PathName = Annotated[str, Path(pattern=r"^[^\x00]{1,255}$")]
AliasName = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]


async def require_json(request: Request) -> None:
    """Refuse bodies that do not say they are JSON."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise HTTPException(415, detail="the body must be application/json")


async def idempotency_key(
    header: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="1 to 255 printable characters, bare or quoted; same key and body, same answer.",
        ),
    ] = None,
) -> str | None:
    """Return the key without its quotes."""
    if header is None:
        return None
    quoted = _QUOTED.fullmatch(header.strip())
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else header.strip()
    if not _PRINTABLE.fullmatch(key):
        raise HTTPException(400, detail="Idempotency-Key must be 1 to 255 printable ASCII characters")
    return key


IdempotencyKeyDep = Annotated[str | None, Depends(idempotency_key)]


def entity_tags(header: str) -> frozenset[str] | None:
    """Return the tags of an If-Match or If-None-Match header, None for ``*``; weak ones count as strong."""
    if header.strip() == "*":
        return None
    return frozenset(_ENTITY_TAG.findall(header))
