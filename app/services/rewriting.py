"""Write the corrected content of a record beside the one that it replaces, once a rectification is sealed.

Promises: the row that is there stays as it is until the request is closed; killed before the commit, the
same call writes over what it had begun. Never: a new content for a record that is about to be erased.
"""

import secrets

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import models_on
from app.db.records import add_corrected, lock_dataset, rows_of_subject, tombstone_numbers
from app.db.requests import SEALED, is_being_deleted
from app.db.tables import Dataset, Record, Request
from app.domain.changes import Changes
from app.domain.terms import DatasetId
from app.services.contents import Contents
from app.services.numbering import narrowed_to

SALT_BYTES = 16


def rewrite_records(session: Session, request: Request, *, contents: Contents) -> None:
    """Store the record of a rectification anew in every dataset that holds it, and note both rows.

    The caller holds the request's lock. Nothing happens where it was done before.

    Raises:
        ValueError, OSError: a data file cannot be used; nothing is stored.
    """
    asked = dict(request.asked or {})
    if "rows" in asked:
        return
    # First: what was committed by now is in the answer below, unless the database is older than the file.
    committed = {each: contents.num_committed(DatasetId(each)) for each in request.record_refs or {}}
    in_scope = select(Dataset).where(Dataset.id.in_(request.record_refs or {})).order_by(Dataset.id)
    datasets = session.scalars(in_scope).all()
    # All of them, whoever is in them: otherwise it would show who is in one that cannot be used.
    for each in datasets:
        contents.require_usable(DatasetId(each.id), layout=each.layout, num_rows=each.num_records)
        if committed[each.id] > each.num_records:
            raise ValueError(
                f"the database knows fewer records of {each.id} than were committed: it is older"
            )
    rows: dict[str, list[int]] = {}
    for each in datasets:
        pair = _rewrite(session, request, dataset_id=each.id, contents=contents)
        if pair is not None:
            rows[each.id] = list(pair)
    request.asked = {**asked, "rows": rows}


def _rewrite(
    session: Session, request: Request, *, dataset_id: str, contents: Contents
) -> tuple[int, int] | None:
    """Return the rows before and after in one dataset; None where it holds no such record any more."""
    if _live_row(session, request, dataset_id=dataset_id) is None:
        return None
    dataset = lock_dataset(session, dataset_id)
    # Again: whoever held the lock may have written a newer content, or erased them all.
    before = _live_row(session, request, dataset_id=dataset_id)
    if before is None:
        return None
    written = _written_for_the_same(session, request, dataset_id=dataset_id)
    if written is not None and written[1] == before:
        return written
    after = dataset.num_records
    digest = contents.write_changed(
        DatasetId(dataset_id),
        layout=dataset.layout,
        row=before,
        digest=session.get_one(Record, (dataset_id, before)).content_digest,
        changes=Changes.from_json(request.asked or {}),
        at=after,
    )
    salt = secrets.token_bytes(SALT_BYTES)
    add_corrected(session, dataset_id, before=before, after=after, salt=salt, content_digest=digest)
    dataset.num_records += 1
    return before, after


def _written_for_the_same(session: Session, request: Request, *, dataset_id: str) -> tuple[int, int] | None:
    """Return the rows that an open request for the same changes was given: it is linked, not worked twice."""
    first = None if request.duplicate_of is None else session.get(Request, request.duplicate_of)
    if first is None or first.status not in SEALED:
        return None
    rows = ((first.asked or {}).get("rows") or {}).get(dataset_id)
    return None if rows is None else (int(rows[0]), int(rows[1]))


def _live_row(session: Session, request: Request, *, dataset_id: str) -> int | None:
    """Return where the record's newest content lies, unless it is about to go.

    It is when an open deletion means it and every model of the dataset is to forget it. A class that all of
    them forgot stays in the dataset for models to come, which are to learn what is true.
    """
    refs = [bytes.fromhex(ref) for ref in request.subject_refs or []]
    narrowed = narrowed_to(request, dataset_id) or []
    rows = rows_of_subject(session, dataset_id, subject_refs=refs, record_refs=narrowed)
    if not rows:
        return None
    newest, models = rows[-1], models_on(session, dataset_id)
    is_forgotten = all(tombstone_numbers(session, model.id, [newest]) for model in models)
    is_asked_for = is_being_deleted(session, [model.id for model in models], row=newest)
    return None if is_forgotten and is_asked_for else newest
