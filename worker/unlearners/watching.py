"""Which blocks of a run the witness will recompute, by shard."""

from collections.abc import Mapping

from app.domain.status import JobKind
from app.domain.terms import JsonObject
from app.services.prepare import Scope
from worker.context import JobContext
from worker.training.plan import chosen_positions

Watched = Mapping[int, list[int]]
"""Positions by shard. A shard that nobody is forgotten in has none."""


def watched_blocks(context: JobContext, scope: Scope) -> dict[int, list[int]]:
    """Return, for each touched shard, its first touched position and as many later ones as the policy says.

    The later ones are chosen by a hash keyed with the job and the shard. Only a settlement has a witness, and
    without a plan there is nothing that one could run again.
    """
    if context.claim.kind is not JobKind.SETTLE or not context.model.row.has_plan:
        return {}
    return {shard: _watched(context, shard, touched) for shard, touched in scope.first_touched.items()}


def watched_to_json(watched: Watched) -> JsonObject:
    """Return watched blocks as the job's outputs keep them; in JSON a shard is text."""
    return {str(shard): list(positions) for shard, positions in watched.items()}


def _watched(context: JobContext, shard: int, touched: int) -> list[int]:
    key = context.installation.keyring.derived(f"watched:{context.claim.job_id}:{shard}")
    later = range(touched + 1, context.recipe.plan.num_positions)
    return [touched, *chosen_positions(key, candidates=later, num=context.model.policy.witness_blocks)]
