"""Change a model's policy: no bit of the training changes, only what is kept and when jobs start."""

from collections.abc import Mapping
from dataclasses import asdict

from pydantic import TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from app.db.jobs import queued_job
from app.db.models import lock_model, model_named
from app.db.session import Sessions, reading, writing
from app.db.tables import Model
from app.domain.errors import PolicyRefused
from app.domain.policy import Policy
from app.domain.status import JobKind
from app.domain.terms import JsonObject, TenantName
from app.services.queue_job import AT_ONCE, needed_environment, policy_of

_POLICY = TypeAdapter(Policy)


def show_policy(sessions: Sessions, model_name: str, *, tenant: TenantName) -> Policy:
    """Return the policy of a model, defaults included."""
    with reading(sessions) as session:
        return policy_of(model_named(session, model_name, tenant=tenant))


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
        policy = _validated({**asdict(policy_of(model)), **changes})
        apply_policy(session, model, policy=asdict(policy))
        return policy


def apply_policy(session: Session, model: Model, *, policy: JsonObject) -> None:
    """Store a policy; a settle job that waits goes by it. The caller holds the model's lock.

    A job whose batch window is gone starts at once; a longer window counts from the next job on.
    """
    model.policy = policy
    waiting = queued_job(session, model.id, kind=JobKind.SETTLE)
    if waiting is None:
        return
    waiting.environment_digest = needed_environment(session, model, kind=JobKind.SETTLE)
    if not policy_of(model).batch_window_seconds:
        waiting.start_at = AT_ONCE


def _validated(settings: Mapping[str, object]) -> Policy:
    try:
        return _POLICY.validate_python(settings)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "policy"
        raise PolicyRefused(f"{name}: {str(first['msg']).removeprefix('Value error, ')}") from error
