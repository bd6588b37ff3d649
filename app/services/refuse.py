"""Record what a gate refused of an empirical method, and let a settle job go on with the next one.

Promises: admins find the figures at the job and in the trail of every request it was for; written down twice
it stands there once. Never: publishes anything, or ends the job.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy.orm import Session

from app.db.jobs import fenced
from app.db.requests import lock_request, targets_covered
from app.db.session import Sessions, writing
from app.db.tables import Job, Model
from app.domain.terms import Claim, JsonObject
from app.services.events import append_event

STEP_OF_NEXT_METHOD = "unlearn"
_DONE_ANEW = ("unlearn", "verify")


@dataclass(frozen=True)
class Refusal:
    """One attempt that was not published: ``checks`` are the gates that did not hold, with their figures.

    ``trace`` is what the method saw on its way, if it keeps one.
    """

    method: str
    problem: str
    checks: JsonObject
    trace: list[dict[str, Any]] | None = None


def note_refusal(
    sessions: Sessions, claim: Claim, refusal: Refusal, *, next_plan: JsonObject | None = None
) -> Claim:
    """Write a refusal down; with ``next_plan``, what ``prepare`` says of the next method, go on with that.

    Returns:
        The claim at the step that the job stands at now.

    Raises:
        LeaseLost: another worker holds the job.
    """
    with writing(sessions) as session:
        job = fenced(session, claim)
        outputs = dict(job.outputs)
        attempts = outputs.get("refused", {}).get("attempts", [])
        if asdict(refusal) not in attempts:
            outputs["refused"] = {"attempts": [*attempts, asdict(refusal)]}
            _tell(session, job, refusal)
        if next_plan is not None:
            outputs = {step: output for step, output in outputs.items() if step not in _DONE_ANEW}
            outputs["prepare"] = {**outputs["prepare"], **next_plan}
            job.step = STEP_OF_NEXT_METHOD
        job.outputs = outputs
        return replace(claim, step=job.step)


def _tell(session: Session, job: Job, refusal: Refusal) -> None:
    """Add an event to the trail of every request whose records the attempt was for."""
    scope = job.outputs["prepare"]["scope"]
    above = int(scope["base_covers"] if scope.get("is_chained") else scope["settled"])
    body: JsonObject = {"model": session.get_one(Model, job.model_id).name, "job": job.id}
    body |= {"method": refusal.method, "problem": refusal.problem, "checks": refusal.checks}
    for target in targets_covered(session, job.model_id, covers=int(scope["covers"])):
        if (target.through or 0) > above:
            request = lock_request(session, target.request_id)
            append_event(session, request.id, "attempt_refused", body)
