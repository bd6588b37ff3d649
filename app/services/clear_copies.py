"""Erase what lies behind the last record of a data file: corrected copies whose sealing never ended.

Whoever sealed was killed before the commit. The next sealing would write over such a copy; but its request
may be cancelled meanwhile, and then nobody comes. Promises: a copy that is being sealed stays, and so does
every record, those too that a database put back to an older state does not know any more.
"""

from collections.abc import Mapping
from typing import NamedTuple

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.records import lock_dataset
from app.db.session import Sessions, reading, writing
from app.db.tables import Dataset
from app.domain.terms import DatasetId
from app.services.contents import Contents

_log = structlog.get_logger()


class Kept(NamedTuple):
    """What kept copies from being erased: the name that it is logged by, and the reason."""

    event: str
    reason: str


def clear_copies(
    sessions: Sessions, *, contents: Contents, known: Mapping[DatasetId, Kept] | None = None
) -> dict[DatasetId, Kept]:
    """Erase such copies from every data file and return what kept some of them from it.

    Those problems are logged, but for the ``known`` ones: every sweep meets them.
    """
    with reading(sessions) as session:
        datasets = session.scalars(select(Dataset).order_by(Dataset.id)).all()
    tried = {DatasetId(each.id): _clear_one(sessions, each, contents=contents) for each in datasets}
    found = {dataset_id: kept for dataset_id, kept in tried.items() if kept is not None}
    for dataset_id, kept in found.items():
        if (known or {}).get(dataset_id) != kept:
            _log.error(kept.event, dataset=dataset_id, error=kept.reason)
    return found


def _clear_one(sessions: Sessions, dataset: Dataset, *, contents: Contents) -> Kept | None:
    """Clear one file, and return what kept its copies, if anything did."""
    try:
        return _clear(sessions, dataset.id, contents=contents) if _has_copies(dataset, contents) else None
    except (OSError, ValueError) as error:
        return Kept("copies_not_erased", str(error))


def _clear(sessions: Sessions, dataset_id: str, *, contents: Contents) -> Kept | None:
    """Look again under the lock that sealing holds: what lay there may be a record now.

    First that lock, then the file's, as sealing does. The database is asked again under both: one that
    answers held its lock until here, and from here the file's own keeps a copy from being written.
    """
    own = DatasetId(dataset_id)
    with writing(sessions) as session:
        lock_dataset(session, dataset_id)
        with contents.alone(own):
            dataset = _asked_again(session, dataset_id)
            if not _has_copies(dataset, contents):
                return None
            num_committed = contents.num_committed(own)
            if num_committed > dataset.num_records:
                reason = f"{num_committed} rows were committed, {dataset.num_records} are known"
                return Kept("database_older_than_data", reason)
            contents.erase_copies(own, layout=dataset.layout, num_rows=dataset.num_records)
    _log.warning("copies_erased", dataset=dataset_id)
    return None


def _asked_again(session: Session, dataset_id: str) -> Dataset:
    found = select(Dataset).where(Dataset.id == dataset_id)
    return session.scalars(found.execution_options(populate_existing=True)).one()


def _has_copies(dataset: Dataset, contents: Contents) -> bool:
    return contents.has_copies(DatasetId(dataset.id), layout=dataset.layout, num_rows=dataset.num_records)
