"""Claim a job, keep its lease, give it back, or end it. Only the database's clock is asked.

Promises: at most one worker holds a job at a time; a claim raises the fence, so whoever held it before can
no longer write; attempts are counted before the work, and a committed checkpoint resets the count.
"""

from dataclasses import replace
from functools import cache, partial

from sqlalchemy import Select, and_, exists, or_, select, update
from sqlalchemy.orm import Session, aliased

from app.db.jobs import ACTIVE, fenced, job_by_id, now
from app.db.models import lock_model, try_lock_model
from app.db.requests import targets_covered
from app.db.session import Sessions, asking, epoch_now, reading, writing
from app.db.tables import Checkpoint, Job
from app.domain.errors import LeaseLost
from app.domain.scheduling import LEASE_SECONDS, has_attempts_left
from app.domain.status import JobKind, JobStatus, TargetStatus
from app.domain.terms import Claim, JobId, JobView, JsonObject, ModelId
from app.services.checkpoint import TEMPORARY_ROLES
from app.services.move_target import move_target
from app.services.park import end_parked
from app.services.queue_job import FIRST_STEP, STEPS_AFTER_THE_WORK
from app.services.references import drop_references, unlink_unreferenced
from models_store.blobs import BlobStore

_other = aliased(Job)


def claim_next(
    sessions: Sessions,
    *,
    owner: str,
    environment_digest: str,
    store: BlobStore,
    only: JobId | None = None,
    lease_seconds: float = LEASE_SECONDS,
) -> Claim | None:
    """Claim the oldest job that may run now and that this worker's environment fits, or None.

    On Postgres two workers may take a job and its model's next one at the same moment, each before it sees
    the other's: the model's lock lets them in one after the other.
    """
    again = partial(
        claim_next, sessions, owner=owner, environment_digest=environment_digest, store=store, only=only,
        lease_seconds=lease_seconds,
    )  # fmt: skip
    has_ended_one = False
    for job_id, model_id in runnable_jobs(sessions, environment_digest=environment_digest, only=only):
        with writing(sessions) as session:
            if not try_lock_model(session, model_id):
                continue  # somebody is at it, or hangs: other models go on
            query = _runnable(environment_digest).where(Job.id == job_id)
            job = session.scalar(query.with_for_update(skip_locked=True))
            if job is None:
                continue
            if job.owner is not None:
                # Its node was lost: that counts among all attempts, not among those without progress.
                job.num_without_progress = max(0, job.num_without_progress - 1)
            if has_attempts_left(job.num_attempts, job.num_without_progress):
                return _take(job, owner=owner, at=now(session), lease_seconds=lease_seconds)
            _end_failed(session, job, error=_last_word(job), is_retryable=True, store=store)
            has_ended_one = True
    # What the ended one held back may run now.
    return again() if has_ended_one else None


def runnable_jobs(
    sessions: Sessions, *, environment_digest: str, only: JobId | None = None
) -> list[tuple[JobId, ModelId]]:
    """Return what a worker with this environment could claim now, oldest first; takes no lock."""
    query = _runnable_ids(environment_digest)
    with asking(sessions) as connection:
        found = connection.execute(query if only is None else query.where(Job.id == only))
        return [(JobId(job_id), ModelId(model_id)) for job_id, model_id in found]


def waiting_for_environment(sessions: Sessions, *, environment_digest: str) -> list[JobId]:
    """Return the jobs that wait, begun or not, and need another environment than this one."""
    with reading(sessions) as session:
        has_lapsed = and_(Job.status == JobStatus.RUNNING, Job.lease_until < epoch_now())
        query = select(Job.id).where(
            or_(Job.status == JobStatus.QUEUED, has_lapsed),
            Job.environment_digest.is_not(None),
            Job.environment_digest != environment_digest,
        )
        return [JobId(job_id) for job_id in session.scalars(query.order_by(Job.created_at))]


def heartbeat(sessions: Sessions, claim: Claim, *, lease_seconds: float = LEASE_SECONDS) -> bool:
    """Prolong the lease; False when somebody else holds the job now."""
    with writing(sessions) as session:
        held = update(Job).where(
            Job.id == claim.job_id,
            Job.owner == claim.owner,
            Job.fence == claim.fence,
            Job.status == JobStatus.RUNNING,
        )
        result = session.execute(held.values(lease_until=epoch_now() + lease_seconds).returning(Job.id))
        return result.first() is not None


def release(sessions: Sessions, claim: Claim, *, error: str | None, counts: bool = True) -> None:
    """Let the lease end now. ``counts`` False is a graceful hand-over, which is no failed attempt.

    The job stays ``running`` without an owner: a queued one of the same kind may exist already.
    """
    with writing(sessions) as session:
        try:
            job = fenced(session, claim)
        except LeaseLost:
            return
        job.owner, job.lease_until, job.error = None, 0.0, error
        if not counts:
            job.num_attempts -= 1
            # A checkpoint may have reset it since the claim.
            job.num_without_progress = max(0, job.num_without_progress - 1)


def finish_step(sessions: Sessions, claim: Claim, *, next_step: str, output: JsonObject) -> Claim:
    """Record what a step found out and move on to the next one."""
    with writing(sessions) as session:
        job = fenced(session, claim)
        job.outputs = {**job.outputs, claim.step: output}
        job.step = next_step
        if claim.step != FIRST_STEP:
            job.num_without_progress = 0  # what is only prepared would be prepared again in a moment
        if next_step in STEPS_AFTER_THE_WORK:
            job.environment_digest = None
    return replace(claim, step=next_step)


