"""Lineage: the states a version was built on saw nobody that it claims to have forgotten."""

from collections.abc import Sequence

from app.db.jobs import checkpoints_of
from app.db.records import marks_of
from app.db.session import reading
from app.db.tables import Checkpoint
from app.domain.coverage import Artifact, Mark, saw
from app.services.prepare import Scope
from worker.context import JobContext
from worker.evaluation.gates import Check

NAME = "lineage"
POWER = "certain for a resume point or a final state that met a forgotten record"


def lineage_check(
    context: JobContext,
    scope: Scope,
    *,
    predicted_from: Sequence[str | None],
    resumed_from: Sequence[str | None],
    constituents: Sequence[str | None],
) -> Check:
    """Judge resume points and final states by numbers and positions alone, not by the keys replay goes by.

    A resume point said in advance was made by other jobs, so only what those recorded of it counts: by
    keeping equal bytes itself, this job would clear any state. After a crash it may resume from its own.
    """
    with reading(context.installation.sessions) as session:
        marks = marks_of(session, context.claim.model_id, through=scope.covers)
        rows = checkpoints_of(session, context.claim.model_id)
    earlier = [row for row in rows if row.job_id != context.claim.job_id]
    judged = {
        "the resume point said in advance": (predicted_from, earlier),
        "the resume point": (resumed_from, rows),
        "the final state": (constituents, rows),
    }
    problems = [
        f"shard {shard}: {what} met tombstones {numbers[:5]}"
        for what, (digests, known) in judged.items()
        for shard, digest in enumerate(digests)
        if (numbers := _seen(known, marks, shard=shard, digest=digest))
    ]
    figures = {"num_tombstones": len(marks), "num_resume_points": sum(d is not None for d in resumed_from)}
    return Check(
        name=NAME,
        holds=not problems,
        is_gate=True,
        power=POWER,
        figures=dict(figures),
        problem="; ".join(problems),
    )


def _seen(rows: Sequence[Checkpoint], marks: list[Mark], *, shard: int, digest: str | None) -> list[int]:
    """Return the tombstone numbers that a state met; a state without a row is judged as if it met all."""
    if digest is None:
        return []
    same = [row for row in rows if row.shard == shard and row.digest == digest]
    if not same:
        return [mark.number for mark in marks if mark.shard == shard]
    # Equal bytes made while leaving out more: the state met none of those either.
    artifact = Artifact(shard=shard, position=same[0].position, settled=max(row.settled for row in same))
    return [mark.number for mark in marks if saw(artifact, mark)]
