"""Scope and prediction as later steps read them back from the output of ``prepare``."""

from typing import Any

from pydantic import TypeAdapter

from app.services.prepare import Scope
from worker.context import JobContext
from worker.unlearners import Prediction, Unlearned

_SCOPE = TypeAdapter(Scope)
_PREDICTION = TypeAdapter(Prediction)
_UNLEARNED = TypeAdapter(Unlearned)


def scope_of(context: JobContext) -> Scope:
    """Return the scope that ``prepare`` fixed and joined deletions moved."""
    return _SCOPE.validate_python(context.output_of("prepare")["scope"])


def prediction_of(context: JobContext) -> Prediction:
    """Return what ``prepare`` predicted."""
    return _PREDICTION.validate_python(context.output_of("prepare")["prediction"])


def unlearned_by(context: JobContext) -> Unlearned:
    """Return what ``unlearn`` left in the store."""
    return _UNLEARNED.validate_python(context.output_of("unlearn"))


def scope_to_json(scope: Scope) -> Any:
    """Return a scope as the job's outputs keep it."""
    return _SCOPE.dump_python(scope, mode="json")
