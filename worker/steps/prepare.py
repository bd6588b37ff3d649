"""prepare: fix n, find the first touched blocks, predict the cost, pick the blocks to watch."""

from dataclasses import asdict

from app.domain.errors import Refused
from app.domain.policy import Policy
from app.domain.status import Guarantee, JobKind
from app.domain.terms import JsonObject
from app.services.prepare import Scope, fix_scope
from app.services.queue_job import RETRAIN
from worker.context import JobContext
from worker.steps.scope import scope_to_json
from worker.unlearners import UNLEARNERS
from worker.unlearners.watching import watched_blocks, watched_to_json

# What follows where an empirical method may not settle.
NEXT_METHOD = "replay"


def prepare(context: JobContext) -> JsonObject:
    """Return the scope, the method and the prediction; nothing is trained yet."""
    scope = fix_scope(context.installation.sessions, context.claim)
    output: JsonObject = {"covers": scope.covers, "scope": scope_to_json(scope), "num_returns": 0}
    is_train = context.claim.kind is JobKind.TRAIN
    if not is_train and (scope.is_covered or not scope.has_version):
        return {**output, "is_covered": True}
    return {**output, **plan_of(context, scope, method=_method(context, scope))}


def plan_of(context: JobContext, scope: Scope, *, method: str) -> JsonObject:
    """Return what a method would run for a scope: blocks, seconds, and the positions to watch."""
    table = context.retained(covers=scope.covers)
    prediction = UNLEARNERS[method].predict(context, scope, table=table)
    return {
        "method": method,
        "settings": _settings(context, method),
        "prediction": prediction.to_json(),
        "num_all_blocks": context.num_blocks,
        "predicted_seconds": _seconds(context, prediction.num_blocks),
        "watched": watched_to_json(watched_blocks(context, scope)),
        "num_retained": len(table),
    }


def _method(context: JobContext, scope: Scope) -> str:
    policy = context.model.policy
    match context.claim.kind:
        case JobKind.TRAIN:
            return RETRAIN
        case JobKind.SETTLE:
            return _final_method(policy, scope)
        case JobKind.INTERIM:
            if policy.interim_method is None:
                raise Refused("the policy has no interim method any more")
            return policy.interim_method
        case JobKind.REGISTER:
            raise AssertionError("a registration is no job of a worker")


def _final_method(policy: Policy, scope: Scope) -> str:
    if UNLEARNERS[policy.final_method].guarantee is Guarantee.EXACT:
        return policy.final_method
    if not policy.accept_empirical:
        raise Refused(f"final_method: {policy.final_method} is empirical, which the policy does not accept")
    # No chains where there is an exact version: a method is applied to that only. What treatments leave
    # behind would add up, and of whom the last one was for there are no records left to treat again.
    return policy.final_method if scope.is_base_exact or scope.is_chained else NEXT_METHOD


def _settings(context: JobContext, method: str) -> JsonObject | None:
    """Return a method's settings, whole: a policy that changes meanwhile is for the next job."""
    settings = context.model.policy.settings_of(method)
    return None if settings is None else asdict(settings)


def _seconds(context: JobContext, num_blocks: int) -> float:
    return round(context.model.row.training_seconds * num_blocks / context.num_blocks, 3)
