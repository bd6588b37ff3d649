"""Read deletion requests: the status, the list, the trail, the receipt.

Promises: for product scopes nothing that is returned, and no number of statements, depends on whether a
model held the subject (see ``app.domain.visibility``); admins get the truth besides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from app.db.jobs import jobs_at_work, now
from app.db.listing import Filters, page_of_requests, position_in
from app.db.models import current_versions
from app.db.requests import (
    Standing,
    events_of,
    receipt_of,
    request_and_time,
    standing_and_time,
    targets_of_requests,
)
from app.db.session import Sessions, asking, reading
from app.db.tables import Event, Job, Request, Target, Version
from app.domain.access import Caller
from app.domain.errors import ReceiptNotReady
from app.domain.scheduling import days_left
from app.domain.status import ENDED_REQUESTS, RequestKind, RequestStatus, TargetStatus
from app.domain.terms import JsonObject
from app.domain.visibility import (
    PRODUCT_EVENTS,
    Clocked,
    public_status,
    public_target_status,
    seconds_to_wait,
)
from app.keyring import Keyring
from app.services.events import broken_at
from app.services.pages import position_of, token_of


@dataclass(frozen=True)
class PredictedFacts:
    """What a job was expected to cost; admins only."""

    num_blocks: int
    num_all_blocks: int
    seconds: float | None


@dataclass(frozen=True)
class JobFacts:
    """What a worker does about a target; admins only."""

    id: str
    kind: str
    status: str
    step: str
    num_attempts: int
    progress: JsonObject
    predicted: PredictedFacts | None
    error: str | None
    refused: list[JsonObject]


@dataclass(frozen=True)
class InterimFacts:
    """The version that was treated for a target while the exact one is pending; admins only."""

    version: int
    method: str
    guarantee: str
    covers: int
    settled: int


@dataclass(frozen=True)
class TargetTruth:
    """What stands behind a target's coarse status; admins only."""

    outcome: str | None
    num_records: int | None
    through: int | None
    reason: str | None
    is_retryable: bool | None
    findings: JsonObject | None
    interim: InterimFacts | None
    job: JobFacts | None


@dataclass(frozen=True)
class TargetView:
    """One request in one model; ``truth`` is None for product scopes."""

    model: str
    status: TargetStatus
    completed_at: float | None
    truth: TargetTruth | None


@dataclass(frozen=True)
class DeletionView:
    """One request. ``retry_after`` (seconds) is None once it has ended; ``asked`` is for admins only."""

    id: str
    kind: RequestKind
    status: RequestStatus
    posted_at: float
    due_at: float
    days_left: int
    completed_at: float | None
    reason_code: str | None
    request_id: str | None
    duplicate_of: str | None
    targets: tuple[TargetView, ...]
    retry_after: int | None
    asked: JsonObject | None = None


@dataclass(frozen=True)
class DeletionPage:
    """One page of requests; ``next`` is None on the last one."""

    items: list[DeletionView]
    next: str | None


@dataclass(frozen=True)
class EventView:
    """One entry of the audit trail; product scopes get the name and the time alone."""

    name: str
    at: float
    sequence: int | None = None
    body: JsonObject | None = None
    hash: str | None = None
    previous_hash: str | None = None


@dataclass(frozen=True)
class TrailView:
    """The audit trail; ``broken_at`` is the first event that does not fit the chain, for admins only."""

    items: list[EventView]
    broken_at: int | None = None


def show_deletion(sessions: Sessions, request_id: str, *, caller: Caller) -> DeletionView:
    """Return where a request stands, as far as the caller may know."""
    if not caller.is_admin:
        with asking(sessions) as connection:
            standing, at = standing_and_time(connection, request_id, tenant=caller.tenant)
        return _shown_view(standing, standing.model_names, at=at)
    with reading(sessions) as session:
        request, at = request_and_time(session, request_id, tenant=caller.tenant)
        return _views(session, [request], is_admin=True, at=at)[0]


