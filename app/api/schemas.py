"""The JSON of the HTTP contract: what may come in, what goes out. Additive changes only."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from app.api.fields import (
    Base64Url,
    Name,
    NumbersByName,
    RecordId,
    RequestUuid,
    SubjectId,
    TimeIn,
    TimeOut,
)
from app.db.listing import Filters
from app.domain.status import Guarantee, Outcome, RequestKind, RequestStatus, TargetStatus

_POST_EXAMPLE: dict[str, JsonValue] = {
    "subject_id": "customer-4711",
    "models": ["churn"],
    "due_at": "2027-01-31T12:00:00Z",
    "reason_code": "art17",
}


_SubjectType = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
_ReasonCode = Annotated[str | None, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
_DueAt = Annotated[TimeIn | None, Field(description="Default: 30 days from now.")]


class _In(BaseModel):
    """What comes in: an unknown field is refused, so that a misspelt one never narrows nothing."""

    model_config = ConfigDict(extra="forbid")


class _Out(BaseModel):
    """What goes out, made from a service's view."""

    model_config = ConfigDict(from_attributes=True)


class DeletionIn(_In):
    """A deletion that a product asks for."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_POST_EXAMPLE]})

    subject_id: SubjectId = Field(description="The person, as in the imported data; never stored in clear.")
    subject_type: _SubjectType = "person"
    record_ids: list[RecordId] | None = Field(
        default=None, min_length=1, max_length=1000, description="Narrows to these records of the subject."
    )
    models: list[Name] | None = Field(
        default=None, min_length=1, max_length=100, description="Narrows to these models; default all."
    )
    due_at: _DueAt = None
    reason_code: _ReasonCode = None
    request_id: RequestUuid | None = Field(default=None, description="The caller's own id for this request.")


class ClassDeletionIn(_In):
    """A class that an admin wants a model to forget."""

    model: Name
    label: int = Field(ge=0, lt=2**31, strict=True, description="The class; its records stay in the dataset.")
    due_at: _DueAt = None
    reason_code: _ReasonCode = None
    request_id: RequestUuid | None = None


class ChangesIn(_In):
    """The true content: what is not named stays as it is."""

    label: int | None = Field(default=None, ge=0, lt=2**31, strict=True)
    features: NumbersByName | None = Field(
        default=None,
        description="Numbers by the name of their column, or by index from 0 where the source had no names.",
    )

    @model_validator(mode="after")
    def _changes_something(self) -> "ChangesIn":
        if self.label is None and self.features is None:
            raise ValueError("name a label, features, or both")
        return self


class RectificationIn(_In):
    """A record whose content is wrong, and what is true instead."""

    subject_id: SubjectId
    subject_type: _SubjectType = "person"
    record_id: RecordId = Field(description="One record of the subject; anybody else's is not touched.")
    changes: ChangesIn
    dataset: Name | None = Field(default=None, description="Needed where datasets differ in their columns.")
    due_at: _DueAt = None
    reason_code: _ReasonCode = None
    request_id: RequestUuid | None = None


class DeletionsQuery(_In):
    """What a list is narrowed to, and which page of it."""

    status: RequestStatus | None = None
    model: Name | None = None
    due_before: TimeIn | None = None
    page: str | None = Field(default=None, description="The token `next` of the page before.")
    limit: int = Field(default=50, ge=1, le=200)

    @property
    def filters(self) -> Filters:
        """The part that a page token is bound to."""
        due_before = None if self.due_before is None else self.due_before.timestamp()
        return Filters(status=self.status, model=self.model, due_before=due_before)


class AcknowledgementOut(_Out):
    """The request was stored; a repeat with the same Idempotency-Key gets this answer again."""

    id: str = Field(examples=["del_5f0cb1b0a3a94e0e8b1fb1d8a5c2b7f4"])
    status: RequestStatus = Field(description="`received`, or `held` until an admin approves it.")
    subject_type: str
    posted_at: TimeOut
    due_at: TimeOut
    reason_code: str | None
    request_id: str | None
    duplicate_of: str | None = Field(description="An open request that asks for the same.")
    commitment: Base64Url = Field(description="HMAC-SHA256(nonce, subject_type || 0 || subject_id).")
    nonce: Base64Url | None = Field(
        description="Keep it: it opens the commitment in the receipt. Null once it was destroyed here."
    )


class TargetOut(_Out):
    """The request in one model."""

    model: str
    status: TargetStatus
    completed_at: TimeOut | None


class DeletionOut(_Out):
    """Where a request stands, the same for a subject that a model held and for one that none did."""

    id: str
    kind: RequestKind
    status: RequestStatus
    posted_at: TimeOut
    due_at: TimeOut
    days_left: int
    completed_at: TimeOut | None
    reason_code: str | None
    request_id: str | None
    duplicate_of: str | None
    targets: list[TargetOut]


class PredictedOut(_Out):
    """What a job was expected to cost when it began, or when a request joined it."""

    num_blocks: int = Field(description="Blocks that are trained again, of num_all_blocks.")
    num_all_blocks: int
    seconds: float | None


class JobOut(_Out):
    """What a worker is doing about a target."""

    id: str
    kind: str
    status: str
    step: str
    num_attempts: int
    progress: dict[str, Any]
    predicted: PredictedOut | None = Field(description="What the planner foresaw; null before it looked.")
    error: str | None
    refused: list[dict[str, Any]] = Field(
        description="Attempts of an empirical method that a gate refused: method, problem, checks."
    )


class InterimOut(_Out):
    """The version that was treated for a target while the exact one is pending."""

    version: int
    method: str
    guarantee: Guarantee
    covers: int
    settled: int


class TruthOut(_Out):
    """What stands behind a target's coarse status."""

    outcome: Outcome | None = Field(
        description="`unlearned` is exact; `treated`: an empirical method, which shows nothing, was accepted."
    )
    num_records: int | None
    through: int | None = Field(description="The tombstone number that a version must cover.")
    reason: str | None
    is_retryable: bool | None
    findings: dict[str, Any] | None
    interim: InterimOut | None = Field(description="Set while the status is `interim`.")
    job: JobOut | None


