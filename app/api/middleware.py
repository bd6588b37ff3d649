"""What surrounds every request: a request id, one log line, a limit on the body, a last resort for errors."""

import secrets
from time import perf_counter
from traceback import format_exc

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import http_problem, internal_problem

_log = structlog.get_logger()


class RequestContext:
    """Give a request its id, log it by its route, and answer what nobody expected with a bare 500.

    The id is always ours: one that a client made could hold anything, a subject id too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, request_id=secrets.token_hex(16))
        with structlog.contextvars.bound_contextvars(request_id=answer.request_id):
            begun = perf_counter()
            await self._serve(scope, receive, answer)
            _log.info(
                "request", method=scope["method"], route=_route(scope), status=answer.status,
                duration_ms=round(1000 * (perf_counter() - begun), 1),
            )  # fmt: skip

    async def _serve(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await self._app(scope, receive, answer.send)
        except Exception:  # noqa: BLE001 - the border: whatever it is, the client gets a problem, the log the rest
            # Formatted here: a log that shows local variables would show what was sent.
            _log.error("unhandled", route=_route(scope), trace=format_exc())
            if answer.status is None:
                await internal_problem()(scope, receive, answer.send)


class _Answer:
    """The way out of one request: adds the common headers and remembers the status."""

    def __init__(self, send: Send, *, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.request_id
            headers.setdefault("Cache-Control", "no-store")
            headers.setdefault("X-Content-Type-Options", "nosniff")
        await self._send(message)


class BodyLimit:
    """Read the body, up to a limit, before anything looks at it; beyond the limit answer 413.

    ``Content-Length`` is believed only when it is too large; chunked bodies are counted as they come.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = None if self._announces_too_much(scope) else await self._read(receive)
        if body is None:
            detail = f"the body is longer than {self._max_bytes} bytes"
            await http_problem(413, detail=detail, headers={"Connection": "close"})(scope, receive, send)
            return
        await self._app(scope, _replayed(body, receive), send)

    def _announces_too_much(self, scope: Scope) -> bool:
        length = Headers(scope=scope).get("content-length", "")
        return length.isdecimal() and (len(length) > 18 or int(length) > self._max_bytes)

    async def _read(self, receive: Receive) -> list[Message] | None:
        """Return the messages of the body, or None when it is too long."""
        messages: list[Message] = []
        num_bytes = 0
        while not messages or messages[-1].get("more_body", False):
            messages.append(await receive())
            num_bytes += len(messages[-1].get("body", b""))
            if num_bytes > self._max_bytes:
                return None
        return messages


def _replayed(messages: list[Message], receive: Receive) -> Receive:
    waiting = iter(messages)

    async def receive_again() -> Message:
        message = next(waiting, None)
        return await receive() if message is None else message

    return receive_again


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", "unmatched")
