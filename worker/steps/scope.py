"""What later steps read back from the outputs of ``prepare`` and ``unlearn``."""

from typing import Any

from pydantic import TypeAdapter

from app.domain.status import Guarantee
from app.domain.terms import JsonObject
from app.services.prepare import Scope
from worker.context import JobContext
from worker.unlearners import UNLEARNERS, Prediction, Unlearned, Unlearner

_SCOPE = TypeAdapter(Scope)
_UNLEARNED = TypeAdapter(Unlearned)
_WATCHED = TypeAdapter(dict[int, list[int]])


def scope_of(context: JobContext) -> Scope:
    """Return the scope that ``prepare`` fixed and joined deletions moved."""
    return _SCOPE.validate_python(context.output_of("prepare")["scope"])


def prediction_of(context: JobContext) -> Prediction:
    """Return what ``prepare`` predicted."""
    prediction = Prediction.read(context.output_of("prepare")["prediction"])
    assert prediction is not None
    return prediction


def unlearner_of(context: JobContext) -> Unlearner:
    """Return the method that ``prepare`` chose: a policy that changes meanwhile is for the next job."""
    return UNLEARNERS[str(context.output_of("prepare")["method"])]


def made_by(context: JobContext) -> Unlearner:
    """Return the method whose promise the new weights keep: one may have come to another's in the end."""
    came_to = context.output_of("unlearn").get("method")
    return unlearner_of(context) if came_to is None else UNLEARNERS[str(came_to)]


def settings_by(context: JobContext) -> JsonObject | None:
    """Return the settings of the method that made the new weights; None for one without any."""
    settings = context.output_of("prepare").get("settings")
    return settings if isinstance(settings, dict) and made_by(context) is unlearner_of(context) else None


def guarantee_of(context: JobContext) -> Guarantee:
    """How strong the version is that this job has made."""
    return made_by(context).guarantee


def unlearned_by(context: JobContext) -> Unlearned:
    """Return what ``unlearn`` left in the store."""
    return _UNLEARNED.validate_python(context.output_of("unlearn"))


def watched_by(context: JobContext) -> dict[int, list[int]]:
    """Return the blocks that ``prepare`` chose for the witness, by shard."""
    return _WATCHED.validate_python(context.output_of("prepare")["watched"])


def scope_to_json(scope: Scope) -> Any:
    """Return a scope as the job's outputs keep it."""
    return _SCOPE.dump_python(scope, mode="json")
