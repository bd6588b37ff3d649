"""Read models, versions, aliases and the files that the store serves.

Promises: a file is handed out only while its version may be fetched, and only with bytes that the store
has verified against its digest. Never: a path made from anything that a client sent.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy.orm import Session

from app.db.models import (
    alias_moves,
    alias_named,
    aliases_by_model,
    aliases_of,
    all_models,
    file_named,
    files_of_versions,
    find_version,
    model_named,
    names_of_datasets,
    versions_of,
)
from app.db.session import Sessions, reading
from app.db.tables import AliasMove, Model, Version, VersionFile
from app.domain.errors import NotFound, VersionPurged, VersionRevoked
from app.domain.status import VersionStatus
from app.domain.terms import JsonObject, ModelId, TenantName
from models_store.blobs import BlobStore
from models_store.errors import BlobMissing


@dataclass(frozen=True)
class ModelView:
    """A model: ``aliases`` maps names to version numbers, ``num_sealed`` counts its tombstones."""

    name: str
    dataset: str
    recipe_digest: str
    policy: JsonObject
    num_sealed: int
    training_seconds: float
    created_at: float
    aliases: dict[str, int]


@dataclass(frozen=True)
class FileView:
    """A file of a version; ``size`` in bytes."""

    name: str
    digest: str
    size: int


@dataclass(frozen=True)
class VersionView:
    """A version with its manifest; ``covers`` and ``settled`` are tombstone numbers."""

    model: str
    number: int
    status: str
    covers: int
    settled: int
    guarantee: str
    method: str
    manifest_digest: str
    weights_digest: str
    parent: str | None
    combine: str | None
    aliases: list[str]
    files: list[FileView]
    manifest: JsonObject
    published_at: float
    revoked_at: float | None
    purged_at: float | None


@dataclass(frozen=True)
class MoveView:
    """One move of an alias."""

    from_number: int | None
    to_number: int
    actor: str
    reason: str
    moved_at: float


@dataclass(frozen=True)
class AliasView:
    """An alias, where it points, and where it pointed."""

    model: str
    alias: str
    version: int
    manifest_digest: str
    history: list[MoveView]


@dataclass(frozen=True)
class ServedFile:
    """A verified file, ready to be sent; ``require_served`` raises what the caller hears when it has gone."""

    path: Path
    digest: str
    status: os.stat_result
    require_served: Callable[[], object]


def list_models(sessions: Sessions, *, tenant: TenantName) -> list[ModelView]:
    """Return the tenant's models by name."""
    with reading(sessions) as session:
        return _model_views(session, all_models(session, tenant=tenant), tenant=tenant)


def show_model(sessions: Sessions, name: str, *, tenant: TenantName) -> ModelView:
    """Return one model."""
    with reading(sessions) as session:
        return _model_views(session, [model_named(session, name, tenant=tenant)], tenant=tenant)[0]


def model_id_named(sessions: Sessions, name: str, *, tenant: TenantName) -> ModelId:
    """Return the id of a model."""
    with reading(sessions) as session:
        return ModelId(model_named(session, name, tenant=tenant).id)


def list_versions(sessions: Sessions, model_name: str, *, tenant: TenantName) -> list[VersionView]:
    """Return a model's versions, oldest first."""
    with reading(sessions) as session:
        model = model_named(session, model_name, tenant=tenant)
        return _version_views(session, model, versions_of(session, model.id))


def show_version(sessions: Sessions, model_name: str, version: str, *, tenant: TenantName) -> VersionView:
    """Return the version with a number or behind an alias; purged ones too, as the record of what was."""
    with reading(sessions) as session:
        model = model_named(session, model_name, tenant=tenant)
        return _version_views(session, model, [find_version(session, model.id, version)])[0]


def show_alias(sessions: Sessions, model_name: str, alias: str, *, tenant: TenantName) -> AliasView:
    """Return an alias with its history."""
    with reading(sessions) as session:
        model = model_named(session, model_name, tenant=tenant)
        version = alias_named(session, model.id, alias=alias)
        history = [_move_view(move) for move in alias_moves(session, model.id, alias=alias)]
        return AliasView(
            model=model.name, alias=alias, version=version.number, manifest_digest=version.manifest_digest,
            history=history,
        )  # fmt: skip


def open_file(
    sessions: Sessions, model_name: str, version: str, *, name: str, tenant: TenantName, store: BlobStore
) -> ServedFile:
    """Return where the verified bytes of a file lie.

    Raises:
        NotFound: there is no such model, version or file.
        VersionRevoked: the version saw somebody who is to be forgotten.
        VersionPurged: its bytes are gone.
    """
    find = partial(_find_file, sessions, model_name, version, name=name, tenant=tenant)
    file = find()
    try:
        path = store.path(file.digest)
        return ServedFile(path=path, digest=file.digest, status=path.stat(), require_served=find)
    except (BlobMissing, FileNotFoundError):
        # A purge may have come between the look at the row and the look at the store: look at the row again.
        find()
        raise


def _find_file(
    sessions: Sessions, model_name: str, version: str, *, name: str, tenant: TenantName
) -> VersionFile:
    with reading(sessions) as session:
        model = model_named(session, model_name, tenant=tenant)
        found = find_version(session, model.id, version)
        _require_served(found)
        return file_named(session, found.id, name)


def _require_served(version: Version) -> None:
    if version.status == VersionStatus.PURGED:
        raise VersionPurged(f"version {version.number} saw somebody who was forgotten; its bytes are gone")
    if version.revoked_at is not None:
        raise VersionRevoked(f"version {version.number} saw somebody who is being forgotten")
    if version.status == VersionStatus.STAGED:
        raise NotFound("no such version")


def _model_views(session: Session, models: Sequence[Model], *, tenant: str) -> list[ModelView]:
    datasets = names_of_datasets(session, tenant=tenant)
    aliases = aliases_by_model(session, [model.id for model in models])
    return [
        ModelView(
            name=model.name, dataset=datasets[model.dataset_id], recipe_digest=model.recipe_digest,
            policy=model.policy, num_sealed=model.num_sealed, training_seconds=model.training_seconds,
            created_at=model.created_at, aliases=aliases.get(model.id, {}),
        )
        for model in models
    ]  # fmt: skip


def _version_views(session: Session, model: Model, versions: Sequence[Version]) -> list[VersionView]:
    files = files_of_versions(session, [version.id for version in versions])
    names: dict[str, list[str]] = {}
    for alias in aliases_of(session, model.id):
        names.setdefault(alias.version_id, []).append(alias.name)
    return [
        _version_view(model, version, aliases=names.get(version.id, []), files=files.get(version.id, []))
        for version in versions
    ]


def _version_view(
    model: Model, version: Version, *, aliases: list[str], files: Sequence[VersionFile]
) -> VersionView:
    return VersionView(
        model=model.name, number=version.number, status=version.status, covers=version.covers,
        settled=version.settled, guarantee=version.guarantee, method=version.method,
        manifest_digest=version.manifest_digest, weights_digest=version.weights_digest,
        parent=version.manifest.get("parent"), combine=version.manifest.get("combine"), aliases=aliases,
        manifest=version.manifest,
        files=[FileView(name=file.name, digest=file.digest, size=file.size) for file in files],
        published_at=version.published_at, revoked_at=version.revoked_at, purged_at=version.purged_at,
    )  # fmt: skip


def _move_view(move: AliasMove) -> MoveView:
    return MoveView(
        from_number=move.from_number, to_number=move.to_number, actor=move.actor, reason=move.reason,
        moved_at=move.moved_at,
    )  # fmt: skip
