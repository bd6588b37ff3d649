"""Checkpoints: register a state before its bytes are written, and find resume points."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.ids import new_id
from app.db.jobs import checkpoints_with_keys, fenced
from app.db.records import marks_of
from app.db.session import Sessions, reading, writing
from app.db.tables import Checkpoint
from app.domain.coverage import Artifact, Mark, is_clean
from app.domain.terms import CheckpointId, Claim, JobId, ModelId
from app.services.references import add_reference, drop_references, unlink_unreferenced
from models_store.blobs import BlobStore, Digest, digest_of

# They serve one job only.
TEMPORARY_ROLES = ("rolling", "witness")
# Nothing resumes from weights alone.
REFERENCE = "reference"


@dataclass(frozen=True)
class CheckpointFacts:
    """What the database keeps about a state. Roles: policy, final, rolling, witness, reference."""

    role: str
    key: str
    shard: int
    position: int
    settled: int
    state_digest: str


@dataclass(frozen=True)
class CheckpointView:
    """A checkpoint as a resume point; ``digest`` names its blob."""

    id: CheckpointId
    job_id: JobId
    role: str
    key: str
    shard: int
    position: int
    settled: int
    digest: str
    state_digest: str


def register_checkpoint(
    sessions: Sessions,
    claim: Claim,
    facts: CheckpointFacts,
    *,
    data: bytes,
    store: BlobStore,
    resumed_from: str | None = None,
) -> str:
    """Register a state and return the digest under which the caller puts ``data`` next.

    A job's newer rolling checkpoint replaces the older, but not the one that this attempt resumed from:
    its lineage is judged before the version is published. One transaction before the bytes: a row whose
    blob never came is a miss when somebody looks for it.
    """
    digest = digest_of(data)
    with writing(sessions) as session:
        job = fenced(session, claim)
        furthest = _furthest(session, claim, facts)
        stale = [row for row in _same_place(session, claim, facts) if row.digest != resumed_from]
        checkpoint = Checkpoint(
            id=new_id("ckp"),
            model_id=claim.model_id,
            job_id=claim.job_id,
            role=facts.role,
            key=facts.key,
            shard=facts.shard,
            position=facts.position,
            settled=facts.settled,
            digest=digest,
            state_digest=facts.state_digest,
            size=len(data),
        )
        session.add(checkpoint)
        add_reference(session, digest, owner=f"checkpoint:{checkpoint.id}")
        forget_checkpoints(session, stale, store=store)
        if facts.role != REFERENCE and facts.position > furthest:
            job.num_without_progress = 0
    return digest


def find_checkpoints(
    sessions: Sessions, model_id: ModelId, *, keys: Sequence[str], covers: int, store: BlobStore
) -> list[CheckpointView]:
    """Return the checkpoints made from exactly these inputs that saw nobody forgotten, with their blobs."""
    with reading(sessions) as session:
        marks = marks_of(session, model_id, through=covers)
        found = [
            _view(row) for row in checkpoints_with_keys(session, model_id, keys=keys) if _is_clean(row, marks)
        ]
    return [view for view in found if store.has(Digest(view.digest))]


def rolling_state(sessions: Sessions, claim: Claim, *, key: str, store: BlobStore) -> str | None:
    """Return the digest of the state that this job keeps under a key of its own, if its blob is there.

    Clean or not: for a method that starts from weights that saw the forgotten, and says so.
    """
    query = select(Checkpoint.digest).where(
        Checkpoint.job_id == claim.job_id, Checkpoint.role == "rolling", Checkpoint.key == key
    )
    with reading(sessions) as session:
        digest = session.scalar(query)
    return digest if digest is not None and store.has(Digest(digest)) else None


def forget_checkpoints(session: Session, checkpoints: Sequence[Checkpoint], *, store: BlobStore) -> list[str]:
    """Delete checkpoint rows with their references; return the digests whose blobs were unlinked."""
    digests: list[str] = []
    for checkpoint in checkpoints:
        digests += drop_references(session, f"checkpoint:{checkpoint.id}")
        session.delete(checkpoint)
    return unlink_unreferenced(session, digests, store=store)


def _furthest(session: Session, claim: Claim, facts: CheckpointFacts) -> int:
    """Return the furthest position this job has kept: saving an earlier one again is no progress.

    What it kept before somebody joined does not count: the shard may have gone back for that.
    """
    query = select(func.max(Checkpoint.position)).where(
        Checkpoint.job_id == claim.job_id,
        Checkpoint.shard == facts.shard,
        Checkpoint.settled >= facts.settled,
        Checkpoint.role != REFERENCE,
    )
    kept = session.scalar(query)
    return -2 if kept is None else kept


def _same_place(session: Session, claim: Claim, facts: CheckpointFacts) -> Sequence[Checkpoint]:
    """Return what the new checkpoint replaces: this job's rolling one, or its own earlier attempt."""
    query = select(Checkpoint).where(
        Checkpoint.job_id == claim.job_id, Checkpoint.role == facts.role, Checkpoint.shard == facts.shard
    )
    if facts.role != "rolling":
        query = query.where(Checkpoint.position == facts.position)
    return session.scalars(query).all()


def _is_clean(row: Checkpoint, marks: Sequence[Mark]) -> bool:
    artifact = Artifact(shard=row.shard, position=row.position, settled=row.settled)
    return is_clean(artifact, marks)


def _view(row: Checkpoint) -> CheckpointView:
    return CheckpointView(
        id=CheckpointId(row.id),
        job_id=JobId(row.job_id),
        role=row.role,
        key=row.key,
        shard=row.shard,
        position=row.position,
        settled=row.settled,
        digest=row.digest,
        state_digest=row.state_digest,
    )
