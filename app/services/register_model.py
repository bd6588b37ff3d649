"""Register a model that was trained elsewhere: model, version 1, alias in one transaction, or nothing.

Promises: a refused registration leaves no row and no blob; one that is killed leaves at most blobs that no
row knows, which the next purge of any model removes. Once committed, every open deletion reaches the model.
Never: a claim about what the weights were trained on; whoever registers them says it.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.jobs import now
from app.db.records import dataset_named
from app.db.session import Sessions, reading, writing
from app.db.tables import Job, Model
from app.domain.errors import NameTaken
from app.domain.status import JobKind, JobStatus
from app.domain.terms import CURRENT_ALIAS, JobId, JsonObject, ModelId, TenantName
from app.services.create_model import NewModel, row_of, take_over_requests
from app.services.publish import insert_version, move_alias
from app.services.references import unlink_unreferenced
from models_store.blobs import BlobStore, digest_of
from models_store.errors import StoreError
from models_store.manifest import Manifest

STEP = "register"


@dataclass(frozen=True)
class Registration:
    """A model and its version 1. ``blobs`` are the bytes of the manifest's files and of the manifest.

    ``outputs`` is what the registration found out, as a job's outputs keep it; it outlives version 1.
    """

    model: NewModel
    job_id: JobId
    manifest: Manifest
    environment_digest: str
    blobs: Sequence[bytes]
    outputs: JsonObject


def require_free_name(sessions: Sessions, name: str, *, tenant: TenantName) -> None:
    """Refuse a name before the long work begins.

    Raises:
        NameTaken: a model of this name stands.
    """
    with reading(sessions) as session:
        _require_free(session, name, tenant=tenant)


def register_model(sessions: Sessions, new: Registration, *, tenant: TenantName, store: BlobStore) -> ModelId:
    """Make the model and its version 1 visible; open deletions get a target in it.

    Raises:
        NameTaken: a model of this name stands.
        NotFound: the dataset does not exist.
        BlobNotWritten: the store cannot hold the weights.
    """
    begun: list[str] = []
    try:
        with writing(sessions) as session:
            model = _insert_model(session, new.model, tenant=tenant)
            job = _insert_job(session, model, new)
            # References first: whoever would unlink one of these blobs waits for this transaction.
            version = insert_version(
                session, job, manifest=new.manifest, environment_digest=new.environment_digest
            )
            move_alias(session, model, alias=CURRENT_ALIAS, version=version, actor="worker", why="registered")
            for data in new.blobs:
                begun.append(digest_of(data))
                store.put(data)
    except BaseException:
        # What is not reached here, because the disk fails for instance, the next purge takes.
        with suppress(StoreError), writing(sessions) as session:
            unlink_unreferenced(session, begun, store=store)
        raise
    # From here on whoever seals or closes a request sees the model. What was sealed before is taken over now.
    take_over_requests(sessions, tenant=tenant)
    return ModelId(model.id)


def _require_free(session: Session, name: str, *, tenant: TenantName) -> None:
    if session.scalar(select(Model.id).where(Model.tenant == tenant, Model.name == name)) is not None:
        raise NameTaken(f"a model called {name!r} stands already: choose another name")


def _insert_model(session: Session, new: NewModel, *, tenant: TenantName) -> Model:
    dataset = dataset_named(session, new.dataset, tenant=tenant)
    _require_free(session, new.name, tenant=tenant)
    model = row_of(new, dataset_id=dataset.id, tenant=tenant)
    session.add(model)
    try:
        session.flush()
    except IntegrityError as error:
        # On PostgreSQL another registration may have taken the name at this very moment.
        raise NameTaken(f"a model called {new.name!r} stands already: choose another name") from error
    return model


def _insert_job(session: Session, model: Model, new: Registration) -> Job:
    """Add the job that the version names: done already, so no worker ever claims it."""
    at = now(session)
    job = Job(
        id=new.job_id,
        tenant=model.tenant,
        model_id=model.id,
        kind=JobKind.REGISTER,
        status=JobStatus.SUCCEEDED,
        step=STEP,
        outputs={STEP: new.outputs},
        claimed_at=at,
        finished_at=at,
    )
    session.add(job)
    session.flush()
    return job
