"""Publish a version: one transaction makes it visible, moves the alias and revokes what it replaces.

Promises: publishing the same job twice gives one version; an alias never moves to less coverage; from
here on nobody fetches a version that saw what this one has forgotten. An exact version that an interim one
has overtaken is staged instead, as the base of the next (see ``app.services.park``).
"""

from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.ids import new_id
from app.db.jobs import fenced, now
from app.db.models import (
    alias_version,
    coverage_of,
    lock_model,
    next_version_number,
    version_of_job,
    version_with_manifest,
    versions_of,
)
from app.db.records import marks_of, was_met
from app.db.requests import targets_covered
from app.db.session import Sessions, reading, writing
from app.db.tables import Alias, AliasMove, Job, Model, Target, Version, VersionFile
from app.domain.coverage import Coverage, may_follow, may_revoke
from app.domain.errors import CoverageWouldFall, Overtaken
from app.domain.status import (
    Guarantee,
    JobKind,
    JobStatus,
    Outcome,
    TargetStatus,
    VersionStatus,
)
from app.domain.terms import CURRENT_ALIAS, Claim, JsonObject, ModelId
from app.services.move_target import move_target
from app.services.park import park, unpark
from app.services.queue_job import RETRAIN, policy_of, queue_job
from app.services.references import add_reference
from models_store.manifest import Manifest


@dataclass(frozen=True)
class PublishedVersion:
    """What a publication made, or what stands already."""

    number: int
    manifest_digest: str
    weights_digest: str
    covers: int
    settled: int
    environment_digest: str
    is_staged: bool


def publish(
    sessions: Sessions, claim: Claim, manifest: Manifest, *, environment_digest: str
) -> PublishedVersion:
    """Make the job's version visible; its blobs, the manifest's too, are in the store already.

    An interim version that is no better than the current one is not published: the current one is returned.

    Raises:
        LeaseLost: another worker holds the job.
        CoverageWouldFall: the current version has forgotten more than this one.
    """
    with writing(sessions) as session:
        job = fenced(session, claim)
        model = lock_model(session, claim.model_id)
        published = version_of_job(session, job.id)
        if published is not None:
            return _published(published)
        current = alias_version(session, model.id)
        if current is not None and _is_overtaken(claim.kind, manifest, current=current):
            _queue_again(session, model, covers=manifest.covers, current=current)
            return _published(current)
        version = insert_version(session, job, manifest=manifest, environment_digest=environment_digest)
        if current is not None and current.covers > version.covers:
            _stage(session, model, job=job, version=version, current=current)
        else:
            _make_current(session, model, job=job, version=version)
        return _published(version)


def _is_overtaken(kind: JobKind, manifest: Manifest, *, current: Version) -> bool:
    """Whether an interim version adds nothing to the current one; an exact one always does."""
    candidate = Coverage(covers=manifest.covers, settled=manifest.settled)
    known = Coverage(covers=current.covers, settled=current.settled)
    return kind is JobKind.INTERIM and (candidate == known or not may_follow(known, candidate))


def _stage(session: Session, model: Model, *, job: Job, version: Version, current: Version) -> None:
    """Keep an exact version that covers less than the current one as the base of an interim version."""
    if version.settled <= current.settled:
        raise CoverageWouldFall(f"version {version.number} has forgotten less than the current one has")
    version.status = VersionStatus.STAGED
    for target in _unpublished(session, model, covers=version.settled):
        target.outcome, target.findings = Outcome.UNLEARNED, version_findings(session, version)
    park(session, model, job)


def _make_current(session: Session, model: Model, *, job: Job, version: Version) -> None:
    _move_current(session, model, version=version, why=f"published by {job.id}")
    _revoke_replaced(session, model, published=version)
    if version.guarantee == Guarantee.EXACT:
        _mark_settled_targets(session, model, version=version)
        _update_waiting_jobs(session, model, environment_digest=version.environment_digest)
    elif job.kind == JobKind.INTERIM:
        _mark_interim_targets(session, model, version=version)
    else:
        _mark_treated_targets(session, model, version=version)
    if job.kind == JobKind.INTERIM:
        unpark(session, model, settled=version.settled)