def list_deletions(
    sessions: Sessions, *, caller: Caller, filters: Filters, limit: int, token: str | None, keyring: Keyring
) -> DeletionPage:
    """Return one page of requests in their order; a page token goes on where the last page ended."""
    selection = filters.to_json() | {"tenant": caller.tenant, "admin": caller.is_admin}
    after = None if token is None else position_of(token, selection=selection, keyring=keyring)
    with reading(sessions) as session:
        at = now(session)
        rows = page_of_requests(
            session, tenant=caller.tenant, filters=filters, as_shown_at=None if caller.is_admin else at,
            after=after, limit=limit + 1,
        )  # fmt: skip
        items = _views(session, rows[:limit], is_admin=caller.is_admin, at=at)
    if len(rows) <= limit:
        return DeletionPage(items=items, next=None)
    position = position_in(filters, rows[limit - 1])
    return DeletionPage(items=items, next=token_of(position, selection=selection, keyring=keyring))


def show_events(sessions: Sessions, request_id: str, *, caller: Caller) -> TrailView:
    """Return the audit trail: all of it for admins, for others the names that tell nothing of the subject."""
    with reading(sessions) as session:
        request, at = request_and_time(session, request_id, tenant=caller.tenant)
        events, times = events_of(session, request_id), _times(request, at=at)
    if caller.is_admin:
        return TrailView(items=[_event_view(event) for event in events], broken_at=broken_at(events))
    shown = [EventView(name=e.name, at=e.at) for e in events if e.name in PRODUCT_EVENTS]
    return TrailView(
        items=[event for event in (_as_shown(event, times) for event in shown) if event is not None]
    )


def show_receipt(sessions: Sessions, request_id: str, *, caller: Caller) -> str:
    """Return the signed receipt: the full form for admins, the product's for others.

    Raises:
        ReceiptNotReady: the caller cannot see the request completed yet.
    """
    with reading(sessions) as session:
        request, at = request_and_time(session, request_id, tenant=caller.tenant)
        receipt, times = receipt_of(session, request_id), _times(request, at=at)
    if receipt is None or not (caller.is_admin or times.shown_completed_at is not None):
        raise ReceiptNotReady("the deletion is not completed, so there is no receipt yet")
    return receipt.full_jws if caller.is_admin else receipt.product_jws


def _views(session: Session, requests: Sequence[Request], *, is_admin: bool, at: float) -> list[DeletionView]:
    by_request = targets_of_requests(session, [request.id for request in requests])
    pairs = [(request, by_request.get(request.id, [])) for request in requests]
    if not is_admin:
        return [
            _shown_view(request, [name for target, name in targets if not target.is_late], at=at)
            for request, targets in pairs
        ]
    model_ids = {target.model_id for targets in by_request.values() for target, _ in targets}
    work = _Work(jobs=jobs_at_work(session, model_ids), versions=current_versions(session, model_ids))
    return [_true_view(request, targets, work=work, at=at) for request, targets in pairs]


def _shown_view(request: Request | Standing, model_names: Sequence[str], *, at: float) -> DeletionView:
    times, status = _times(request, at=at), RequestStatus(request.status)
    done_at = times.shown_completed_at
    shown = public_target_status(status, times)
    parts = [TargetView(model=name, status=shown, completed_at=done_at, truth=None) for name in model_names]
    return _view(request, status=public_status(status, times), completed_at=done_at, targets=parts, at=at)


@dataclass(frozen=True)
class _Work:
    """What is done about the models of some targets, by model: the job at work, the current version."""

    jobs: dict[str, Job]
    versions: dict[str, Version]


