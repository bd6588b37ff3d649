"""Queries about models, versions and aliases."""

from collections.abc import Collection, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.tables import Alias, AliasMove, Dataset, Job, Model, Version, VersionFile
from app.domain.coverage import Coverage
from app.domain.errors import NotFound
from app.domain.status import Guarantee, JobKind, VersionStatus
from app.domain.terms import CURRENT_ALIAS


def all_models(session: Session, *, tenant: str) -> Sequence[Model]:
    """Return the models of a tenant by name."""
    return session.scalars(select(Model).where(Model.tenant == tenant).order_by(Model.name)).all()


def model_named(session: Session, name: str, *, tenant: str) -> Model:
    """Return one model of a tenant.

    Raises:
        NotFound: the tenant has no such model.
    """
    model = session.scalar(select(Model).where(Model.tenant == tenant, Model.name == name))
    if model is None:
        raise NotFound("no such model")
    return model


def lock_models(session: Session, model_ids: Sequence[str]) -> Sequence[Model]:
    """Lock model rows in id order: seeing tombstone n then means seeing all below.

    A post refers to the row without changing it, and does not wait for the lock.
    """
    query = select(Model).where(Model.id.in_(model_ids)).order_by(Model.id).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).all()


def try_lock_model(session: Session, model_id: str) -> bool:
    """Lock one model row unless somebody else has it."""
    query = select(Model.id).where(Model.id == model_id).with_for_update(key_share=True, skip_locked=True)
    return session.scalar(query) is not None


def lock_model(session: Session, model_id: str) -> Model:
    """Lock one model row and return it fresh."""
    return lock_models(session, [model_id])[0]


def names_of_datasets(session: Session, *, tenant: str) -> dict[str, str]:
    """Return id -> name of a tenant's datasets."""
    query = select(Dataset.id, Dataset.name).where(Dataset.tenant == tenant)
    return dict(iter(session.execute(query)))


def models_on(session: Session, dataset_id: str) -> Sequence[Model]:
    """Return the models that train on a dataset."""
    return session.scalars(select(Model).where(Model.dataset_id == dataset_id)).all()


def versions_of(session: Session, model_id: str) -> Sequence[Version]:
    """Return all versions of a model, oldest first."""
    return session.scalars(select(Version).where(Version.model_id == model_id).order_by(Version.number)).all()


def find_version(session: Session, model_id: str, name: str) -> Version:
    """Return the version with this number or behind this alias.

    Raises:
        NotFound: there is none.
    """
    if name.isascii() and name.isdigit() and len(name) < 10:
        query = select(Version).where(Version.model_id == model_id, Version.number == int(name))
    else:
        query = (
            select(Version)
            .join(Alias, Alias.version_id == Version.id)
            .where(Alias.model_id == model_id, Alias.name == name)
        )
    version = session.scalar(query)
    if version is None:
        raise NotFound("no such version")
    return version


def alias_version(session: Session, model_id: str, *, alias: str = CURRENT_ALIAS) -> Version | None:
    """Return the version an alias points at, or None."""
    query = select(Version).join(Alias, Alias.version_id == Version.id)
    return session.scalar(query.where(Alias.model_id == model_id, Alias.name == alias))


def aliases_of(session: Session, model_id: str) -> Sequence[Alias]:
    """Return all aliases of a model."""
    return session.scalars(select(Alias).where(Alias.model_id == model_id).order_by(Alias.name)).all()


def alias_named(session: Session, model_id: str, *, alias: str) -> Version:
    """Return the version an alias points at.

    Raises:
        NotFound: the model has no such alias.
    """
    version = alias_version(session, model_id, alias=alias)
    if version is None:
        raise NotFound("no such alias")
    return version


