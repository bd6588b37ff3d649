"""Queue a job for a model: at most one waits per kind, and deletions that wait share one.

The caller holds the model's lock.
"""

from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from app.db.ids import new_id
from app.db.jobs import now, queued_job, running_jobs
from app.db.models import exact_ancestor
from app.db.requests import num_waiting_targets
from app.db.tables import Job, Model
from app.domain.policy import Policy
from app.domain.scheduling import wished_start
from app.domain.status import JobKind, JobStatus
from app.domain.terms import JobId

FIRST_STEP = "prepare"
# They read no record and compute nothing of the version: any worker may go on with them, and bytes may go.
STEPS_AFTER_THE_WORK = ("publish", "purge", "attest")
AT_ONCE = 0.0
RETRAIN = "retrain"
_POLICY = TypeAdapter(Policy)


def policy_of(model: Model) -> Policy:
    """Return the policy in a model's row; settings that it was stored without have their defaults."""
    return _POLICY.validate_python(model.policy)


def queue_deletion_jobs(session: Session, model: Model) -> list[JobId]:
    """Queue what a sealed deletion needs and return what is new.

    A settle job starts by the policy's batch rules; an interim job, where the policy has a method, at once
    and first: one worker alone must not make the exact version while the fast one waits.
    """
    has_interim = policy_of(model).interim_method is not None
    queued = [queue_job(session, model, kind=JobKind.INTERIM)] if has_interim else []
    queued.append(queue_settle(session, model))
    return [job_id for job_id in queued if job_id is not None]


def queue_job(session: Session, model: Model, *, kind: JobKind, start_at: float = AT_ONCE) -> JobId | None:
    """Queue a job unless one of its kind waits already."""
    if queued_job(session, model.id, kind=kind) is not None:
        return None
    job = Job(
        id=new_id("job"),
        tenant=model.tenant,
        model_id=model.id,
        kind=kind,
        status=JobStatus.QUEUED,
        step=FIRST_STEP,
        environment_digest=needed_environment(session, model, kind=kind),
        start_at=start_at,
    )
    session.add(job)
    session.flush()
    return JobId(job.id)


def needed_environment(session: Session, model: Model, *, kind: JobKind) -> str | None:
    """Return the fingerprint a job needs: that of the run which a replay continues.

    An empirical final method may end in a replay too. What made the current version says nothing: it may be
    an empirical one, from any machine.
    """
    if kind is not JobKind.SETTLE or policy_of(model).final_method == RETRAIN:
        return None
    version = exact_ancestor(session, model.id)
    return None if version is None else version.environment_digest


def planned_start(session: Session, model: Model, *, at: float) -> float:
    """Return when a settle job should start by the policy, if the first deletion has waited since ``at``."""
    policy = policy_of(model)
    return wished_start(
        at,
        window_seconds=policy.batch_window_seconds,
        num_waiting=num_waiting_targets(session, model.id, above=_taken_up(session, model)),
        count=policy.batch_count,
    )


def _taken_up(session: Session, model: Model) -> int:
    """Return the n of the settle job that runs, if it has fixed one: it takes up everybody below."""
    scopes = [
        job.outputs.get("prepare", {}).get("scope")
        for job in running_jobs(session, model.id)
        if job.kind == JobKind.SETTLE
    ]
    return max((int(scope["covers"]) for scope in scopes if scope is not None), default=0)


def queue_settle(session: Session, model: Model) -> JobId | None:
    """Queue a settle job by the policy's batch rules, or bring the one forward that waits."""
    waiting = queued_job(session, model.id, kind=JobKind.SETTLE)
    start_at = planned_start(session, model, at=now(session))
    if waiting is None:
        return queue_job(session, model, kind=JobKind.SETTLE, start_at=start_at)
    waiting.start_at = start_at if waiting.start_at is None else min(waiting.start_at, start_at)
    return None
