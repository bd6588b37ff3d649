"""Every error answer is ``application/problem+json`` (RFC 9457), made here.

Promises: one table says which error of the domain becomes which answer; no answer repeats what was sent,
shows a trace, or says more of another tenant than "not found".
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from app.api.schemas import Problem
from app.db.connecting import is_connection_lost, reason_of
from app.domain import errors
from models_store.errors import StoreError

_log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
_TYPE_PREFIX = "urn:expunge:problem:"
_RETRY_GONE = "5"
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="expunge"'}

Complaint = dict[str, str]
Documented = dict[int | str, dict[str, Any]]


@dataclass(frozen=True)
class Answer:
    """How one kind of error is answered."""

    status: int
    slug: str
    title: str


ANSWERS: dict[type[errors.ExpungeError], Answer] = {
    errors.NotFound: Answer(404, "not-found", "There is nothing here"),
    errors.ReceiptNotReady: Answer(404, "receipt-not-ready", "There is no receipt yet"),
    errors.Refused: Answer(409, "refused", "A rule forbids it"),
    errors.UnknownModels: Answer(422, "unknown-model", "A named model does not exist"),
    errors.DoesNotFit: Answer(422, "does-not-fit", "What is asked for does not fit"),
    errors.IdempotencyKeyReused: Answer(422, "idempotency-key-reused", "The same key came with another body"),
    errors.DueDatePassed: Answer(422, "due-date-passed", "The due date lies in the past"),
    errors.InvalidCursor: Answer(400, "invalid-page", "The page token is not valid"),
    errors.NotHeld: Answer(409, "not-held", "The request waits for nobody's word"),
    errors.IllegalMove: Answer(409, "under-way", "The request is under way or has ended"),
    errors.CoverageWouldFall: Answer(409, "coverage-would-fall", "The version has forgotten less"),
    errors.VersionTainted: Answer(409, "version-tainted", "The version saw somebody who is to be forgotten"),
    errors.AliasMovedMeanwhile: Answer(412, "alias-moved", "The alias points elsewhere"),
    errors.VersionRevoked: Answer(410, "version-revoked", "The version may not be fetched any more"),
    errors.VersionPurged: Answer(410, "version-purged", "The version's bytes are gone"),
    errors.KeyRefused: Answer(401, "unauthorized", "A valid API key is needed"),
    errors.ScopeMissing: Answer(403, "forbidden", "The API key does not allow this"),
}
_INVALID = Answer(422, "invalid-request", "The request is not valid")
_BUSY = Answer(503, "busy", "The database is busy")
_GONE = Answer(503, "database-unavailable", "The database cannot be reached")
_DAMAGED = Answer(500, "stored-file-damaged", "The stored file is damaged")
_UNREADY = Answer(503, "not-ready", "The service is not ready")
_BROKEN = Answer(500, "internal-error", "Something went wrong here")


class ProblemResponse(JSONResponse):
    """An error answer; plain ASCII, so that no text it is given can break it."""

    media_type = MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        """Return the JSON bytes."""
        return json.dumps(content, separators=(",", ":")).encode()


def problem(
    answer: Answer,
    detail: str,
    *,
    complaints: Sequence[Complaint] = (),
    headers: Mapping[str, str] | None = None,
) -> ProblemResponse:
    """Return the answer to an error."""
    body: dict[str, Any] = {
        "type": _TYPE_PREFIX + answer.slug, "title": answer.title, "status": answer.status, "detail": detail,
    }  # fmt: skip
    if complaints:
        body["errors"] = list(complaints)
    return ProblemResponse(body, status_code=answer.status, headers=headers)


def http_problem(
    status: int, *, detail: str | None = None, headers: Mapping[str, str] | None = None
) -> ProblemResponse:
    """Return the answer for a bare HTTP status."""
    phrase = HTTPStatus(status).phrase
    slug = phrase.lower().replace(" ", "-")
    return problem(
        Answer(status, slug, phrase), detail or HTTPStatus(status).description or phrase, headers=headers
    )


def internal_problem() -> ProblemResponse:
    """Return the answer for a mistake of ours: nothing but that it happened."""
    return problem(_BROKEN, "the request id in X-Request-Id finds it in the log")


def unready_problem(missing: Sequence[str]) -> ProblemResponse:
    """Return the answer of a service that must not get traffic yet."""
    return problem(_UNREADY, f"not in order: {', '.join(missing)}")


def documented(*statuses: int) -> Documented:
    """Return the problem answers of a route for OpenAPI."""
    return {status: _described(status) for status in sorted({401, 403, 422, 503, *statuses})}


def documented_openly(*statuses: int) -> Documented:
    """Return the problem answers of a route that needs no API key."""
    return {status: _described(status) for status in statuses}


def problem_schemas() -> dict[str, Any]:
    """Return the schemas that ``documented`` refers to."""
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), "Problem": schema}


def _described(status: int) -> dict[str, Any]:
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: schema}}


def add_error_handlers(app: FastAPI) -> None:
    """Make ``app`` answer every error as a problem; what nobody expected is the middleware's."""
    app.add_exception_handler(errors.ExpungeError, _on_domain_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(StoreError, _on_damage)
    app.add_exception_handler(DBAPIError, _on_database_error)
    app.add_exception_handler(PoolTimeout, _on_busy)


def _on_domain_error(_: Request, error: Exception) -> ProblemResponse:
    known = next((kind for kind in type(error).__mro__ if kind in ANSWERS), None)
    if known is None:
        raise error
    headers = _CHALLENGE if isinstance(error, errors.KeyRefused) else None
    return problem(ANSWERS[known], str(error), complaints=_complaints_of(error), headers=headers)


def _complaints_of(error: Exception) -> list[Complaint]:
    match error:
        case errors.UnknownModels():
            return [{"pointer": f"#/models/{place}", "detail": "no such model"} for place in error.positions]
        case errors.DoesNotFit():
            return [{"pointer": f"#{misfit.pointer}", "detail": misfit.detail} for misfit in error.misfits]
        case errors.DueDatePassed():
            return [{"pointer": "#/due_at", "detail": str(error)}]
        case _:
            return []


def _on_invalid(_: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(item["loc"][0] == "path" for item in found):
        # A name of the wrong form names nothing.
        return problem(ANSWERS[errors.NotFound], "no such thing")
    complaints = [_complaint(item) for item in found]
    return problem(_INVALID, "see errors", complaints=complaints)


def _complaint(item: Mapping[str, Any]) -> Complaint:
    """Say where and what, never with the input: it may be a subject id, even as the name of a field."""
    place, *path = item["loc"]
    detail = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        path, detail = path[:-1], "there is a field here that is not known"
    if item["type"] == "json_invalid":
        path, detail = [], "the body is not JSON"
    if place == "body":
        return {"pointer": "#" + "".join(f"/{part}" for part in path), "detail": detail}
    return {"parameter": "/".join(str(part) for part in path) or str(place), "detail": detail}


def _on_http_error(_: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HTTPException)
    return http_problem(error.status_code, detail=error.detail, headers=error.headers)


def _on_damage(_: Request, error: Exception) -> ProblemResponse:
    _log.error("stored_file_damaged", reason=str(error))
    return problem(_DAMAGED, "its bytes are missing or do not fit its digest, so they are not served")


def _on_database_error(request: Request, error: Exception) -> ProblemResponse:
    if is_connection_lost(error):
        assert isinstance(error, DBAPIError)
        _log.error("database_unavailable", reason=reason_of(error))
        return problem(_GONE, "try again shortly", headers={"Retry-After": _RETRY_GONE})
    if isinstance(error, OperationalError):
        return _on_busy(request, error)
    raise error


def _on_busy(_: Request, error: Exception) -> ProblemResponse:
    return problem(_BUSY, "try again shortly", headers={"Retry-After": "1"})
