"""Purge what saw forgotten records: checkpoints, versions, scratch copies. Absent means done already.

Purge comes last and tombstones come first: at this point no alias points at any of it.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.jobs import checkpoints_of, fenced, now
from app.db.models import alias_version, lock_model, versions_of
from app.db.records import marks_of, was_met
from app.db.requests import targets_covered
from app.db.session import Sessions, writing
from app.db.tables import Blob, Checkpoint, Job, Model, ScratchCopy, Target, Version
from app.domain.coverage import Artifact, Mark, is_clean
from app.domain.status import JobStatus, Outcome, TargetStatus, VersionStatus
from app.domain.terms import Claim, JsonObject, JsonValue
from app.services.checkpoint import REFERENCE, TEMPORARY_ROLES, forget_checkpoints
from app.services.move_target import move_target
from app.services.publish import version_findings
from app.services.references import drop_references, unlink_unreferenced
from models_store.blobs import BlobStore


@dataclass(frozen=True)
class Purged:
    """What one purge removed."""

    versions: list[str]
    num_checkpoints: int
    num_scratch_copies: int
    blobs: list[str]

    def to_json(self) -> JsonObject:
        """Return it as it stands in the receipt."""
        versions: list[JsonValue] = list(self.versions)
        blobs: list[JsonValue] = list(self.blobs)
        return {
            "versions": versions,
            "num_checkpoints": self.num_checkpoints,
            "num_scratch_copies": self.num_scratch_copies,
            "blobs": blobs,
        }


def purge(sessions: Sessions, claim: Claim, *, covers: int, store: BlobStore, scratch: Path) -> Purged:
    """Remove every artifact of the model that saw a tombstone up to ``covers``, and move the targets on."""
    with writing(sessions) as session:
        job = fenced(session, claim)
        model = lock_model(session, claim.model_id)
        marks = marks_of(session, model.id, through=covers)
        _drop_doubled_references(session, job, store=store)
        purged = _purge(session, model, marks=marks, store=store, scratch=scratch)
        for target in targets_covered(session, model.id, covers=covers):
            move_target(session, target, TargetStatus.PURGING)
            if target.outcome is None:
                _say_covered(session, model, target)
            target.purged_at = target.purged_at or now(session)
            # A second run finds nothing left to remove: what the first one removed stays on record.
            earlier = (target.findings or {}).get("purged")
            target.findings = {**(target.findings or {}), "purged": earlier or purged.to_json()}
        return purged


def _say_covered(session: Session, model: Model, target: Target) -> None:
    """Say how a target was finished for which no version had to be made."""
    current = alias_version(session, model.id)
    if current is None or (target.through or 0) <= current.settled or not was_met(session, target):
        target.outcome = Outcome.ALREADY_COVERED
    else:
        target.outcome, target.findings = Outcome.TREATED, version_findings(session, current)


def _purge(session: Session, model: Model, *, marks: list[Mark], store: BlobStore, scratch: Path) -> Purged:
    ended = _ended_jobs(session, model)
    checkpoints = [
        row
        for row in checkpoints_of(session, model.id)
        if not _is_clean_checkpoint(row, marks) or (row.job_id in ended and row.role in TEMPORARY_ROLES)
    ]
    blobs = forget_checkpoints(session, checkpoints, store=store)
    versions = [row for row in versions_of(session, model.id) if _is_revoked(row)]
    digests = [digest for row in versions for digest in drop_references(session, f"version:{row.id}")]
    for row in versions:
        row.status, row.purged_at = VersionStatus.PURGED, now(session)
    # What failed jobs had staged for a version that never came may have seen anybody.
    digests += [digest for job_id in ended for digest in drop_references(session, f"job:{job_id}")]
    digests += _strays(session, store)
    blobs += unlink_unreferenced(session, digests, store=store)
    num_copies = _purge_scratch(session, model, marks=marks, scratch=scratch)
    names = [row.manifest_digest for row in versions]
    return Purged(
        versions=names, num_checkpoints=len(checkpoints), num_scratch_copies=num_copies, blobs=sorted(blobs)
    )


def _drop_doubled_references(session: Session, job: Job, *, store: BlobStore) -> None:
    """Forget what earlier runs kept of weights that this one has kept as well: from its resume points on.

    Packs end where a run kept a whole state, which differs from run to run, so the same weights would pile
    up. Not before the version is out: until then the earlier one needs its own.
    """
    rows = [row for row in checkpoints_of(session, job.model_id) if row.role == REFERENCE]
    doubled: list[Checkpoint] = []
    for shard, after in enumerate(job.outputs.get("unlearn", {}).get("resumed_after", [])):
        in_shard = [row for row in rows if row.shard == shard]
        until = max((row.position for row in in_shard if row.job_id == job.id), default=after)
        doubled += [row for row in in_shard if row.job_id != job.id and after < row.position <= until]
    forget_checkpoints(session, doubled, store=store)


def _ended_jobs(session: Session, model: Model) -> set[str]:
    ended = [JobStatus.FAILED, JobStatus.SUCCEEDED]
    return set(session.scalars(select(Job.id).where(Job.model_id == model.id, Job.status.in_(ended))))


def _strays(session: Session, store: BlobStore) -> list[str]:
    """Return blobs that no row knows: a worker that had lost its lease wrote them after they were purged.

    Whoever puts a blob registers it first, so nothing that is still to be used can be among them.
    """
    return [digest for digest in store.digests() if session.get(Blob, digest) is None]


def _is_clean_checkpoint(row: Checkpoint, marks: list[Mark]) -> bool:
    return is_clean(Artifact(shard=row.shard, position=row.position, settled=row.settled), marks)


def _is_revoked(row: Version) -> bool:
    return row.revoked_at is not None and row.purged_at is None


def _purge_scratch(session: Session, model: Model, *, marks: list[Mark], scratch: Path) -> int:
    num_gone = 0
    for copy in session.scalars(select(ScratchCopy).where(ScratchCopy.model_id == model.id)):
        if is_clean(Artifact(shard=None, position=None, settled=copy.settled), marks):
            continue
        folder = scratch / copy.id
        if folder.exists():
            shutil.rmtree(folder)
        session.delete(copy)
        num_gone += 1
    return num_gone
