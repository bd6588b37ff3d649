"""Store what an import found: the dataset and its records in one transaction.

Suppressed subjects and records are never stored. The check happens in the transaction that inserts, so a
deletion posted during a long import is honoured too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select

from app.db.jobs import now
from app.db.requests import live_suppressions
from app.db.session import Sessions, exclude_writers, reading, writing
from app.db.tables import Dataset, Record, Suppression
from app.domain.errors import NameTaken
from app.domain.terms import DatasetId, JsonObject, TenantName


@dataclass(frozen=True)
class Suppressed:
    """Keyed hashes whose owners must not come back."""

    subject_refs: frozenset[bytes]
    record_refs: frozenset[bytes]


@dataclass(frozen=True)
class NewDataset:
    """A dataset whose data file is written already. ``layout`` describes one row of it."""

    id: DatasetId
    name: str
    subject_type: str
    num_records: int
    layout: JsonObject


class SuppressedMeanwhile(Exception):
    """A deletion arrived during the import: filter again and write again."""


def suppressed(sessions: Sessions, *, tenant: TenantName) -> Suppressed:
    """Return what an import must skip now."""
    with reading(sessions) as session:
        subjects, records = live_suppressions(session, tenant=tenant, now=now(session))
        return Suppressed(subject_refs=frozenset(subjects), record_refs=frozenset(records))


def has_dataset(sessions: Sessions, dataset_id: str) -> bool:
    """Whether a dataset with this id was ever committed."""
    with reading(sessions) as session:
        return session.get(Dataset, dataset_id) is not None


def refuse_taken_name(sessions: Sessions, name: str, *, tenant: TenantName) -> None:
    """Refuse a name before the long work begins.

    Raises:
        NameTaken: a dataset of this name stands.
    """
    with reading(sessions) as session:
        query = select(Dataset.id).where(Dataset.tenant == tenant, Dataset.name == name)
        if session.scalar(query) is not None:
            raise NameTaken(f"a dataset called {name!r} stands already")


def add_dataset(
    sessions: Sessions,
    new: NewDataset,
    *,
    tenant: TenantName,
    records: Sequence[Mapping[str, Any]],
    honoured: Suppressed,
) -> None:
    """Insert a dataset with its records.

    Raises:
        NameTaken: a dataset of this name stands.
        SuppressedMeanwhile: more is suppressed than ``honoured`` says.
    """
    with writing(sessions) as session:
        query = select(Dataset.id).where(Dataset.tenant == tenant, Dataset.name == new.name)
        if session.scalar(query) is not None:
            raise NameTaken(f"a dataset called {new.name!r} stands already")
        session.add(
            Dataset(
                id=new.id,
                tenant=tenant,
                name=new.name,
                subject_type=new.subject_type,
                num_records=new.num_records,
                layout=new.layout,
            )
        )
        session.flush()
        session.execute(insert(Record), [{"dataset_id": new.id, **record} for record in records])
        # Last, and nobody posts until it is committed: a deletion that comes after it sees the dataset.
        exclude_writers(session, Suppression)
        subjects, refs = live_suppressions(session, tenant=tenant, now=now(session))
        if not (subjects <= honoured.subject_refs and refs <= honoured.record_refs):
            raise SuppressedMeanwhile
