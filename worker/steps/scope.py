"""Scope and prediction as later steps read them back from the output of ``prepare``."""

from typing import Any

from pydantic import TypeAdapter

from app.services.prepare import Scope
from worker.context import JobContext
from worker.unlearners import Prediction, Unlearned

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


def unlearned_by(context: JobContext) -> Unlearned:
    """Return what ``unlearn`` left in the store."""
    return _UNLEARNED.validate_python(context.output_of("unlearn"))


def watched_by(context: JobContext) -> dict[int, list[int]]:
    """Return the blocks that ``prepare`` chose for the witness, by shard."""
    return _WATCHED.validate_python(context.output_of("prepare")["watched"])


def scope_to_json(scope: Scope) -> Any:
    """Return a scope as the job's outputs keep it."""
    return _SCOPE.dump_python(scope, mode="json")
