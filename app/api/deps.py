"""What routes are given: the context of the process, the caller, parsed headers."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any

from fastapi import Depends, Header, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Engine
from starlette.exceptions import HTTPException

from app.db.session import Sessions
from app.domain.access import Caller, Scope
from app.domain.errors import KeyRefused
from app.keyring import Keyring
from app.services.api_keys import authenticate, has_form_of_key
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


@dataclass(frozen=True)
class Knock:
    """Somebody at the door whose key has not been looked up yet; the route does that first."""

    sessions: Sessions
    token: str
    scope: Scope

    def admit(self) -> Caller:
        """Return who calls.

        Raises:
            KeyRefused: the key is not valid.
            ScopeMissing: it does not carry the scope.
        """
        caller = authenticate(self.sessions, self.token)
        caller.require(self.scope)
        return caller


def let_in(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Return the endpoint with its caller looked up first, in the same thread."""

    @wraps(endpoint)
    def run(**given: Any) -> Any:
        if isinstance(given.get("caller"), Knock):
            given["caller"] = given["caller"].admit()
        return endpoint(**given)

    return run


def allowed(scope: Scope) -> Callable[..., Awaitable[Knock]]:
    """Return a dependency that lets pass only callers with ``scope``.

    It is a coroutine: the key is looked up in the thread that runs the route (``let_in``), because a
    thread of its own would cost as much as reading a status.
    """

    async def knock(
        context: ContextDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
    ) -> Knock:
        if credentials is None or not has_form_of_key(credentials.credentials):
            raise KeyRefused("send an API key: Authorization: Bearer exp_...")
        return Knock(context.sessions, credentials.credentials, scope)

    return knock


Creates = Annotated[Caller, Depends(allowed(Scope.DELETIONS_CREATE))]
ReadsDeletions = Annotated[Caller, Depends(allowed(Scope.DELETIONS_READ))]
CancelsDeletions = Annotated[Caller, Depends(allowed(Scope.DELETIONS_CANCEL))]
CorrectsRecords = Annotated[Caller, Depends(allowed(Scope.RECORDS_CORRECT))]
Administers = Annotated[Caller, Depends(allowed(Scope.ADMIN))]
ReadsVersions = Annotated[Caller, Depends(allowed(Scope.VERSIONS_READ))]
MovesAliases = Annotated[Caller, Depends(allowed(Scope.ALIASES_WRITE))]

DELETION_ID = r"^del_[0-9a-f]{32}$"
DeletionId = Annotated[str, Path(pattern=DELETION_ID)]
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