def require_needed(sessions: Sessions, claim: Claim, *, settled: int) -> None:
    """Make sure that an interim version made from what is ``settled`` could still be published.

    Raises:
        Overtaken: an exact version has settled more meanwhile, and what the job reads may be purged.
    """
    current = current_version(sessions, claim.model_id)
    if claim.kind is JobKind.INTERIM and current is not None and current.settled > settled:
        raise Overtaken(f"version {current.number} has settled more than what {claim.job_id} began from")


def give_way(sessions: Sessions, claim: Claim, *, covers: int) -> None:
    """Queue another interim job when an exact version came first that covers less than this one would."""
    with writing(sessions) as session:
        fenced(session, claim)
        model = lock_model(session, claim.model_id)
        current = alias_version(session, model.id)
        if current is not None:
            _queue_again(session, model, covers=covers, current=current)


def _queue_again(session: Session, model: Model, *, covers: int, current: Version) -> None:
    if covers > current.covers and policy_of(model).interim_method is not None:
        queue_job(session, model, kind=JobKind.INTERIM)


def current_version(sessions: Sessions, model_id: ModelId) -> PublishedVersion | None:
    """Return what the alias ``current`` points at."""
    with reading(sessions) as session:
        version = alias_version(session, model_id)
        return None if version is None else _published(version)


def move_alias(session: Session, model: Model, *, alias: str, version: Version, actor: str, why: str) -> None:
    """Point an alias at a version and append to its history. The caller has checked that it may.

    Raises:
        CoverageWouldFall: either number of the new version is lower.
    """
    before = alias_version(session, model.id, alias=alias)
    candidate = Coverage(covers=version.covers, settled=version.settled)
    if not may_follow(coverage_of(before), candidate):
        raise CoverageWouldFall(f"version {version.number} has forgotten less than {alias} has")
    session.merge(Alias(model_id=model.id, name=alias, version_id=version.id))
    session.add(
        AliasMove(
            model_id=model.id,
            name=alias,
            from_number=None if before is None else before.number,
            to_number=version.number,
            actor=actor,
            reason=why,
        )
    )


def insert_version(session: Session, job: Job, *, manifest: Manifest, environment_digest: str) -> Version:
    """Add the version that a job has made, with its files and the references to their blobs."""
    parent = version_with_manifest(session, job.model_id, digest=manifest.parent)
    version = Version(
        id=new_id("ver"),
        model_id=job.model_id,
        number=next_version_number(session, job.model_id),
        job_id=job.id,
        parent_id=None if parent is None else parent.id,
        status=VersionStatus.PUBLISHED,
        covers=manifest.covers,
        settled=manifest.settled,
        guarantee=Guarantee(manifest.guarantee),
        method=manifest.method,
        manifest_digest=manifest.digest,
        weights_digest=manifest.weights_digest,
        environment_digest=environment_digest,
        manifest=manifest.to_json(),
        published_at=now(session),
    )
    session.add(version)
    session.flush()
    own = f"version:{version.id}"
    for file in manifest.files:
        session.add(VersionFile(version_id=version.id, name=file.name, digest=file.digest, size=file.size))
        add_reference(session, file.digest, owner=own)
    add_reference(session, manifest.digest, owner=own)
    return version


def _move_current(session: Session, model: Model, *, version: Version, why: str) -> None:
    before = alias_version(session, model.id)
    move_alias(session, model, alias=CURRENT_ALIAS, version=version, actor="worker", why=why)
    if before is not None:
        before.status = VersionStatus.SUPERSEDED