def aliases_by_model(session: Session, model_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return, per model, alias name -> version number."""
    query = select(Alias.model_id, Alias.name, Version.number).join(Version, Version.id == Alias.version_id)
    found: dict[str, dict[str, int]] = {}
    for model_id, name, number in session.execute(
        query.where(Alias.model_id.in_(model_ids)).order_by(Alias.name)
    ):
        found.setdefault(model_id, {})[name] = number
    return found


def alias_moves(session: Session, model_id: str, *, alias: str) -> Sequence[AliasMove]:
    """Return the history of an alias, oldest first."""
    query = select(AliasMove).where(AliasMove.model_id == model_id, AliasMove.name == alias)
    return session.scalars(query.order_by(AliasMove.id)).all()


def files_of(session: Session, version_id: str) -> Sequence[VersionFile]:
    """Return the files of a version by name."""
    return files_of_versions(session, [version_id]).get(version_id, [])


def files_of_versions(session: Session, version_ids: Sequence[str]) -> dict[str, list[VersionFile]]:
    """Return the files of many versions by name."""
    query = select(VersionFile).where(VersionFile.version_id.in_(version_ids)).order_by(VersionFile.name)
    found: dict[str, list[VersionFile]] = {}
    for file in session.scalars(query):
        found.setdefault(file.version_id, []).append(file)
    return found


def file_named(session: Session, version_id: str, name: str) -> VersionFile:
    """Return one file of a version; the name is only ever compared, never made a path.

    Raises:
        NotFound: the version has no such file.
    """
    file = session.get(VersionFile, (version_id, name))
    if file is None:
        raise NotFound("no such file")
    return file


def version_of_job(session: Session, job_id: str) -> Version | None:
    """Return what a job published, if it did."""
    return session.scalar(select(Version).where(Version.job_id == job_id))


def version_with_manifest(session: Session, model_id: str, *, digest: str | None) -> Version | None:
    """Return the version that a manifest digest names, None without one."""
    query = select(Version).where(Version.model_id == model_id, Version.manifest_digest == digest)
    return session.scalar(query)


def current_versions(session: Session, model_ids: Collection[str]) -> dict[str, Version]:
    """Return, per model, what its alias ``current`` points at."""
    query = select(Alias.model_id, Version).join(Version, Version.id == Alias.version_id)
    query = query.where(Alias.model_id.in_(model_ids), Alias.name == CURRENT_ALIAS)
    return dict(iter(session.execute(query)))


def base_version(session: Session, model_id: str) -> Version | None:
    """Return what an interim version is built on: the staged exact one if there is one, else the current."""
    current = alias_version(session, model_id)
    query = select(Version).where(Version.model_id == model_id, Version.status == VersionStatus.STAGED)
    staged = session.scalars(query.order_by(Version.settled.desc())).first()
    if staged is None or current is None or staged.settled <= current.settled:
        return current
    return staged


def exact_ancestor(session: Session, model_id: str) -> Version | None:
    """Return the newest exact version, whose row stays after its purge: what a replay goes on from."""
    query = select(Version).where(Version.model_id == model_id, Version.guarantee == Guarantee.EXACT)
    return session.scalars(query.order_by(Version.settled.desc(), Version.number.desc())).first()


def is_interim(session: Session, version: Version) -> bool:
    """Whether an exact version is still to come for whom this one was treated for."""
    return session.get_one(Job, version.job_id).kind == JobKind.INTERIM


def methods_that_treated(session: Session, model_id: str) -> set[str]:
    """Return the empirical methods that have ever finished a deletion in this model."""
    query = select(Version.method).join(Job, Job.id == Version.job_id)
    return set(
        session.scalars(
            query.where(
                Version.model_id == model_id,
                Version.guarantee == Guarantee.EMPIRICAL,
                Job.kind == JobKind.SETTLE,
            )
        )
    )


def next_version_number(session: Session, model_id: str) -> int:
    """Return the number of the next version; call it under the model's lock."""
    highest = session.scalar(select(func.max(Version.number)).where(Version.model_id == model_id))
    return (highest or 0) + 1


def coverage_of(version: Version | None) -> Coverage | None:
    """Return the two numbers of a version as a domain value."""
    return None if version is None else Coverage(covers=version.covers, settled=version.settled)
