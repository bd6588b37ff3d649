"""Every table. Columns ending in ``_at`` are UTC seconds since the epoch, by the database's clock.

Never: a subject id or record id in clear; both arrive here as keyed hashes (``subject_ref``, ``record_ref``).
"""

from typing import Any

from sqlalchemy import (
    JSON,
    Double,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.db.session import epoch_now

_NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Table(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        float: Double,
        dict[str, Any]: JSON,
        list[Any]: JSON,
        bytes: LargeBinary,
        str: String(255),
    }


class ApiKey(Table):
    """An API key: only the hash of its secret is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    secret_hash: Mapped[bytes]
    scopes: Mapped[list[Any]]
    created_at: Mapped[float] = mapped_column(insert_default=epoch_now())
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]


class Dataset(Table):
    """Records imported once and then immutable; their bytes lie in a data file."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("tenant", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    name: Mapped[str]
    subject_type: Mapped[str]
    num_records: Mapped[int]
    # {"shape": [...], "dtype": "uint8", "num_classes": n, ...}: the layout of one row of the data file.
    layout: Mapped[dict[str, Any]]
    created_at: Mapped[float] = mapped_column(insert_default=epoch_now())


class Record(Table):
    """One training example; ``row`` is its place in the data file. Purge deletes this row."""

    __tablename__ = "records"
    __table_args__ = (
        Index("ix_records_subject", "dataset_id", "subject_ref"),
        Index("ix_records_record_ref", "dataset_id", "record_ref"),
    )

    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    row: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    record_ref: Mapped[bytes]
    subject_ref: Mapped[bytes]
    salt: Mapped[bytes]
    content_digest: Mapped[bytes]
    is_held_out: Mapped[bool]
    spread: Mapped[int]
    likelihood: Mapped[float | None]


class Model(Table):
    """A named line of versions with one recipe and one policy.

    ``num_sealed`` is the highest tombstone number given; it only changes under this row's lock.
    """

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("tenant", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    name: Mapped[str]
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    recipe: Mapped[dict[str, Any]]
    recipe_digest: Mapped[str]
    policy: Mapped[dict[str, Any]]
    num_sealed: Mapped[int] = mapped_column(default=0)
    training_seconds: Mapped[float]
    created_at: Mapped[float] = mapped_column(insert_default=epoch_now())

    @property
    def has_plan(self) -> bool:
        """Whether it is trained here. One that was registered has a recipe without plan numbers."""
        return "plan" in self.recipe


class Placement(Table):
    """Where the plan of one model puts one record. Held-out records have none, nor models without a plan."""

    __tablename__ = "placements"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    row: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    shard: Mapped[int]
    block: Mapped[int]
    token: Mapped[bytes]


class Request(Table):
    """A request: to delete a subject, to delete a class, or to correct a record.

    ``subject_refs``, ``nonce`` and what a rectification ``asked`` for are destroyed at completion.
    """

    __tablename__ = "requests"
    __table_args__ = (
        Index("ix_requests_page", "tenant", "posted_at", "id"),
        Index("ix_requests_status", "status", "seal_at"),
        Index(
            "ix_requests_nonce",
            "completed_at",
            sqlite_where=text("nonce IS NOT NULL"),
            postgresql_where=text("nonce IS NOT NULL"),
        ),
        # A post looks for an open request that asks for the same.
        Index(
            "ix_requests_match",
            "tenant",
            "match_mac",
            sqlite_where=text("match_mac IS NOT NULL"),
            postgresql_where=text("match_mac IS NOT NULL"),
        ),
        # Pages of the list, by status and by due date.
        Index("ix_requests_status_page", "tenant", "status", "posted_at", "id"),
        Index("ix_requests_due", "tenant", "due_at", "id"),
        UniqueConstraint("tenant", "request_uuid"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    status: Mapped[str]
    request_uuid: Mapped[str | None]
    # What was asked for under request_uuid, mixed with it; kept as long as request_uuid is.
    uuid_mac: Mapped[bytes | None]
    duplicate_of: Mapped[str | None]
    kind: Mapped[str] = mapped_column(server_default="deletion", default="deletion")
    # Of a class deletion {"label": n}; of a rectification the changes, and once it is sealed the rows:
    # {"label": n, "features": {name: value}, "rows": {dataset id: [before, after]}}.
    asked: Mapped[dict[str, Any] | None]
    subject_type: Mapped[str]
    subject_refs: Mapped[list[Any] | None]
    record_refs: Mapped[dict[str, Any] | None]
    is_narrowed_by_models: Mapped[bool]
    match_mac: Mapped[bytes | None]
    reason_code: Mapped[str | None]
    commitment: Mapped[bytes]
    nonce: Mapped[bytes | None]
    posted_at: Mapped[float]
    due_at: Mapped[float]
    seal_at: Mapped[float]
    reveal_at: Mapped[float]
    sealed_at: Mapped[float | None]
    completed_at: Mapped[float | None]


class Target(Table):
    """One request in one model: the unit that has a status.

    ``through`` is the tombstone number that a version must cover; None when the model held nothing.
    """

    __tablename__ = "targets"
    __table_args__ = (
        UniqueConstraint("request_id", "model_id"),
        Index("ix_targets_model", "model_id", "status"),
        Index("ix_targets_page", "model_id", "posted_at", "request_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    request_id: Mapped[str] = mapped_column(ForeignKey("requests.id"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    # The request's own, for pages of one model's requests; never changes.
    posted_at: Mapped[float]
    status: Mapped[str]
    outcome: Mapped[str | None]
    through: Mapped[int | None]
    num_records: Mapped[int | None]
    # The model was created after the request was posted. A request for a subject nobody held is closed by
    # then and gets no such target, so products never see one.
    is_late: Mapped[bool] = mapped_column(default=False)
    reason: Mapped[str | None] = mapped_column(Text)
    is_retryable: Mapped[bool | None]
    # What was purged for this target and what remains; goes into the full receipt.
    findings: Mapped[dict[str, Any] | None]
    # When everything of the model that saw the records was gone; before that the request cannot be closed.
    purged_at: Mapped[float | None]
    done_at: Mapped[float | None]


class Tombstone(Table):
    """One record that no job reaching ``number`` may train on.

    ``replaced_by`` is the row with the corrected content, which every job reaching ``number`` trains on in
    the record's place, and none before; where it is ``row`` itself, no job trains on that row at all. After
    the purge only number, shard and first position are left: ``row``, ``replaced_by`` and ``request_id`` are
    None. A class deletion's rows stay: their bytes do too.
    """

    __tablename__ = "tombstones"
    __table_args__ = (Index("ix_tombstones_row", "model_id", "row"),)

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    request_id: Mapped[str | None]
    row: Mapped[int | None]
    shard: Mapped[int | None]
    position: Mapped[int | None]
    replaced_by: Mapped[int | None]


class Job(Table):
    """What a worker does for one model. The row is the outbox; dispatch is a hint."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index(
            "uq_jobs_queued",
            "model_id",
            "kind",
            unique=True,
            sqlite_where=text("status = 'queued'"),
            postgresql_where=text("status = 'queued'"),
        ),
        Index(
            "uq_jobs_running",
            "model_id",
            "kind",
            unique=True,
            sqlite_where=text("status = 'running'"),
            postgresql_where=text("status = 'running'"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    kind: Mapped[str]
    status: Mapped[str]
    step: Mapped[str]
    # None: any worker may take it; otherwise the digest that the worker's fingerprint must have.
    environment_digest: Mapped[str | None]
    # When it may be claimed: the end of its batch window, or earlier. None: it is parked at its step until
    # something else lets it go on.
    start_at: Mapped[float | None] = mapped_column(server_default=text("0"), default=0.0)
    owner: Mapped[str | None]
    fence: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[float | None]
    num_attempts: Mapped[int] = mapped_column(default=0)
    num_without_progress: Mapped[int] = mapped_column(default=0)
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    # One entry a step: what the step found out, and later steps read.
    outputs: Mapped[dict[str, Any]] = mapped_column(default=dict)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[float] = mapped_column(insert_default=epoch_now())
    claimed_at: Mapped[float | None]
    finished_at: Mapped[float | None]


class Worker(Table):
    """A worker that was heard of at ``seen_at``; what only it could run waits when it is gone."""

    __tablename__ = "workers"

    owner: Mapped[str] = mapped_column(primary_key=True)
    device_class: Mapped[str]
    environment_digest: Mapped[str]
    seen_at: Mapped[float]


class Version(Table):
    """A published, immutable model, named by the digest of its manifest."""

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("model_id", "number"), UniqueConstraint("job_id"))

    id: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    parent_id: Mapped[str | None]
    status: Mapped[str]
    covers: Mapped[int]
    settled: Mapped[int]
    guarantee: Mapped[str]
    method: Mapped[str]
    manifest_digest: Mapped[str]
    weights_digest: Mapped[str]
    # Digest of the machine it was trained on (without what the recipe fixes, such as threads).
    environment_digest: Mapped[str]
    # Stays after the purge, as the record of what was published.
    manifest: Mapped[dict[str, Any]]
    published_at: Mapped[float]
    revoked_at: Mapped[float | None]
    purged_at: Mapped[float | None]


class VersionFile(Table):
    """A file of a version; ``name`` is ours, never a client's."""

    __tablename__ = "version_files"

    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str]
    size: Mapped[int]


class Checkpoint(Table):
    """Resumable training state after ``position`` of ``shard``; internal and purgeable.

    ``key`` digests every input of the state: a changed input can only miss. ``settled`` is the tombstone
    number up to which forgotten records were left out when it was made.
    """

    __tablename__ = "checkpoints"
    __table_args__ = (
        Index("ix_checkpoints_key", "model_id", "key"),
        Index("ix_checkpoints_position", "model_id", "shard", "position"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    role: Mapped[str]
    key: Mapped[str]
    shard: Mapped[int]
    position: Mapped[int]
    settled: Mapped[int]
    digest: Mapped[str]
    state_digest: Mapped[str]
    size: Mapped[int]
    created_at: Mapped[float] = mapped_column(insert_default=epoch_now())


class Blob(Table):
    """A blob that the store holds or is about to hold; locked while it is put or unlinked."""

    __tablename__ = "blobs"

    digest: Mapped[str] = mapped_column(primary_key=True)


class BlobReference(Table):
    """Who needs a blob: ``version:ID``, ``checkpoint:ID`` or ``job:ID``. No reference, no blob."""

    __tablename__ = "blob_references"
    __table_args__ = (Index("ix_blob_references_owner", "owner"),)

    digest: Mapped[str] = mapped_column(ForeignKey("blobs.digest"), primary_key=True)
    owner: Mapped[str] = mapped_column(primary_key=True)


class Alias(Table):
    """A named pointer to a version."""

    __tablename__ = "aliases"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"))


class AliasMove(Table):
    """Append-only history of an alias."""

    __tablename__ = "alias_moves"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    name: Mapped[str]
    from_number: Mapped[int | None]
    to_number: Mapped[int]
    actor: Mapped[str]
    reason: Mapped[str]
    moved_at: Mapped[float] = mapped_column(insert_default=epoch_now())


class ScratchCopy(Table):
    """A temporary copy of records outside the data files (the oracle's); purged like any artifact."""

    __tablename__ = "scratch_copies"

    id: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    settled: Mapped[int]
    created_at: Mapped[float] = mapped_column(insert_default=epoch_now())


class Event(Table):
    """The audit trail, hash-chained per request."""

    __tablename__ = "events"

    request_id: Mapped[str] = mapped_column(ForeignKey("requests.id"), primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[float]
    name: Mapped[str]
    body: Mapped[dict[str, Any]]
    previous_hash: Mapped[str]
    hash: Mapped[str]


class IdempotencyKey(Table):
    """The first answer to a POST; ``key_mac`` and ``body_mac`` are keyed hashes."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)

    tenant: Mapped[str] = mapped_column(primary_key=True)
    key_mac: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    body_mac: Mapped[bytes]
    request_id: Mapped[str] = mapped_column(ForeignKey("requests.id"))
    created_at: Mapped[float]


class Suppression(Table):
    """A subject (or, when narrowed, one record) whose later data must not be imported."""

    __tablename__ = "suppressions"
    __table_args__ = (
        Index("ix_suppressions_subject", "tenant", "subject_ref"),
        Index("ix_suppressions_expires_at", "expires_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    tenant: Mapped[str]
    request_id: Mapped[str]
    subject_ref: Mapped[bytes | None]
    record_ref: Mapped[bytes | None]
    expires_at: Mapped[float]


class Receipt(Table):
    """The signed statements that close a request, as compact JWS."""

    __tablename__ = "receipts"

    request_id: Mapped[str] = mapped_column(ForeignKey("requests.id"), primary_key=True)
    product_jws: Mapped[str] = mapped_column(Text)
    full_jws: Mapped[str] = mapped_column(Text)
    signed_at: Mapped[float]


class SchemaNote(Table):
    """Facts about this database that must not change silently (which keys its hashes were made with)."""

    __tablename__ = "schema_notes"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
