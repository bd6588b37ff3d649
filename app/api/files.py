"""Send a file of the store: verified bytes, a strong ETag from the digest, ranges, problems for errors."""

from base64 import b64encode

from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from app.api.deps import entity_tags
from app.api.errors import http_problem
from app.services.show_models import ServedFile

_PROBLEMS = (400, 416)


class StoredFileResponse(FileResponse):
    """A file that is content-addressed; errors about the range asked for are problems too."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        refused: list[Message] = []

        async def send_unless_refused(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in _PROBLEMS:
                refused.append(message)
            elif not refused:
                await send(message)

        await super().__call__(scope, receive, send_unless_refused)
        for message in refused:
            headers = {k.decode(): v.decode() for k, v in message["headers"] if k == b"content-range"}
            detail = "the Range header cannot be satisfied"
            await http_problem(message["status"], detail=detail, headers=headers)(scope, receive, send)


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
    return StoredFileResponse(file.path, headers=headers, media_type="application/octet-stream")


def _has(digest: str, tags: frozenset[str] | None) -> bool:
    return tags is None or digest in tags
