"""The short way to an endpoint that is called very often: for requests about which nothing is unusual.

Promises: an endpoint gets the arguments that FastAPI would give it, and the answer is the same to the byte;
whatever is unusual, a mistake too, goes FastAPI's way, so every refusal is worded in one place.
Never: a check that FastAPI's way does not make. Solving dependencies costs as much as the rest of a call.
"""

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from app.api.deps import DELETION_ID, Context, Knock, idempotency_key
from app.api.repeating import get_try
from app.api.schemas import DeletionIn
from app.domain.access import Scope
from app.services.api_keys import has_form_of_key

Arguments = dict[str, Any]
"""What an endpoint is called with."""

Plainly = Callable[[Request], Awaitable[Arguments | None]]
"""Reads a request; None when something about it is unusual."""

Endpoint = TypeVar("Endpoint", bound=Callable[..., BaseModel])
_ID = re.compile(DELETION_ID)


def plainly(read: Plainly) -> Callable[[Endpoint], Endpoint]:
    """Return a decorator that shows a ``RepeatingRoute`` the short way to an endpoint."""

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.plainly = read  # type: ignore[attr-defined]  # functions take any attribute
        return endpoint

    return mark


async def plain_read(request: Request) -> Arguments | None:
    """Return the arguments of ``get_deletion``."""
    deletion_id, common = request.path_params["deletion_id"], _common(request, Scope.DELETIONS_READ)
    if common is None or _ID.fullmatch(deletion_id) is None:
        return None
    return common | {"deletion_id": deletion_id}


async def plain_post(request: Request) -> Arguments | None:
    """Return the arguments of ``create_deletion``."""
    common = _common(request, Scope.DELETIONS_CREATE)
    if common is None or request.headers.get("content-type") != "application/json":
        return None
    try:
        parsed = json.loads(await request.body())
        key = await idempotency_key(request.headers.get("idempotency-key"))
        body = DeletionIn.model_validate(parsed) if isinstance(parsed, dict) else None
    except (ValueError, RecursionError, ValidationError, HTTPException):
        return None
    return None if body is None else common | {"body": body, "key": key, "own": await get_try(request)}


def _common(request: Request, scope: Scope) -> Arguments | None:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind != "Bearer" or not has_form_of_key(token):
        return None
    context: Context = request.app.state.context
    return {"context": context, "caller": Knock(context.sessions, token, scope), "response": Response()}
