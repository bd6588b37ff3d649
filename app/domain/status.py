"""Statuses of requests, targets, jobs and versions, and the table of legal moves.

Promises: a move that is not in the table is refused; a request's status is derived from its targets.
"""

from collections.abc import Collection
from enum import StrEnum

from app.domain.errors import IllegalMove


class RequestKind(StrEnum):
    """What a request asks for: forget a subject, forget a class, or learn a record's content anew."""

    DELETION = "deletion"
    CLASS_DELETION = "class_deletion"
    RECTIFICATION = "rectification"


class RequestStatus(StrEnum):
    """Where a request stands."""

    RECEIVED = "received"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    HELD = "held"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


class TargetStatus(StrEnum):
    """Where one request stands in one model."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    INTERIM = "interim"
    PURGING = "purging"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Outcome(StrEnum):
    """How a completed target ended; shown to admins only.

    ``unlearned`` is exact; ``treated`` says that an empirical method was applied, and no more.
    """

    UNLEARNED = "unlearned"
    TREATED = "treated"
    NO_DATA = "no_data"
    ALREADY_COVERED = "already_covered"


class JobKind(StrEnum):
    """What a worker does for one model."""

    TRAIN = "train"
    REGISTER = "register"
    SETTLE = "settle"
    INTERIM = "interim"


class JobStatus(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class VersionStatus(StrEnum):
    """The life of a version in the store."""

    STAGED = "staged"
    PUBLISHED = "published"
    SUPERSEDED = "superseded"
    PURGED = "purged"


class Guarantee(StrEnum):
    """How strong a version's claim is; ``certified`` is reserved and no method uses it."""

    EXACT = "exact"
    EMPIRICAL = "empirical"


_T = TargetStatus
_TARGET_MOVES: dict[TargetStatus, frozenset[TargetStatus]] = {
    _T.SCHEDULED: frozenset({_T.RUNNING, _T.PURGING, _T.COMPLETED, _T.FAILED, _T.CANCELLED}),
    _T.RUNNING: frozenset({_T.INTERIM, _T.PURGING, _T.FAILED, _T.SCHEDULED}),
    _T.INTERIM: frozenset({_T.RUNNING, _T.PURGING, _T.FAILED}),
    _T.PURGING: frozenset({_T.COMPLETED, _T.FAILED}),
    _T.FAILED: frozenset({_T.SCHEDULED, _T.RUNNING, _T.PURGING}),
    _T.COMPLETED: frozenset(),
    _T.CANCELLED: frozenset(),
}

ENDED_TARGETS = frozenset({_T.COMPLETED, _T.CANCELLED})
ENDED_REQUESTS = frozenset({RequestStatus.COMPLETED, RequestStatus.CANCELLED, RequestStatus.REJECTED})


def moved(current: TargetStatus, to: TargetStatus) -> TargetStatus:
    """Return ``to`` if a target may go there from ``current``; staying is always lawful.

    Raises:
        IllegalMove: the table has no such move.
    """
    if to is not current and to not in _TARGET_MOVES[current]:
        raise IllegalMove(f"a target cannot go from {current} to {to}")
    return to


def derived(targets: Collection[TargetStatus]) -> RequestStatus:
    """Return what the targets of a sealed request say about the request itself."""
    if all(status in ENDED_TARGETS for status in targets):
        return RequestStatus.COMPLETED
    unfinished = {status for status in targets if status not in ENDED_TARGETS}
    if unfinished == {TargetStatus.FAILED}:
        return RequestStatus.FAILED
    if unfinished == {TargetStatus.SCHEDULED}:
        return RequestStatus.SCHEDULED
    return RequestStatus.RUNNING
