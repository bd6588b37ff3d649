"""Send a file of the store: verified bytes, a strong ETag from the digest, ranges, problems for errors."""

from base64 import b64encode
from collections.abc import Mapping

from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from app.api.deps import entity_tags
from app.api.errors import http_problem
from app.services.show_models import ServedFile

_PROBLEMS = (400, 416)


class StoredFileResponse(FileResponse):
    """A file that is content-addressed; errors about the range asked for are problems too.

    The head of the answer waits for the first bytes: a purge may take the file away before it is opened.
    """

    def __init__(self, file: ServedFile, *, headers: Mapping[str, str]) -> None:
        super().__init__(
            file.path, headers=headers, media_type="application/octet-stream", stat_result=file.status
        )
        self._require_served = file.require_served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        heads: list[Message] = []

        async def send_once_opened(message: Message) -> None:
            if message["type"] == "http.response.start":
                heads.append(message)
            elif heads and heads[0]["status"] not in _PROBLEMS:
                await send(heads.pop())
                await send(message)
            elif not heads:
                await send(message)

        try:
            await super().__call__(scope, receive, send_once_opened)
        except FileNotFoundError:
            await run_in_threadpool(self._require_served)
            raise
        for head in heads:
            headers = {k.decode(): v.decode() for k, v in head["headers"] if k == b"content-range"}
            detail = "the Range header cannot be satisfied"
            await http_problem(head["status"], detail=detail, headers=headers)(scope, receive, send)


def file_response(file: ServedFile, *, if_none_match: str | None) -> Response:
    """Return the file, or 304 when the caller has it already."""
    # A revoked version must not be served from a cache that never asks again.
    headers = {
        "ETag": f'"{file.digest}"',
        "Cache-Control": "private, no-cache",
        "Repr-Digest": f"sha-256=:{b64encode(bytes.fromhex(file.digest)).decode()}:",
    }
    if if_none_match is not None and _has(file.digest, entity_tags(if_none_match)):
        return Response(status_code=304, headers=headers)
    return StoredFileResponse(file, headers=headers)


def _has(digest: str, tags: frozenset[str] | None) -> bool:
    return tags is None or digest in tags
