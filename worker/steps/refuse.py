"""After a gate has refused: the next method in the same job, or the end of it, as the policy says.

An exact method has no next one: what its gates refuse is a fault of ours, and nothing is published.
"""

from typing import Any

from app.domain.errors import GateFailed
from app.domain.policy import WhenGateFails
from app.domain.status import Guarantee, JobKind
from app.domain.terms import Claim
from app.services.refuse import Refusal, note_refusal
from worker.context import JobContext
from worker.steps.prepare import NEXT_METHOD, plan_of
from worker.steps.scope import guarantee_of, scope_of, unlearned_by, unlearner_of


def go_on_after(context: JobContext, refused: GateFailed) -> Claim:
    """Write the figures down and return the claim with which the job goes on.

    Raises:
        GateFailed: it does not go on. Nor is it tried again: a gate would refuse the same once more.
    """
    if guarantee_of(context) is not Guarantee.EMPIRICAL:
        raise refused
    has_next = (
        context.claim.kind is JobKind.SETTLE and context.model.policy.when_gate_fails is WhenGateFails.NEXT
    )
    own = context.installation
    claim = note_refusal(
        own.sessions,
        context.claim,
        Refusal(
            method=unlearner_of(context).name,
            problem=str(refused),
            checks=refused.checks,
            trace=_trace(context),
        ),
        next_plan=plan_of(context, scope_of(context), method=NEXT_METHOD) if has_next else None,
    )
    if not has_next:
        raise refused
    return claim


def _trace(context: JobContext) -> list[dict[str, Any]] | None:
    """Return what the method saw; nothing when it was refused before its end."""
    if not context.output_of("unlearn"):
        return None
    unlearned = unlearned_by(context)
    return unlearned.trace or unlearned.course
