"""Create a model on a dataset, with its placements and its train job, or find the one that stands.

A model created while deletions are open starts with their tombstones: its first training leaves those
records out already.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from app.db.ids import new_id
from app.db.jobs import active_job, queued_job
from app.db.models import alias_version, lock_model
from app.db.records import dataset_named
from app.db.requests import lock_request, open_requests
from app.db.session import Sessions, writing
from app.db.tables import Model, Placement, Record, Target
from app.domain.errors import Refused
from app.domain.status import JobKind, RequestStatus, TargetStatus
from app.domain.terms import JobId, JsonObject, ModelId, TenantName
from app.services.seal import needed_environment, queue_job, seal_target


@dataclass(frozen=True)
class Place:
    """Where the plan puts one record."""

    row: int
    shard: int
    block: int
    token: bytes


@dataclass(frozen=True)
class NewModel:
    """What a model is made from. ``training_seconds`` is the expected length of a full training."""

    name: str
    dataset: str
    recipe: JsonObject
    recipe_digest: str
    policy: JsonObject
    training_seconds: float


@dataclass(frozen=True)
class TrainingOrder:
    """The model and its train job; ``job_id`` is None when it is trained already."""

    model_id: ModelId
    job_id: JobId | None
    is_new: bool


PlaceRecords = Callable[[ModelId, Sequence[Any]], Iterable[Place]]
"""Places training records (row, record_ref, subject_ref, spread); the plan key hangs on the model's id."""


def create_model(
    sessions: Sessions, new: NewModel, *, tenant: TenantName, place: PlaceRecords
) -> TrainingOrder:
    """Create a model and queue its training; with an equal recipe, go on with the one that stands.

    An equal recipe with another policy updates the policy: it changes no bit of the training.

    Raises:
        Refused: a model of this name stands with another recipe.
        NotFound: the dataset does not exist.
    """
    with writing(sessions) as session:
        model = session.scalar(select(Model).where(Model.tenant == tenant, Model.name == new.name))
        if model is not None:
            return _go_on(session, model, new=new)
        dataset = dataset_named(session, new.dataset, tenant=tenant)
        model = Model(
            id=new_id("mdl"),
            tenant=tenant,
            name=new.name,
            dataset_id=dataset.id,
            recipe=new.recipe,
            recipe_digest=new.recipe_digest,
            policy=new.policy,
            training_seconds=new.training_seconds,
        )
        session.add(model)
        session.flush()
        _insert_placements(session, model, place=place)
        job_id = queue_job(session, model, kind=JobKind.TRAIN)
        _take_over_open_requests(session, model)
        return TrainingOrder(model_id=ModelId(model.id), job_id=job_id, is_new=True)


def _go_on(session: Session, model: Model, *, new: NewModel) -> TrainingOrder:
    if model.recipe_digest != new.recipe_digest:
        raise Refused(f"a model called {new.name!r} stands with another recipe: choose another name")
    lock_model(session, model.id)
    model.policy = new.policy
    waiting = queued_job(session, model.id, kind=JobKind.SETTLE)
    if waiting is not None:
        waiting.environment_digest = needed_environment(session, model, kind=JobKind.SETTLE)
    job = active_job(session, model.id, kind=JobKind.TRAIN)
    if job is not None:
        return TrainingOrder(model_id=ModelId(model.id), job_id=JobId(job.id), is_new=False)
    if alias_version(session, model.id) is not None:
        return TrainingOrder(model_id=ModelId(model.id), job_id=None, is_new=False)
    job_id = queue_job(session, model, kind=JobKind.TRAIN)
    return TrainingOrder(model_id=ModelId(model.id), job_id=job_id, is_new=False)


def record_training_seconds(sessions: Sessions, model_id: ModelId, *, seconds: float) -> None:
    """Replace the expected length of a full training by the measured one; predictions use it."""
    with writing(sessions) as session:
        lock_model(session, model_id).training_seconds = seconds


def _insert_placements(session: Session, model: Model, *, place: PlaceRecords) -> None:
    query = select(Record.row, Record.record_ref, Record.subject_ref, Record.spread)
    records = session.execute(
        query.where(Record.dataset_id == model.dataset_id, Record.is_held_out.is_(False)).order_by(Record.row)
    ).all()
    rows = [
        {"model_id": model.id, "row": p.row, "shard": p.shard, "block": p.block, "token": p.token}
        for p in place(ModelId(model.id), records)
    ]
    if rows:
        session.execute(insert(Placement), rows)


def _take_over_open_requests(session: Session, model: Model) -> None:
    """Give open requests a target in the new model; when products see them completed stays as it was.

    Requests for somebody whom nobody held are closed by now: a later ``reveal_at`` would tell them apart.
    """
    for request in open_requests(session, tenant=model.tenant):
        lock_request(session, request.id)
        target = Target(
            id=new_id("tgt"),
            request_id=request.id,
            model_id=model.id,
            status=TargetStatus.SCHEDULED,
            is_late=True,
        )
        session.add(target)
        session.flush()
        if request.status != RequestStatus.RECEIVED:
            seal_target(session, request, target=target, model=model)
