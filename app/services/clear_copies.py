"""Erase what lies behind the last record of a data file: corrected copies whose sealing never ended.

Whoever sealed was killed before the commit. The next sealing would write over such a copy; but its request
may be cancelled meanwhile, and then nobody comes. Promises: a copy that is being sealed stays, and so does
every record.
"""

import structlog
from sqlalchemy import select

from app.db.records import lock_dataset
from app.db.session import Sessions, reading, writing
from app.db.tables import Dataset
from app.domain.terms import DatasetId
from app.services.contents import Contents

_log = structlog.get_logger()


def clear_copies(sessions: Sessions, *, contents: Contents) -> list[DatasetId]:
    """Erase such copies from every data file and return the ids of their datasets."""
    with reading(sessions) as session:
        datasets = session.scalars(select(Dataset).order_by(Dataset.id)).all()
    cleared = []
    for each in datasets:
        try:
            if _has_copies(each, contents=contents) and _clear(sessions, each.id, contents=contents):
                cleared.append(DatasetId(each.id))
        except OSError as error:
            _log.error("copies_not_erased", dataset=each.id, error=str(error))
    return cleared


def _clear(sessions: Sessions, dataset_id: str, *, contents: Contents) -> bool:
    """Look again under the lock that sealing holds: what lay there may be a record now."""
    with writing(sessions) as session:
        dataset = lock_dataset(session, dataset_id)
        if not _has_copies(dataset, contents=contents):
            return False
        contents.erase_copies(DatasetId(dataset_id), layout=dataset.layout, num_rows=dataset.num_records)
        return True


def _has_copies(dataset: Dataset, *, contents: Contents) -> bool:
    return contents.has_copies(DatasetId(dataset.id), layout=dataset.layout, num_rows=dataset.num_records)
