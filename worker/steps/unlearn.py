"""unlearn: make the new weights and leave the final states in the store."""

from dataclasses import asdict

from app.domain.status import JobKind
from app.domain.terms import JsonObject
from app.services.create_model import record_training_seconds
from worker.context import JobContext
from worker.steps.scope import scope_of, unlearner_of, watched_by


def unlearn(context: JobContext) -> JsonObject:
    """Run the method; killed at any moment and run again, it ends with the same digests."""
    scope = scope_of(context)
    table = context.retained(covers=scope.covers)
    unlearned = unlearner_of(context).unlearn(context, scope, table=table, watched=watched_by(context))
    ran_all = unlearned.num_blocks == context.num_blocks
    if context.claim.kind is JobKind.TRAIN and ran_all:
        own = context.installation
        record_training_seconds(own.sessions, context.claim.model_id, seconds=unlearned.loop_seconds)
    # Of the machine that made the bits: another one may publish them.
    environment = context.environment
    fingerprint: JsonObject = {
        "environment": asdict(environment),
        "environment_digest": environment.digest(),
    }
    return {**unlearned.to_json(), **fingerprint}
