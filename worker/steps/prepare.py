"""prepare: fix n, find the first touched blocks, predict the cost, pick the blocks to watch."""

from app.domain.errors import Refused
from app.domain.status import JobKind
from app.domain.terms import JsonObject
from app.services.prepare import fix_scope
from app.services.queue_job import RETRAIN
from worker.context import JobContext
from worker.steps.scope import scope_to_json
from worker.unlearners import UNLEARNERS, Unlearner
from worker.unlearners.watching import watched_blocks, watched_to_json


def prepare(context: JobContext) -> JsonObject:
    """Return the scope, the method and the prediction; nothing is trained yet."""
    scope = fix_scope(context.installation.sessions, context.claim)
    output: JsonObject = {"covers": scope.covers, "scope": scope_to_json(scope), "num_returns": 0}
    is_train = context.claim.kind is JobKind.TRAIN
    if not is_train and (scope.is_covered or not scope.has_version):
        return {**output, "is_covered": True}
    method = _method(context)
    table = context.retained(covers=scope.covers)
    prediction = UNLEARNERS[method].predict(context, scope, table=table)
    return {
        **output,
        "method": method,
        "prediction": prediction.to_json(),
        "predicted_seconds": _seconds(context, prediction.num_blocks),
        "watched": watched_to_json(watched_blocks(context, scope)),
        "num_retained": len(table),
    }


def unlearner_of(context: JobContext) -> Unlearner:
    """Return the method that ``prepare`` chose: a policy that changes meanwhile is for the next job."""
    return UNLEARNERS[str(context.output_of("prepare")["method"])]


def made_by(context: JobContext) -> Unlearner:
    """Return the method whose promise the new weights keep: one may have come to another's in the end."""
    came_to = context.output_of("unlearn").get("method")
    return unlearner_of(context) if came_to is None else UNLEARNERS[str(came_to)]


def _method(context: JobContext) -> str:
    policy = context.model.policy
    match context.claim.kind:
        case JobKind.TRAIN:
            return RETRAIN
        case JobKind.SETTLE:
            return policy.final_method
        case JobKind.INTERIM:
            if policy.interim_method is None:
                raise Refused("the policy has no interim method any more")
            return policy.interim_method


def _seconds(context: JobContext, num_blocks: int) -> float:
    total = context.recipe.plan.num_positions * len(context.shards)
    return round(context.model.row.training_seconds * num_blocks / total, 3)
