"""A blocking client of the application in process, without a socket.

Starlette's own test client asks for another HTTP library; httpx alone does.
"""

import anyio
import httpx
from fastapi import FastAPI


class InProcess(httpx.BaseTransport):
    """Carries requests to an ASGI application; errors that nobody handled come out."""

    def __init__(self, app: FastAPI) -> None:
        self._inner = httpx.ASGITransport(app=app)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Serve one request on an event loop of its own."""
        return anyio.run(self._serve, request)

    async def _serve(self, request: httpx.Request) -> httpx.Response:
        answer = await self._inner.handle_async_request(request)
        return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())


def client_of(app: FastAPI, token: str | None = None) -> httpx.Client:
    """Return a client that sends an API key, if it is given one."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return httpx.Client(transport=InProcess(app), base_url="http://service", headers=headers)
