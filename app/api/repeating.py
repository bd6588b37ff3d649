"""Routes that let their caller in, and try once more when the database connection was lost on the way.

Promises: a request that changes something is repeated only if its second try finds what the first one may
have stored; any other is answered 503. Waiting for the database to come back is left to the engine.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import structlog
from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool

from app.api.deps import let_in
from app.db.ids import new_id
from app.services.submit import Try

_log = structlog.get_logger()
_WITHOUT_EFFECT = ("GET", "HEAD")

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class RepeatingRoute(APIRoute):
    """A route that lets its caller in, and whose handler runs a second time when its connection was lost."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, let_in(endpoint), **options)

    def get_route_handler(self) -> Handler:
        """Return the handler of a request."""
        handle = self._by_the_short_way(super().get_route_handler())

        async def handle_again(request: Request) -> Response:
            try:
                return await handle(request)
            except DBAPIError as error:
                if not _may_repeat(request, error):
                    raise
            _log.warning("request_repeated", route=self.path)
            return await handle(request)

        return handle_again

    def _by_the_short_way(self, handle: Handler) -> Handler:
        """Return the handler with the endpoint's short way (``app.api.plain``) before it, if it has one."""
        read, status = getattr(self.endpoint, "plainly", None), self.status_code or 200
        if read is None:
            return handle

        async def handle_plainly(request: Request) -> Response:
            arguments = await read(request)
            if arguments is None:
                return await handle(request)
            shown = await run_in_threadpool(self.endpoint, **arguments)
            answer = Response(shown.model_dump_json(), status_code=status, media_type="application/json")
            given = arguments["response"].headers.raw
            answer.headers.raw.extend(pair for pair in given if pair[0] != b"content-length")
            return answer

        return handle_plainly


async def get_try(request: Request) -> Try:
    """Return the id of what this request stores; a repeat gets the same one and is told so."""
    is_repeat = hasattr(request.state, "own_id")
    if not is_repeat:
        request.state.own_id = new_id("del")
    return Try(request.state.own_id, is_repeat=is_repeat)


TryDep = Annotated[Try, Depends(get_try)]


def _may_repeat(request: Request, error: DBAPIError) -> bool:
    """Whether a second try may help and can do no harm; whoever could not connect has waited already."""
    is_harmless = request.method in _WITHOUT_EFFECT or hasattr(request.state, "own_id")
    return error.connection_invalidated and is_harmless
