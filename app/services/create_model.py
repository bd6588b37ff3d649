"""Create a model on a dataset, with its placements and its train job, or find the one that stands.

A model created while deletions are open starts with their tombstones: its first training leaves those
records out already. So the training is queued last; killed before that, the same call goes on.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from app.db.ids import new_id
from app.db.jobs import active_job
from app.db.models import alias_version, lock_model
from app.db.records import dataset_named, lock_dataset
from app.db.requests import SEALED, lock_request, open_requests
from app.db.session import Sessions, reading, writing
from app.db.tables import Model, Placement, Record
from app.domain.errors import Refused
from app.domain.status import JobKind
from app.domain.terms import JobId, JsonObject, ModelId, TenantName
from app.services.change_policy import apply_policy
from app.services.queue_job import queue_job
from app.services.seal import seal_late_targets


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
"""Places training records (row, both refs, spread, likelihood); the plan key hangs on the model's id."""


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
        model = _existing(session, new, tenant=tenant)
        is_new = model is None
        if model is None:
            model = _insert(session, new, tenant=tenant, place=place)
        model_id = ModelId(model.id)
    # From here on whoever seals or closes a request sees the model. What was sealed before is taken over now.
    take_over_requests(sessions, tenant=tenant)
    return _order_training(sessions, new, model_id=model_id, is_new=is_new)


def _existing(session: Session, new: NewModel, *, tenant: str) -> Model | None:
    model = session.scalar(select(Model).where(Model.tenant == tenant, Model.name == new.name))
    if model is not None and model.recipe_digest != new.recipe_digest:
        raise Refused(f"a model called {new.name!r} stands with another recipe: choose another name")
    return model


def row_of(new: NewModel, *, dataset_id: str, tenant: str) -> Model:
    """Return the row of a new model, which is not stored yet."""
    return Model(
        id=new_id("mdl"),
        tenant=tenant,
        name=new.name,
        dataset_id=dataset_id,
        recipe=new.recipe,
        recipe_digest=new.recipe_digest,
        policy=new.policy,
        training_seconds=new.training_seconds,
    )


def _insert(session: Session, new: NewModel, *, tenant: str, place: PlaceRecords) -> Model:
    # Whoever corrects a record meanwhile waits, and gives its new content a place in this model too.
    dataset = lock_dataset(session, dataset_named(session, new.dataset, tenant=tenant).id)
    model = row_of(new, dataset_id=dataset.id, tenant=tenant)
    session.add(model)
    session.flush()
    _insert_placements(session, model, place=place)
    return model


def _order_training(sessions: Sessions, new: NewModel, *, model_id: ModelId, is_new: bool) -> TrainingOrder:
    """Queue the training unless it is queued, running or done; the policy takes effect."""
    with writing(sessions) as session:
        model = lock_model(session, model_id)
        apply_policy(session, model, policy=new.policy)
        active = active_job(session, model.id, kind=JobKind.TRAIN)
        if active is not None:
            return TrainingOrder(model_id=model_id, job_id=JobId(active.id), is_new=is_new)
        if alias_version(session, model.id) is not None:
            return TrainingOrder(model_id=model_id, job_id=None, is_new=is_new)
        job_id = queue_job(session, model, kind=JobKind.TRAIN)
        return TrainingOrder(model_id=model_id, job_id=job_id, is_new=is_new)


def record_training_seconds(sessions: Sessions, model_id: ModelId, *, seconds: float) -> None:
    """Replace the expected length of a full training by the measured one; predictions use it."""
    with writing(sessions) as session:
        lock_model(session, model_id).training_seconds = seconds


def _insert_placements(session: Session, model: Model, *, place: PlaceRecords) -> None:
    query = select(Record.row, Record.record_ref, Record.subject_ref, Record.spread, Record.likelihood)
    records = session.execute(
        query.where(Record.dataset_id == model.dataset_id, Record.is_held_out.is_(False)).order_by(Record.row)
    ).all()
    rows = [
        {"model_id": model.id, "row": p.row, "shard": p.shard, "block": p.block, "token": p.token}
        for p in place(ModelId(model.id), records)
    ]
    if rows:
        session.execute(insert(Placement), rows)


def take_over_requests(sessions: Sessions, *, tenant: TenantName) -> None:
    """Give every open request a target in the models that are new to it; call it once they are committed."""
    with reading(sessions) as session:
        open_ids = open_requests(session, tenant=tenant)
    for request_id in open_ids:
        _take_over(sessions, request_id)


def _take_over(sessions: Sessions, request_id: str) -> None:
    """Give a sealed request a target in the new model; when products see it completed stays as it was.

    The lock waits for a sealing under way. What is not sealed yet is left to its sealing. Requests for
    somebody whom nobody held are closed by now: a later ``reveal_at`` would tell them apart.
    """
    with writing(sessions) as session:
        request = lock_request(session, request_id)
        if request.status in SEALED:
            seal_late_targets(session, request)
