"""Frozen values and ids that travel between the rooms.

Promises: values never change after they are made and know nothing of SQL, HTTP or tensors.
Times are UTC, in seconds since the epoch, read from the database's clock.
"""

from dataclasses import dataclass
from typing import NewType

from app.domain.status import JobKind, JobStatus, RequestKind

TenantName = NewType("TenantName", str)
RequestId = NewType("RequestId", str)
TargetId = NewType("TargetId", str)
ModelId = NewType("ModelId", str)
DatasetId = NewType("DatasetId", str)
VersionId = NewType("VersionId", str)
JobId = NewType("JobId", str)
CheckpointId = NewType("CheckpointId", str)
KeyId = NewType("KeyId", str)

JsonValue = str | int | float | bool | None | list["JsonValue"] | dict[str, "JsonValue"]
JsonObject = dict[str, JsonValue]

DEFAULT_TENANT = TenantName("default")
CURRENT_ALIAS = "current"


@dataclass(frozen=True)
class Claim:
    """One worker's right to work on one job until the lease ends; ``fence`` is checked by every write."""

    job_id: JobId
    model_id: ModelId
    kind: JobKind
    step: str
    owner: str
    fence: int


@dataclass(frozen=True)
class JobView:
    """A job as its followers see it."""

    id: JobId
    model_id: ModelId
    kind: JobKind
    status: JobStatus
    step: str
    num_attempts: int
    progress: JsonObject
    outputs: JsonObject
    error: str | None


@dataclass(frozen=True)
class Submission:
    """What a product asks for, after the raw ids became keyed hashes at the door.

    ``subject_refs`` holds one 32-byte hash for each live key, the primary first; ``record_refs`` narrows to
    records of that subject, one list for each dataset; None means all of them. ``suppression_refs`` name
    the same records in whatever dataset they may be imported with later. ``dataset`` is the one that the
    request names, if it names any.

    A class deletion has no subject; ``asked`` is ``{"label": n}``. A rectification has one record, named in
    each dataset in its scope; ``asked`` is its changes, and it waits for an admin whatever the policies say.
    """

    subject_refs: tuple[bytes, ...]
    subject_type: str
    commitment: bytes
    nonce: bytes
    models: tuple[str, ...] | None = None
    record_refs: dict[DatasetId, tuple[bytes, ...]] | None = None
    suppression_refs: tuple[bytes, ...] = ()
    dataset: str | None = None
    due_at: float | None = None
    reason_code: str | None = None
    request_uuid: str | None = None
    kind: RequestKind = RequestKind.DELETION
    asked: JsonObject | None = None
