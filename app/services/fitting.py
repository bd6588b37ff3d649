"""Whether what a class deletion or a rectification asks for fits the model or the datasets it is about.

Looks at schemas alone, never at a record: the answer is the same whoever the subject is.
"""

from sqlalchemy import select

from app.db.requests import labels_deleted
from app.db.session import Sessions, reading
from app.db.tables import Dataset, Model
from app.domain.changes import Changes
from app.domain.errors import DoesNotFit
from app.domain.terms import DatasetId, TenantName


def require_label(sessions: Sessions, label: int, *, model: str, tenant: TenantName) -> None:
    """Refuse a class that a model does not have, and the last one that it has.

    Raises:
        DoesNotFit: there is no such model, its dataset has no such label, or no other would be left.
    """
    with reading(sessions) as session:
        query = select(Dataset.name, Dataset.layout, Model.id).join(Model, Model.dataset_id == Dataset.id)
        found = session.execute(query.where(Model.tenant == tenant, Model.name == model)).one_or_none()
        gone = set() if found is None else labels_deleted(session, found.id)
    if found is None:
        raise DoesNotFit([("/model", "no such model")])
    misfits = Changes(label=label).misfits(found.layout, dataset=found.name)
    if misfits:
        raise DoesNotFit([(misfit.pointer, misfit.detail) for misfit in misfits])
    if len({*gone, label}) == found.layout["num_classes"]:
        raise DoesNotFit([("/label", f"no class of dataset {found.name!r} would be left for the model")])


def require_changes(
    sessions: Sessions, changes: Changes, *, dataset: str | None, tenant: TenantName
) -> dict[DatasetId, str]:
    """Return id -> name of the datasets in scope: the one that is named, else all, which must all fit.

    Raises:
        DoesNotFit: there is no such dataset, or one cannot hold these changes.
    """
    with reading(sessions) as session:
        query = select(Dataset.id, Dataset.name, Dataset.layout).where(Dataset.tenant == tenant)
        if dataset is not None:
            query = query.where(Dataset.name == dataset)
        found = session.execute(query.order_by(Dataset.name)).all()
    if not found:
        raise DoesNotFit([("/dataset", "no such dataset")])
    misfits = [misfit for row in found for misfit in changes.misfits(row.layout, dataset=row.name)]
    if misfits:
        hint = "; name the dataset that is meant" if len(found) > 1 else ""
        raise DoesNotFit([(f"/changes{misfit.pointer}", misfit.detail + hint) for misfit in misfits])
    return {DatasetId(row.id): row.name for row in found}
