"""Move an alias by hand: never to less coverage, never back to a version that saw somebody sealed."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.db.models import alias_version, find_version, lock_model, model_named
from app.db.records import marks_of
from app.db.session import Sessions, writing
from app.db.tables import Model, Version
from app.domain.access import Caller
from app.domain.coverage import Artifact, is_clean
from app.domain.errors import AliasMovedMeanwhile, VersionTainted
from app.domain.status import VersionStatus
from app.services.publish import move_alias

SERVED = (VersionStatus.PUBLISHED, VersionStatus.SUPERSEDED)


@dataclass(frozen=True)
class Expectation:
    """Where the caller believes that the alias points: at one of these manifests; None means anywhere."""

    manifest_digests: frozenset[str] | None


def point_alias(
    sessions: Sessions,
    model_name: str,
    *,
    alias: str,
    number: int,
    expected: Expectation | None,
    caller: Caller,
) -> None:
    """Point an alias of the caller's tenant at version ``number``; where it points already, do nothing.

    Raises:
        NotFound: the tenant has no such model, or it no such version.
        AliasMovedMeanwhile: the alias does not point where the caller expected.
        VersionTainted: the version saw a record whose deletion is sealed, or is not served.
        CoverageWouldFall: it has forgotten less than the alias has.
    """
    with writing(sessions) as session:
        model = lock_model(session, model_named(session, model_name, tenant=caller.tenant).id)
        before = alias_version(session, model.id, alias=alias)
        version = find_version(session, model.id, str(number))
        _require_expected(before, expected)
        if before is not None and before.id == version.id:
            return
        _require_clean(session, model, version)
        move_alias(session, model, alias=alias, version=version, actor=caller.key_id, why="moved by hand")


def _require_expected(before: Version | None, expected: Expectation | None) -> None:
    if expected is None:
        return
    wanted = expected.manifest_digests
    if before is None or (wanted is not None and before.manifest_digest not in wanted):
        raise AliasMovedMeanwhile("the alias does not point at the manifest that If-Match names")


def _require_clean(session: Session, model: Model, version: Version) -> None:
    # What was treated for a record is not tainted by it; coverage alone says where the alias may go.
    artifact = Artifact(shard=None, position=None, settled=version.covers)
    is_served = version.status in SERVED and version.revoked_at is None
    if not is_served or not is_clean(artifact, marks_of(session, model.id)):
        raise VersionTainted(
            f"version {version.number} saw records that are to be forgotten, or is not served"
        )
