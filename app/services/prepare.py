"""Begin a job: fix its n and say which positions the forget set touches; move n while the job runs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from sqlalchemy.orm import Session

from app.db.jobs import fenced, job_by_id
from app.db.models import alias_version, base_version, lock_model
from app.db.models import is_interim as is_interim_version
from app.db.records import marks_of
from app.db.requests import targets_covered
from app.db.session import Sessions, reading, writing
from app.db.tables import Model, Version
from app.domain.coverage import first_touched, reach
from app.domain.errors import LeaseLost
from app.domain.status import JobKind, TargetStatus
from app.domain.terms import Claim
from app.services.move_target import move_target
from app.services.queue_job import policy_of


@dataclass(frozen=True)
class Scope:
    """What one job covers. ``first_touched`` is per shard; empty when training met none of the records.

    ``settled`` is the number of the base's exact ancestor. ``is_covered`` says that there is nothing to
    train: a settle job only purges and attests. ``has_version`` is False for a model whose first training
    never ended. ``base`` is the manifest digest of the version that this one follows, ``base_covers``
    what it has forgotten: more than ``settled`` when an empirical method made it. ``is_chained`` says that
    the model has no exact version to go back to, so each job goes on from the base.
    """

    covers: int
    settled: int
    first_touched: dict[int, int]
    is_covered: bool
    has_version: bool
    base: str | None = None
    base_covers: int = 0
    is_chained: bool = False

    @property
    def forgets_above(self) -> int:
        """The number that what a job starts from has forgotten: its forget set lies above."""
        return self.base_covers if self.is_chained else self.settled

    @property
    def is_base_exact(self) -> bool:
        """Whether no empirical method made the base."""
        return self.base_covers <= self.settled


def fix_scope(sessions: Sessions, claim: Claim) -> Scope:
    """Fix n at the highest sealed number and mark the targets it reaches as running; repeatable."""
    with writing(sessions) as session:
        job = fenced(session, claim)
        model = lock_model(session, claim.model_id)
        is_interim = claim.kind is JobKind.INTERIM
        base = base_version(session, model.id) if is_interim else alias_version(session, model.id)
        covers = model.num_sealed
        scope = _scope(session, model, base=base, covers=covers, is_interim=is_interim)
        job.outputs = {**job.outputs, "prepare": {"covers": covers, "scope": asdict(scope)}}
        if claim.kind is JobKind.SETTLE:
            _start_targets(session, model.id, covers=covers)
        return scope


@dataclass(frozen=True)
class Joined:
    """The scope that a running job has now; ``returns`` are the shards that must go back for it."""

    scope: Scope
    returns: frozenset[int] = frozenset()
    is_frozen: bool = False


def join(sessions: Sessions, claim: Claim, *, scope: Scope, finished: Mapping[int, int]) -> Joined:
    """Move n over what was sealed since, as far as the running job can still leave it out.

    ``finished`` is the last position that each shard's state went through. Nearly every look between two
    blocks finds nothing new and takes no lock. What was predicted for another n is forgotten here.

    Raises:
        LeaseLost: another worker holds the job.
    """
    if not _has_news(sessions, claim, covers=scope.covers):
        return Joined(scope=scope)
    with writing(sessions) as session:
        job = fenced(session, claim)
        prepared = dict(job.outputs["prepare"])
        marks = marks_of(session, claim.model_id, above=scope.settled)
        reached = reach(
            [mark for mark in marks if mark.number > scope.covers],
            covers=scope.covers,
            finished=finished,
            num_returns=prepared.get("num_returns", 0),
        )
        if reached.covers == scope.covers:
            return Joined(scope=scope, is_frozen=reached.is_frozen)
        touched = first_touched(marks, settled=scope.settled, covers=reached.covers)
        moved = replace(scope, covers=reached.covers, first_touched=touched)
        prepared.pop("prediction", None)
        prepared |= {"covers": moved.covers, "scope": asdict(moved)}
        prepared["num_returns"] = prepared.get("num_returns", 0) + len(reached.returns)
        job.outputs = {**job.outputs, "prepare": prepared}
        if claim.kind is JobKind.SETTLE:
            _start_targets(session, claim.model_id, covers=moved.covers)
        return Joined(scope=moved, returns=reached.returns, is_frozen=reached.is_frozen)


def _has_news(sessions: Sessions, claim: Claim, *, covers: int) -> bool:
    with reading(sessions) as session:
        if job_by_id(session, claim.job_id).fence != claim.fence:
            raise LeaseLost(f"{claim.job_id} is no longer ours")
        return session.get_one(Model, claim.model_id).num_sealed > covers


def _scope(session: Session, model: Model, *, base: Version | None, covers: int, is_interim: bool) -> Scope:
    settled = 0 if base is None else base.settled
    marks = marks_of(session, model.id, through=covers)
    current = alias_version(session, model.id)
    is_covered = _is_finished(session, model, base, covers=covers)
    if is_interim:
        is_covered = base is None or (base is current and base.covers >= covers)
    scope = Scope(
        covers=covers,
        settled=settled,
        first_touched={},
        is_covered=is_covered,
        has_version=base is not None,
        base=None if base is None else base.manifest_digest,
        base_covers=0 if base is None else base.covers,
        is_chained=not model.has_plan,
    )
    return replace(scope, first_touched=first_touched(marks, settled=scope.forgets_above, covers=covers))


def _is_finished(session: Session, model: Model, base: Version | None, *, covers: int) -> bool:
    """Whether a settle job finds nothing to train: an exact version, or one that the policy accepts."""
    if base is None or base.settled >= covers:
        return base is not None
    is_accepted = policy_of(model).settles_empirically and not is_interim_version(session, base)
    return is_accepted and base.covers >= covers


def _start_targets(session: Session, model_id: str, *, covers: int) -> None:
    for target in targets_covered(session, model_id, covers=covers):
        if target.status in (TargetStatus.SCHEDULED, TargetStatus.FAILED):
            move_target(session, target, TargetStatus.RUNNING)
