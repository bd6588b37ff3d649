"""Number what a request means in one model: one tombstone for each record, in row order.

A deletion means the records of its subject, or those it was narrowed to; a class deletion all records with
its label. A rectification means one record, whose corrected content takes its place from that number on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from app.db.records import (
    add_tombstones,
    place_as,
    placements_of,
    rows_in,
    rows_of_subject,
    successor_of,
    tombstone_numbers,
)
from app.db.requests import labels_deleted
from app.db.tables import Dataset, Model, Request
from app.domain.status import RequestKind
from app.domain.terms import DatasetId
from app.services.contents import Contents


class NeedsContents(Exception):
    """The request cannot be sealed without the bytes of records, which this process does not have."""


@dataclass(frozen=True)
class Numbered:
    """What a model holds of a request: how many records, and the highest tombstone number among them."""

    num_records: int
    through: int | None


@dataclass(frozen=True)
class _Meant:
    """Rows that no job may train on any more, in order, and those that take their places.

    A row that stands in its own place is a content that no job may learn, whatever its n.
    """

    rows: Sequence[int]
    replaced_by: Mapping[int, int] = field(default_factory=dict)

    def is_never_learned(self, row: int) -> bool:
        """Whether no run of any n meets the row, so that none has to be made again without it."""
        return self.replaced_by.get(row) == row


def number_records(
    session: Session, request: Request, *, model: Model, contents: Contents | None
) -> Numbered:
    """Give every record that a request means a number in one model; the caller holds both locks.

    Raises:
        NeedsContents: only a process with ``contents`` can say which records these are.
    """
    meant = _meant(session, request, model=model, contents=contents)
    numbers = tombstone_numbers(session, model.id, meant.rows)
    places = placements_of(session, model, meant.rows)
    marks: list[dict[str, object]] = []
    for row in meant.rows:
        if row in numbers:
            continue
        numbers[row] = model.num_sealed + len(marks) + 1
        shard, block = (None, None) if meant.is_never_learned(row) else places.get(row, (None, None))
        marks.append(
            {
                "model_id": model.id,
                "number": numbers[row],
                "request_id": request.id,
                "row": row,
                "shard": shard,
                "position": block,
                "replaced_by": meant.replaced_by.get(row),
            }
        )
    model.num_sealed += len(marks)
    add_tombstones(session, marks)
    return Numbered(num_records=len(meant.rows), through=max(numbers.values(), default=None))


def rows_of_request(session: Session, request: Request, *, dataset_id: str) -> list[int]:
    """Return the rows of a dataset whose bytes go when nobody uses them any more.

    A class deletion has none: it is about a model, and nobody asked to destroy other people's records.
    """
    match RequestKind(request.kind):
        case RequestKind.DELETION:
            refs = [bytes.fromhex(ref) for ref in request.subject_refs or []]
            narrowed = narrowed_to(request, dataset_id)
            return rows_of_subject(session, dataset_id, subject_refs=refs, record_refs=narrowed)
        case RequestKind.RECTIFICATION:
            return rows_in(session, dataset_id, _rows(request, dataset_id)[:1])
        case RequestKind.CLASS_DELETION:
            return []


def narrowed_to(request: Request, dataset_id: str) -> list[bytes] | None:
    """Return the refs of the only records of a dataset that a request means; None means all."""
    if request.record_refs is None:
        return None
    return [bytes.fromhex(ref) for ref in request.record_refs.get(dataset_id, [])]


def _meant(session: Session, request: Request, *, model: Model, contents: Contents | None) -> _Meant:
    match RequestKind(request.kind):
        case RequestKind.DELETION:
            return _Meant(rows=rows_of_request(session, request, dataset_id=model.dataset_id))
        case RequestKind.CLASS_DELETION:
            return _Meant(rows=_rows_of_class(session, request, model=model, contents=contents))
        case RequestKind.RECTIFICATION:
            return _corrected(session, request, model=model)


def _rows_of_class(
    session: Session, request: Request, *, model: Model, contents: Contents | None
) -> list[int]:
    if contents is None:
        raise NeedsContents
    dataset = session.get_one(Dataset, model.dataset_id)
    label = int((request.asked or {})["label"])
    rows = contents.labelled(DatasetId(dataset.id), layout=dataset.layout, label=label)
    return rows_in(session, dataset.id, rows)


def _corrected(session: Session, request: Request, *, model: Model) -> _Meant:
    """Return the row before, and the one that takes its place where the model may still learn it.

    Where the record was forgotten before, or its new class was, the corrected content is never learned: a
    run below its number would otherwise take it for a record that was always there.
    """
    rows = rows_in(session, model.dataset_id, _rows(request, model.dataset_id))
    if len(rows) < 2:
        return _Meant(rows=[])
    before, after = rows
    place_as(session, model.id, row=after, like=before)
    if successor_of(session, model.id, before) == after:
        return _Meant(rows=[before])
    is_forgotten = before in tombstone_numbers(session, model.id, [before])
    if is_forgotten or (request.asked or {}).get("label") in labels_deleted(session, model.id):
        return _Meant(rows=rows, replaced_by={after: after})
    return _Meant(rows=[before], replaced_by={before: after})


def _rows(request: Request, dataset_id: str) -> list[int]:
    """Return the rows [before, after] of a sealed rectification in a dataset; empty when it holds none."""
    rows = ((request.asked or {}).get("rows") or {}).get(dataset_id, [])
    return [int(row) for row in rows]