class AdminTargetOut(TargetOut):
    """The request in one model, for admins."""

    truth: TruthOut


class AdminDeletionOut(DeletionOut):
    """Where a request really stands, for admins."""

    asked: dict[str, Any] | None = Field(
        description="What a class deletion or a rectification asks for; a rectification's is destroyed when "
        "it ends."
    )
    targets: list[AdminTargetOut]  # type: ignore[assignment]  # a narrower answer, never assigned to


class DeletionPageOut(_Out):
    """One page of the list."""

    items: list[AdminDeletionOut] | list[DeletionOut]
    next: str | None = Field(description="Pass it as `page` to go on; null on the last page.")


class EventOut(_Out):
    """One entry of the trail."""

    name: str
    at: TimeOut


class AdminEventOut(EventOut):
    """One entry of the hash-chained trail."""

    sequence: int
    body: dict[str, Any]
    hash: str
    previous_hash: str


class EventsOut(_Out):
    """The trail of one request, oldest first."""

    items: list[EventOut]


class AdminEventsOut(_Out):
    """The whole trail of one request, oldest first."""

    items: list[AdminEventOut]
    broken_at: int | None = Field(
        description="The sequence number of the first event that does not fit its chain; null: none."
    )


class ModelOut(_Out):
    """A named line of versions."""

    name: str
    dataset: str
    recipe_digest: str
    policy: dict[str, Any]
    training_seconds: float
    created_at: TimeOut
    aliases: dict[str, int] = Field(examples=[{"current": 3}])


class AdminModelOut(ModelOut):
    """A named line of versions, for admins."""

    num_sealed: int = Field(description="How many tombstones the model has.")


class ModelsOut(_Out):
    """All models by name."""

    items: list[AdminModelOut] | list[ModelOut]


class FileOut(_Out):
    """A file of a version; the digest is SHA-256 and its ETag."""

    name: str
    digest: str
    size: int


class VersionOut(_Out):
    """A version as its manifest states it."""

    model: str
    number: int
    status: str
    covers: int = Field(description="The tombstone number up to which it has forgotten.")
    settled: int = Field(description="The number that its exact ancestor covers.")
    guarantee: Guarantee
    method: str
    manifest_digest: str
    weights_digest: str
    parent: str | None
    combine: Literal["mean", "vote"] | None = Field(
        description="How to combine the answers of several weights files: the mean of their softmax, or a "
        "majority vote, ties broken by that mean. Null: there is one."
    )
    aliases: list[str]
    files: list[FileOut]
    manifest: dict[str, Any]
    published_at: TimeOut
    revoked_at: TimeOut | None
    purged_at: TimeOut | None


class VersionsOut(_Out):
    """All versions, oldest first."""

    items: list[VersionOut]


class MoveOut(_Out):
    """One move of an alias."""

    from_number: int | None
    to_number: int
    actor: str
    reason: str
    moved_at: TimeOut


class AliasOut(_Out):
    """An alias and its whole history, oldest first."""

    model: str
    alias: str
    version: int
    manifest_digest: str
    history: list[MoveOut]


class AliasIn(_In):
    """Where an alias shall point."""

    version: Annotated[int, Field(ge=1, lt=2**31, strict=True, examples=[2])]


class HealthOut(_Out):
    """Whether traffic may come, and what was looked at."""

    database: bool
    migrations: bool
    keys: bool


class Complaint(_Out):
    """One thing that is wrong with a request; ``pointer`` is a JSON pointer into the body."""

    detail: str
    pointer: str | None = Field(default=None, examples=["#/models/0"])
    parameter: str | None = Field(default=None, description="A query parameter or a header.")


class Problem(_Out):
    """An error answer (RFC 9457)."""

    type: str = Field(examples=["urn:expunge:problem:not-found"])
    title: str
    status: int
    detail: str
    errors: list[Complaint] | None = None
