"""prepare: fix n, find the first touched blocks, predict the cost, pick the blocks to watch."""

from app.domain.status import JobKind
from app.domain.terms import JsonObject
from app.services.prepare import Scope, fix_scope
from worker.context import JobContext
from worker.steps.scope import scope_to_json
from worker.training.plan import chosen_positions
from worker.unlearners import UNLEARNERS, Unlearner


def prepare(context: JobContext) -> JsonObject:
    """Return the scope, the method and the prediction; nothing is trained yet."""
    scope = fix_scope(context.installation.sessions, context.claim)
    output: JsonObject = {"covers": scope.covers, "scope": scope_to_json(scope)}
    is_train = context.claim.kind is JobKind.TRAIN
    if not is_train and (scope.is_covered or not scope.has_version):
        return {**output, "is_covered": True}
    table = context.retained(covers=scope.covers)
    prediction = unlearner_of(context).predict(context, scope, table=table)
    return {
        **output,
        "method": "train" if is_train else unlearner_of(context).name,
        "prediction": prediction.to_json(),
        "predicted_seconds": _seconds(context, prediction.num_blocks),
        "watched": [] if is_train else list(_watched(context, scope)),
        "num_retained": len(table),
    }


def unlearner_of(context: JobContext) -> Unlearner:
    """Return the method that the policy settles with; a training starts from initialisation."""
    is_train = context.claim.kind is JobKind.TRAIN
    return UNLEARNERS["retrain" if is_train else context.model.policy.final_method]


def _seconds(context: JobContext, num_blocks: int) -> float:
    total = context.recipe.plan.num_positions * len(context.shards)
    return round(context.model.row.training_seconds * num_blocks / total, 3)


def _watched(context: JobContext, scope: Scope) -> list[int]:
    """Return the first touched positions and, by keyed hash, the policy's number of others that will run."""
    plan = context.recipe.plan
    touched = sorted(set(scope.first_touched.values()))
    if not touched:
        return []
    others = [p for p in range(touched[0] + 1, plan.num_positions) if p not in touched]
    key = context.installation.keyring.derived(f"watched:{context.claim.job_id}")
    num = context.model.policy.witness_blocks
    return sorted({*touched, *chosen_positions(key, candidates=others, num=num)})
