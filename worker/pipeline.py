"""The steps of each kind of job, in order, each repeatable. ``run_steps`` is a loop over them.

A step that fails or dies runs again from its beginning; what it needs from earlier steps stands in the
job's outputs, beside the seconds that its last attempt took. ``verify`` runs in a fresh process: nothing
that unlearning left in memory can help it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from app.domain.errors import GateFailed, Overtaken
from app.domain.status import JobKind
from app.domain.terms import Claim, JsonObject
from app.services.claim import finish, finish_step
from app.services.publish import give_way, require_needed
from models_store.errors import StoreError
from worker.context import JobContext, never
from worker.installation import Installation
from worker.steps.attest import attest
from worker.steps.prepare import prepare
from worker.steps.publish import publish
from worker.steps.purge import purge
from worker.steps.refuse import go_on_after
from worker.steps.scope import scope_of
from worker.steps.unlearn import unlearn
from worker.steps.verify import verify

Run = Callable[[JobContext], JsonObject]


@dataclass(frozen=True)
class Step:
    """One step: its name in the job's row, what it does, and whether it needs a fresh process."""

    name: str
    run: Run
    is_fresh: bool = False


PREPARE = Step("prepare", prepare)
UNLEARN = Step("unlearn", unlearn)
VERIFY = Step("verify", verify, is_fresh=True)
PUBLISH = Step("publish", publish)
PURGE = Step("purge", purge)
ATTEST = Step("attest", attest)

STEPS: dict[JobKind, tuple[Step, ...]] = {
    JobKind.TRAIN: (PREPARE, UNLEARN, VERIFY, PUBLISH),
    JobKind.SETTLE: (PREPARE, UNLEARN, VERIFY, PUBLISH, PURGE, ATTEST),
    JobKind.INTERIM: (PREPARE, UNLEARN, VERIFY, PUBLISH),
}


def run_steps(
    installation: Installation, claim: Claim, *, should_stop: Callable[[], bool] = never
) -> Claim | None:
    """Run the job from its step on; return the claim if it goes on in a fresh process, None at its end.

    Raises:
        LeaseLost: another worker has taken the job over.
        HandedOver: it should stop, and stands at the end of a block or a step.
        GateFailed: a check forbids the publication, and no other method is to follow.
    """
    context = JobContext(installation, claim, should_stop=should_stop)
    steps = {step.name: step for step in STEPS[claim.kind]}
    is_first = True
    while True:
        step = steps[context.claim.step]
        if step.is_fresh and not is_first:
            return context.claim
        try:
            output = _run_needed(step, context)
        except GateFailed as refused:
            context.claim, is_first = go_on_after(context, refused), False
            continue
        except Overtaken:
            give_way(installation.sessions, context.claim, covers=scope_of(context).covers)
            finish(
                installation.sessions, context.claim, output={"is_overtaken": True},
                store=installation.store,
            )  # fmt: skip
            return None
        if output.get("is_staged"):
            return None  # parked at purge without a lease until an interim version is built on this one
        following = _following(claim.kind, step, output)
        if following is None:
            finish(installation.sessions, context.claim, output=output, store=installation.store)
            return None
        context.claim = finish_step(installation.sessions, context.claim, next_step=following, output=output)
        is_first = False
        context.hand_over_if_asked()


def _run_needed(step: Step, context: JobContext) -> JsonObject:
    """Run a step; what an overtaken interim job reads may be purged under its hands, which is no fault."""
    _require_needed(step, context)
    try:
        return _timed(step, context)
    except StoreError:
        _require_needed(step, context)
        raise


def _require_needed(step: Step, context: JobContext) -> None:
    if context.claim.kind is JobKind.INTERIM and step is not PREPARE:
        settled = scope_of(context).settled
        require_needed(context.installation.sessions, context.claim, settled=settled)


def _timed(step: Step, context: JobContext) -> JsonObject:
    """Run a step; its seconds stay with the job and enter neither evidence nor manifest."""
    started = time.perf_counter()
    output = step.run(context)
    return {**output, "step_seconds": round(time.perf_counter() - started, 6)}


def _following(kind: JobKind, step: Step, output: JsonObject) -> str | None:
    """Return the name of the next step; what is covered already only needs purge and attest."""
    names = [each.name for each in STEPS[kind]]
    if step is PREPARE and output.get("is_covered"):
        return PURGE.name if PURGE.name in names else None
    index = names.index(step.name) + 1
    return names[index] if index < len(names) else None
