"""Change a model's policy: no bit of the training changes, only what is kept and when jobs start."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from app.db.jobs import lapsed_jobs, queued_job
from app.db.models import lock_model, model_named
from app.db.session import Sessions, writing
from app.db.tables import Model
from app.domain.errors import PolicyRefused
from app.domain.policy import Policy, require_methods, require_no_plan
from app.domain.status import JobKind
from app.domain.terms import JsonObject, TenantName
from app.services.queue_job import AT_ONCE, FIRST_STEP, needed_environment, planned_start, policy_of

_POLICY = TypeAdapter(Policy)


def change_policy(
    sessions: Sessions, model_name: str, changes: Mapping[str, object], *, tenant: TenantName
) -> Policy:
    """Change some settings of a model's policy and return the whole of it.

    Raises:
        NotFound: the tenant has no such model.
        PolicyRefused: there is no such setting, or it cannot have this value; nothing is changed.
    """
    with writing(sessions) as session:
        model = lock_model(session, model_named(session, model_name, tenant=tenant).id)
        settings = _changed(asdict(policy_of(model)), changes)
        if not model.has_plan:
            _require_no_plan(settings)
        policy = _validated(settings)
        if model.has_plan:
            _require_plan(policy, model)
        apply_policy(session, model, policy=asdict(policy))
        return policy


def _changed(settings: dict[str, Any], changes: Mapping[str, object]) -> dict[str, object]:
    """Return settings with changes; of the stitching rule and the methods, what is not named stays."""
    merged = {
        name: {**settings[name], **change}
        for name, change in changes.items()
        if name in ("stitch", "methods") and isinstance(change, Mapping)
    }
    return {**settings, **changes, **merged}


def apply_policy(session: Session, model: Model, *, policy: JsonObject) -> None:
    """Store a policy; settle jobs that wait go by it at once. The caller holds the model's lock.

    One that was begun and given back for a worker that never came, after an upgrade for instance, begins anew
    if the environment it needs has changed.
    """
    model.policy = policy
    environment_digest = needed_environment(session, model, kind=JobKind.SETTLE)
    waiting = queued_job(session, model.id, kind=JobKind.SETTLE)
    if waiting is not None:
        waiting.environment_digest = environment_digest
        waiting.start_at = min(
            waiting.start_at or AT_ONCE, planned_start(session, model, at=waiting.created_at)
        )
    for job in lapsed_jobs(session, model.id, kind=JobKind.SETTLE):
        if job.environment_digest not in (None, environment_digest):
            job.environment_digest, job.step = environment_digest, FIRST_STEP


def _validated(settings: Mapping[str, object]) -> Policy:
    try:
        policy = _POLICY.validate_python(settings)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        problem = str(first["msg"]).removeprefix("Value error, ")
        raise PolicyRefused(f"{place}: {problem}" if place else problem) from error
    try:
        require_methods(policy)
    except ValueError as error:
        raise PolicyRefused(str(error)) from error
    return policy


def _require_no_plan(settings: Mapping[str, object]) -> None:
    try:
        require_no_plan(settings)
    except ValueError as error:
        raise PolicyRefused(str(error)) from error


def _require_plan(policy: Policy, model: Model) -> None:
    try:
        plan = model.recipe["plan"]
        policy.require_plan(num_blocks=plan["blocks"], num_passes=plan.get("passes", 1))
    except ValueError as error:
        raise PolicyRefused(str(error)) from error
