"""Whether what a class deletion or a rectification asks for fits the model or the datasets it is about.

Looks at schemas alone, never at a record: the answer is the same whoever the subject is. It is only said, not
raised: a repeat gets its first answer, whatever was imported or forgotten since.
"""

from dataclasses import dataclass, field

from sqlalchemy import select

from app.db.requests import labels_asked
from app.db.session import Sessions, reading
from app.db.tables import Dataset, Model
from app.domain.changes import Changes, label_misfits
from app.domain.errors import Misfit
from app.domain.terms import DatasetId, TenantName


def misfits_of_label(sessions: Sessions, label: int, *, model: str, tenant: TenantName) -> list[Misfit]:
    """Return why a model cannot forget a class: it does not have it, or no other would be left.

    What it was asked to forget counts, whether or not it is held or has begun.
    """
    with reading(sessions) as session:
        query = select(Dataset.name, Dataset.layout, Model.id).join(Model, Model.dataset_id == Dataset.id)
        found = session.execute(query.where(Model.tenant == tenant, Model.name == model)).one_or_none()
        gone = set() if found is None else labels_asked(session, found.id)
    if found is None:
        return [Misfit("/model", "no such model")]
    misfits = label_misfits(label, found.layout, dataset=found.name)
    if not misfits and len({*gone, label}) == found.layout["num_classes"]:
        return [Misfit("/label", f"no class of dataset {found.name!r} would be left for the model")]
    return misfits


@dataclass(frozen=True)
class Fit:
    """The datasets in scope of a rectification, id -> name, and why they cannot hold what it says."""

    datasets: dict[DatasetId, str] = field(default_factory=dict)
    misfits: list[Misfit] = field(default_factory=list)


def fit_of_changes(sessions: Sessions, changes: Changes, *, dataset: str | None, tenant: TenantName) -> Fit:
    """Return how changes fit the datasets in scope: the one that is named, else all, which must all fit."""
    with reading(sessions) as session:
        query = select(Dataset.id, Dataset.name, Dataset.layout).where(Dataset.tenant == tenant)
        if dataset is not None:
            query = query.where(Dataset.name == dataset)
        found = session.execute(query.order_by(Dataset.name)).all()
    if not found:
        return Fit(misfits=[Misfit("/dataset", "no such dataset")])
    hint = "; name the dataset that is meant" if len(found) > 1 else ""
    misfits = [
        Misfit(f"/changes{misfit.pointer}", misfit.detail + hint)
        for row in found
        for misfit in changes.misfits(row.layout, dataset=row.name)
    ]
    return Fit({DatasetId(row.id): row.name for row in found}, misfits)
