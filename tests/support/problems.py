"""What every error answer must be."""

from typing import Any

import httpx

MEDIA_TYPE = "application/problem+json"


def problem_of(answer: httpx.Response, status: int, slug: str | None = None) -> dict[str, Any]:
    """Check that an answer is a well-formed problem with this status, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.headers["x-request-id"]
    body: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail"} <= set(body)
    assert body["status"] == status
    assert "Traceback" not in answer.text
    if slug is not None:
        assert body["type"] == f"urn:expunge:problem:{slug}"
    return body