def amend_output(sessions: Sessions, claim: Claim, *, step: str, changes: JsonObject) -> None:
    """Correct what an earlier step of the job found out."""
    with writing(sessions) as session:
        job = fenced(session, claim)
        job.outputs = {**job.outputs, step: {**job.outputs[step], **changes}}


def report_progress(sessions: Sessions, claim: Claim, progress: JsonObject) -> None:
    """Write how far the step is."""
    with writing(sessions) as session:
        fenced(session, claim).progress = progress


def finish(sessions: Sessions, claim: Claim, *, output: JsonObject, store: BlobStore) -> None:
    """End a job well: its output is kept, its temporary checkpoints and references go."""
    with writing(sessions) as session:
        job = fenced(session, claim)
        job.outputs = {**job.outputs, claim.step: output}
        job.status, job.owner, job.lease_until, job.error = JobStatus.SUCCEEDED, None, None, None
        job.finished_at = now(session)
        _drop_temporary(session, job, store=store)


def fail(sessions: Sessions, claim: Claim, *, error: str, is_retryable: bool, store: BlobStore) -> None:
    """End a job that cannot be mended by trying again."""
    with writing(sessions) as session:
        _end_failed(session, fenced(session, claim), error=error, is_retryable=is_retryable, store=store)


def job_view(sessions: Sessions, job_id: JobId) -> JobView:
    """Return a job as its followers see it."""
    with reading(sessions) as session:
        job = job_by_id(session, job_id)
        return JobView(
            id=JobId(job.id),
            model_id=ModelId(job.model_id),
            kind=JobKind(job.kind),
            status=JobStatus(job.status),
            step=job.step,
            num_attempts=job.num_attempts,
            progress=job.progress,
            outputs=job.outputs,
            error=job.error,
        )


@cache
def _runnable_ids(environment_digest: str) -> Select[str, str]:
    """Return the question that an idle worker asks several times a second: it is put together once."""
    return _runnable(environment_digest).with_only_columns(Job.id, Job.model_id)


def _runnable(environment_digest: str) -> Select[Job]:
    at = epoch_now()
    is_free = or_(Job.status == JobStatus.QUEUED, and_(Job.status == JobStatus.RUNNING, Job.lease_until < at))
    fits = or_(Job.environment_digest.is_(None), Job.environment_digest == environment_digest)
    # A settle job waits for the training it corrects, and for the running job of its own kind.
    trains_first = exists().where(
        _other.model_id == Job.model_id, _other.kind == JobKind.TRAIN, _other.status.in_(ACTIVE)
    )
    runs_already = exists().where(
        _other.model_id == Job.model_id,
        _other.kind == Job.kind,
        _other.status == JobStatus.RUNNING,
        _other.id != Job.id,
    )
    query = select(Job).where(is_free, fits, or_(Job.kind == JobKind.TRAIN, ~trains_first), ~runs_already)
    query = query.where(Job.start_at <= at)  # a parked job has none
    # Queued together, the fast one goes first.
    return query.order_by(Job.created_at, Job.kind != JobKind.INTERIM, Job.id)


def _take(job: Job, *, owner: str, at: float, lease_seconds: float) -> Claim:
    if job.owner is not None:
        job.error = _last_word(job)
    job.status = JobStatus.RUNNING
    job.owner, job.fence = owner, job.fence + 1
    job.lease_until = at + lease_seconds
    job.num_attempts += 1
    job.num_without_progress += 1
    job.claimed_at = job.claimed_at or at
    return Claim(
        job_id=JobId(job.id),
        model_id=ModelId(job.model_id),
        kind=JobKind(job.kind),
        step=job.step,
        owner=owner,
        fence=job.fence,
    )


def _last_word(job: Job) -> str:
    """Say why the last attempt ended: who held the job to the end of its lease could not say so."""
    return str(job.error) if job.owner is None else f"the lease of {job.owner} ran out"


def _end_failed(session: Session, job: Job, *, error: str, is_retryable: bool, store: BlobStore) -> None:
    job.status, job.owner, job.lease_until = JobStatus.FAILED, None, None
    job.error, job.finished_at = error, now(session)
    model = lock_model(session, job.model_id)
    if job.kind == JobKind.INTERIM:
        end_parked(session, model)
        # What it made saw the person, and the purge that would take it may have been already.
        _drop_temporary(session, job, store=store)
    if job.kind != JobKind.SETTLE:
        return
    covers = int(job.outputs.get("prepare", {}).get("covers", model.num_sealed))
    for target in targets_covered(session, model.id, covers=covers):
        if target.purged_at is not None:
            continue  # done with this model: only the request still waits for others
        move_target(session, target, TargetStatus.FAILED, reason=error)
        target.reason, target.is_retryable = error, is_retryable


def _drop_temporary(session: Session, job: Job, *, store: BlobStore) -> None:
    """Rolling and witness checkpoints serve one job only."""
    query = select(Checkpoint).where(Checkpoint.job_id == job.id, Checkpoint.role.in_(TEMPORARY_ROLES))
    digests: list[str] = []
    for checkpoint in session.scalars(query):
        digests += drop_references(session, f"checkpoint:{checkpoint.id}")
        session.delete(checkpoint)
    digests += drop_references(session, f"job:{job.id}")
    unlink_unreferenced(session, digests, store=store)