def _true_view(
    request: Request, targets: Sequence[tuple[Target, str]], *, work: _Work, at: float
) -> DeletionView:
    parts = [
        TargetView(
            model=model_name, status=TargetStatus(target.status), completed_at=target.done_at,
            truth=_truth(target, work),
        )
        for target, model_name in targets
    ]  # fmt: skip
    status = RequestStatus(request.status)
    view = _view(request, status=status, completed_at=request.completed_at, targets=parts, at=at)
    return replace(view, asked=_asked(request))


def _asked(request: Request) -> JsonObject | None:
    """Return what was asked for, without where it lies."""
    return request.asked and {key: value for key, value in request.asked.items() if key != "rows"}


def _view(
    request: Request | Standing,
    *,
    status: RequestStatus,
    completed_at: float | None,
    targets: list[TargetView],
    at: float,
) -> DeletionView:
    wait = None if status in ENDED_REQUESTS else seconds_to_wait(_times(request, at=at))
    return DeletionView(
        id=request.id, kind=RequestKind(request.kind), status=status,
        posted_at=request.posted_at, due_at=request.due_at,
        days_left=days_left(request.due_at, at), completed_at=completed_at, reason_code=request.reason_code,
        request_id=request.request_uuid,
        duplicate_of=request.duplicate_of, retry_after=wait,
        targets=tuple(sorted(targets, key=lambda target: target.model)),
    )  # fmt: skip


def _truth(target: Target, work: _Work) -> TargetTruth:
    job, version = work.jobs.get(target.model_id), work.versions.get(target.model_id)
    facts = None if job is None or not _is_about(job, target) else _job_facts(job)
    return TargetTruth(
        outcome=target.outcome, num_records=target.num_records, through=target.through, reason=target.reason,
        is_retryable=target.is_retryable, findings=target.findings, interim=_interim_facts(target, version),
        job=facts,
    )  # fmt: skip


def _is_about(job: Job, target: Target) -> bool:
    """Whether a target waits for a job: not one that had ended before the target was there or sealed."""
    if target.done_at is not None:
        return False
    return job.finished_at is None or (target.through is not None and job.finished_at >= target.posted_at)


def _interim_facts(target: Target, version: Version | None) -> InterimFacts | None:
    if target.status != TargetStatus.INTERIM or version is None:
        return None
    return InterimFacts(
        version=version.number, method=version.method, guarantee=version.guarantee, covers=version.covers,
        settled=version.settled,
    )  # fmt: skip


def _job_facts(job: Job) -> JobFacts:
    return JobFacts(
        id=job.id, kind=job.kind, status=job.status, step=job.step, num_attempts=job.num_attempts,
        progress=job.progress, predicted=_predicted(job), error=job.error, refused=_refused(job),
    )  # fmt: skip


def _predicted(job: Job) -> PredictedFacts | None:
    prepared = job.outputs.get("prepare", {})
    prediction = prepared.get("prediction")
    if prediction is None or "num_all_blocks" not in prepared:
        return None
    return PredictedFacts(
        num_blocks=prediction["num_blocks"], num_all_blocks=prepared["num_all_blocks"],
        seconds=prepared.get("predicted_seconds"),
    )  # fmt: skip


def _refused(job: Job) -> list[JsonObject]:
    """Return the attempts that a gate refused, without their traces: those are long, and in the evidence."""
    attempts = job.outputs.get("refused", {}).get("attempts", [])
    return [{key: value for key, value in each.items() if key != "trace"} for each in attempts]


def _times(request: Request | Standing, *, at: float) -> Clocked:
    return Clocked(completed_at=request.completed_at, reveal_at=request.reveal_at, now=at)


def _event_view(event: Event) -> EventView:
    return EventView(
        name=event.name, at=event.at, sequence=event.sequence, body=event.body, hash=event.hash,
        previous_hash=event.previous_hash,
    )  # fmt: skip


def _as_shown(event: EventView, times: Clocked) -> EventView | None:
    if event.name != "completed":
        return event
    seen = times.shown_completed_at
    return None if seen is None else EventView(name=event.name, at=seen)
