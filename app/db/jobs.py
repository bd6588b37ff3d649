"""Queries about jobs, checkpoints and blob references."""

from collections.abc import Collection, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.session import epoch_now, insert_missing
from app.db.tables import Blob, BlobReference, Checkpoint, Job, Model, Worker
from app.domain.errors import LeaseLost, NotFound
from app.domain.scheduling import WORKER_SILENCE_SECONDS
from app.domain.status import JobKind, JobStatus
from app.domain.terms import Claim

ACTIVE = (JobStatus.QUEUED, JobStatus.RUNNING)


def now(session: Session) -> float:
    """Return the database's time, UTC seconds since the epoch."""
    return float(session.scalar(select(epoch_now())) or 0.0)


def job_by_id(session: Session, job_id: str) -> Job:
    """Return a job.

    Raises:
        NotFound: there is none.
    """
    job = session.get(Job, job_id, populate_existing=True)
    if job is None:
        raise NotFound("no such job")
    return job


def fenced(session: Session, claim: Claim) -> Job:
    """Lock the job of a claim and return it; every write of a worker begins here.

    Raises:
        LeaseLost: somebody else has claimed the job since, or it has ended.
    """
    query = select(Job).where(Job.id == claim.job_id).with_for_update()
    job = session.scalar(query.execution_options(populate_existing=True))
    if job is None or job.fence != claim.fence or job.owner != claim.owner or job.status != JobStatus.RUNNING:
        raise LeaseLost(f"{claim.job_id} is no longer ours")
    return job


def active_job(session: Session, model_id: str, *, kind: JobKind) -> Job | None:
    """Return the queued or running job of this kind, the running one first."""
    query = select(Job).where(Job.model_id == model_id, Job.kind == kind, Job.status.in_(ACTIVE))
    return session.scalars(query.order_by(Job.status.desc())).first()


def registration_of(session: Session, model_id: str) -> Job:
    """Return the job under which a model was registered; its row outlives version 1."""
    query = select(Job).where(Job.model_id == model_id, Job.kind == JobKind.REGISTER)
    return session.scalars(query).one()


def queued_job(session: Session, model_id: str, *, kind: JobKind) -> Job | None:
    """Return the queued job of this kind, if there is one."""
    query = select(Job).where(Job.model_id == model_id, Job.kind == kind, Job.status == JobStatus.QUEUED)
    return session.scalar(query)


def running_jobs(session: Session, model_id: str) -> Sequence[Job]:
    """Return the jobs of a model that have begun and not ended, with a lease or without."""
    query = select(Job).where(Job.model_id == model_id, Job.status == JobStatus.RUNNING)
    return session.scalars(query.order_by(Job.id)).all()


def lapsed_jobs(session: Session, model_id: str, *, kind: JobKind) -> Sequence[Job]:
    """Return the jobs that were begun and that nobody holds."""
    query = select(Job).where(Job.model_id == model_id, Job.kind == kind, Job.status == JobStatus.RUNNING)
    return session.scalars(query.where(Job.lease_until < epoch_now())).all()


def queued_settle_jobs(session: Session) -> list[tuple[Job, Model]]:
    """Return the settle jobs that have not begun, with their models."""
    query = select(Job, Model).join(Model, Model.id == Job.model_id)
    query = query.where(Job.kind == JobKind.SETTLE, Job.status == JobStatus.QUEUED).order_by(Job.id)
    return [(job, model) for job, model in session.execute(query)]


def settle_run_seconds(session: Session, model_id: str, *, limit: int = 50) -> list[float]:
    """Return how long the newest settle jobs that trained took from their first claim to their end."""
    has_trained = Job.outputs["unlearn"].as_string().is_not(None)
    query = select(Job.claimed_at, Job.finished_at).where(
        Job.model_id == model_id, Job.kind == JobKind.SETTLE, Job.status == JobStatus.SUCCEEDED, has_trained
    )
    runs = session.execute(query.order_by(Job.finished_at.desc()).limit(limit))
    return [ended - begun for begun, ended in runs if begun is not None and ended is not None]


def live_workers(session: Session, *, at: float, environment_digest: str | None = None) -> Sequence[Worker]:
    """Return the workers heard of lately; with a digest, those that can continue what it began."""
    query = select(Worker).where(Worker.seen_at > at - WORKER_SILENCE_SECONDS)
    if environment_digest is not None:
        query = query.where(Worker.environment_digest == environment_digest)
    return session.scalars(query.order_by(Worker.owner)).all()


def jobs_at_work(session: Session, model_ids: Collection[str]) -> dict[str, Job]:
    """Return, per model, the job its waiting targets depend on: running, else queued, else failed."""
    query = select(Job).where(Job.model_id.in_(model_ids), Job.status.in_([*ACTIVE, JobStatus.FAILED]))
    rank = {JobStatus.FAILED: 0, JobStatus.QUEUED: 1, JobStatus.RUNNING: 2}
    jobs = session.scalars(query.order_by(Job.created_at, Job.id)).all()
    return {job.model_id: job for job in sorted(jobs, key=lambda job: rank[JobStatus(job.status)])}


def checkpoints_of(session: Session, model_id: str) -> Sequence[Checkpoint]:
    """Return every checkpoint row of a model."""
    return session.scalars(select(Checkpoint).where(Checkpoint.model_id == model_id)).all()


def checkpoints_with_keys(session: Session, model_id: str, *, keys: Sequence[str]) -> Sequence[Checkpoint]:
    """Return the checkpoints made from exactly these inputs, newest first."""
    query = select(Checkpoint).where(Checkpoint.model_id == model_id, Checkpoint.key.in_(keys))
    return session.scalars(query.order_by(Checkpoint.created_at.desc())).all()


def lock_blob(session: Session, digest: str) -> Blob:
    """Lock a blob's row, making it when it is new: put and unlink exclude each other here."""
    query = select(Blob).where(Blob.digest == digest).with_for_update()
    while (blob := session.scalar(query)) is None:
        # Another transaction may make it first, or remove it before we lock it: then we look again.
        session.execute(insert_missing(session, Blob).values(digest=digest))
    return blob


def references_of(session: Session, owner: str) -> Sequence[BlobReference]:
    """Return the references that an owner holds."""
    return session.scalars(select(BlobReference).where(BlobReference.owner == owner)).all()


def is_referenced(session: Session, digest: str) -> bool:
    """Whether anybody still needs the blob."""
    query = select(BlobReference.owner).where(BlobReference.digest == digest).limit(1)
    return session.scalar(query) is not None
