"""Begin a settle job: fix its n and say which positions the forget set touches."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.db.jobs import fenced
from app.db.models import alias_version, lock_model
from app.db.records import marks_of
from app.db.requests import targets_covered
from app.db.session import Sessions, writing
from app.domain.coverage import first_touched
from app.domain.status import JobKind, TargetStatus
from app.domain.terms import Claim
from app.services.move_target import move_target


@dataclass(frozen=True)
class Scope:
    """What one job covers. ``first_touched`` is per shard; empty when training met none of the records.

    ``is_covered`` says that the current version has forgotten all of it: only purge and attest are left.
    ``has_version`` is False for a model whose first training never ended.
    """

    covers: int
    settled: int
    first_touched: dict[int, int]
    is_covered: bool
    has_version: bool


def fix_scope(sessions: Sessions, claim: Claim) -> Scope:
    """Fix n at the highest sealed number and mark the targets it reaches as running; repeatable."""
    with writing(sessions) as session:
        job = fenced(session, claim)
        model = lock_model(session, claim.model_id)
        version = alias_version(session, model.id)
        settled = 0 if version is None else version.settled
        covers = model.num_sealed
        job.outputs = {**job.outputs, "prepare": {"covers": covers}}
        if claim.kind is not JobKind.TRAIN:
            _start_targets(session, model.id, covers=covers)
        marks = marks_of(session, model.id, through=covers)
        return Scope(
            covers=covers,
            settled=settled,
            first_touched=first_touched(marks, settled=settled, covers=covers),
            is_covered=version is not None and version.settled >= covers,
            has_version=version is not None,
        )


def _start_targets(session: Session, model_id: str, *, covers: int) -> None:
    for target in targets_covered(session, model_id, covers=covers):
        if target.status in (TargetStatus.SCHEDULED, TargetStatus.FAILED):
            move_target(session, target, TargetStatus.RUNNING)