def _revoke_replaced(session: Session, model: Model, *, published: Version) -> None:
    """Nobody fetches what the new version replaces; aliases on it move along."""
    marks = marks_of(session, model.id, through=published.covers)
    new = Coverage(covers=published.covers, settled=published.settled)
    for version in versions_of(session, model.id):
        known = Coverage(covers=version.covers, settled=version.settled)
        is_replaced = any(may_revoke(known, mark, published=new) for mark in marks)
        if version.revoked_at is not None or not is_replaced:
            continue
        version.revoked_at = now(session)
        names = select(Alias.name).where(Alias.version_id == version.id)
        for name in session.scalars(names).all():
            why = f"version {version.number} was revoked"
            move_alias(session, model, alias=name, version=published, actor="worker", why=why)


def _mark_settled_targets(session: Session, model: Model, *, version: Version) -> None:
    """Targets that this exact version satisfies wait for the purge now."""
    for target in _unpublished(session, model, covers=version.settled):
        trained = version.method == "train"
        target.outcome = Outcome.ALREADY_COVERED if trained else Outcome.UNLEARNED
        target.findings = version_findings(session, version)
        # A training only covers; the settle job that waits for it purges and moves the target on.
        if not trained:
            _move_to_purging(session, target, version=version)


def _mark_treated_targets(session: Session, model: Model, *, version: Version) -> None:
    """Targets that the policy lets this empirical version finish wait for the purge now.

    Whoever its exact ancestor has left out already, or training never met, is not treated: purging says so.
    """
    for target in _unpublished(session, model, covers=version.covers):
        if (target.through or 0) > version.settled and was_met(session, target):
            target.outcome, target.findings = Outcome.TREATED, version_findings(session, version)
            _move_to_purging(session, target, version=version)


def _unpublished(session: Session, model: Model, *, covers: int) -> list[Target]:
    """Return the covered targets for which no version was published that finishes them.

    For the others that version has been said and acted on: they only wait, for other models perhaps.
    """
    covered = targets_covered(session, model.id, covers=covers)
    return [target for target in covered if target.status != TargetStatus.PURGING]


def _move_to_purging(session: Session, target: Target, *, version: Version) -> None:
    move_target(
        session, target, TargetStatus.PURGING, version=version.number, manifest=version.manifest_digest
    )


def _mark_interim_targets(session: Session, model: Model, *, version: Version) -> None:
    """Targets that this version was treated for show it; they still wait for the exact one."""
    for target in targets_covered(session, model.id, covers=version.covers):
        if target.status == TargetStatus.SCHEDULED:
            move_target(session, target, TargetStatus.RUNNING)
        if target.status == TargetStatus.RUNNING and (target.through or 0) > version.settled:
            move_target(
                session, target, TargetStatus.INTERIM, version=version.number,
                manifest=version.manifest_digest, method=version.method,
            )  # fmt: skip


def version_findings(session: Session, version: Version) -> JsonObject:
    """Return what the full receipt says of the version that satisfies a target."""
    parent = session.get(Version, version.parent_id) if version.parent_id else None
    return {
        "version": version.number,
        "version_before": None if parent is None else parent.manifest_digest,
        "version_after": version.manifest_digest,
        "weights_digest": version.weights_digest,
        "guarantee": version.guarantee,
        "method": version.method,
        "plan_key_id": version.manifest["plan_key_id"],
        "evidence": version.manifest["evidence"],
        "environment": version.manifest["environment"],
    }


def _update_waiting_jobs(session: Session, model: Model, *, environment_digest: str) -> None:
    """A settle job that was queued during training replays in the environment of that training."""
    if policy_of(model).final_method == RETRAIN:
        return
    waiting = update(Job).where(
        Job.model_id == model.id, Job.kind == JobKind.SETTLE, Job.status == JobStatus.QUEUED
    )
    session.execute(waiting.values(environment_digest=environment_digest))


def _published(version: Version) -> PublishedVersion:
    return PublishedVersion(
        number=version.number,
        manifest_digest=version.manifest_digest,
        weights_digest=version.weights_digest,
        covers=version.covers,
        settled=version.settled,
        environment_digest=version.environment_digest,
        is_staged=version.status == VersionStatus.STAGED,
    )
