"""The witness: a fresh process recomputes blocks with the forgotten records poisoned.

It runs from the resume point through the first touched block, and each other watched block from the state
saved before it; the state digests must match. If a shard's final weights equal the parent's (a record that
moved nothing is lawful), everything of it from the resume point on is recomputed instead.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass

from app.db.jobs import checkpoints_of
from app.db.records import marks_of
from app.db.session import reading
from app.domain.coverage import Artifact, is_clean
from app.domain.terms import JsonObject
from app.services.prepare import Scope
from worker.context import JobContext
from worker.data.loader import Loader
from worker.evaluation.gates import Check
from worker.training.loop import run_positions
from worker.training.placement import BEFORE_FIRST
from worker.training.state import TrainingState, initial_state, restore, state_digest

NAME = "witness"
POWER = (
    "certain for a wrong resume point and for forgotten records in a recomputed block; "
    "watched blocks / blocks run for a fault in one other block"
)

NEVER_RECORDED = "never recorded"


@dataclass(frozen=True)
class Recomputation:
    """Blocks after ``after`` up to ``stop`` to run again, from the state of ``blob`` (None: at the start).

    ``wanted`` is the state digest that the job recorded after ``stop``, or ``NEVER_RECORDED``.
    """

    shard: int
    after: int
    stop: int
    blob: str | None
    wanted: str


def recompute(context: JobContext, scope: Scope, *, loader: Loader, work: Iterable[Recomputation]) -> Check:
    """Run the work again with ``loader`` (forgotten records poisoned) and compare state digests."""
    num_blocks, problems = 0, []
    for part in work:
        state = _load(context, part)
        positions = range(part.after + 1, part.stop + 1)
        run_positions(
            state, positions, recipe=context.recipe, loader=loader, shard=part.shard, device=context.device
        )
        num_blocks += len(positions)
        if state_digest(state) != part.wanted:
            problems.append(
                f"shard {part.shard}: the state after position {part.stop} is not the recorded one"
            )
    figures: JsonObject = {
        "num_blocks": num_blocks,
        "touched": {str(s): p for s, p in scope.first_touched.items()},
    }
    return Check(
        name=NAME, holds=not problems, is_gate=True, power=POWER, figures=figures, problem="; ".join(problems)
    )


def planned_work(
    context: JobContext,
    scope: Scope,
    *,
    resumes_after: list[int],
    resumes_from: list[str | None],
    unmoved: Container[int],
) -> list[Recomputation]:
    """Return what to recompute, from the resume points said in advance and the states that the job kept.

    ``resumes_after`` are positions, ``resumes_from`` their blobs, in shard order; ``unmoved`` are the
    shards whose final weights are the parent's.
    """
    with reading(context.installation.sessions) as session:
        rows = [
            r for r in checkpoints_of(session, context.claim.model_id) if r.job_id == context.claim.job_id
        ]
        marks = marks_of(session, context.claim.model_id, through=scope.covers)
    # What an earlier way through a shard kept may have met somebody who joined since.
    kept = {
        (row.shard, row.position): row
        for row in rows
        if row.role in ("witness", "final")
        and is_clean(Artifact(shard=row.shard, position=row.position, settled=row.settled), marks)
    }
    last = context.recipe.plan.num_positions - 1
    work = []
    for shard, touched in scope.first_touched.items():
        after, blob = resumes_after[shard], resumes_from[shard]
        if after >= touched:
            # No state from there on can be believed: begin where nobody has been met yet.
            after, blob = BEFORE_FIRST, None
        stop = last if shard in unmoved else touched
        row = kept.get((shard, stop))
        wanted = NEVER_RECORDED if row is None else row.state_digest
        work.append(Recomputation(shard=shard, after=after, stop=stop, blob=blob, wanted=wanted))
    for (shard, position), row in sorted(kept.items()):
        before = kept.get((shard, position - 1))
        if before is not None and position != scope.first_touched.get(shard):
            work.append(
                Recomputation(
                    shard=shard,
                    after=position - 1,
                    stop=position,
                    blob=before.digest,
                    wanted=row.state_digest,
                )
            )
    return work


def _load(context: JobContext, part: Recomputation) -> TrainingState:
    if part.blob is None:
        return initial_state(context.recipe, shard=part.shard, device=context.device)
    data = context.installation.store.get(part.blob)
    return restore(data, context.recipe, shard=part.shard, device=context.device)
