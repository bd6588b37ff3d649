"""Queries about records, placements and tombstones."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, case, delete, insert, literal, null, select, update
from sqlalchemy.orm import Session

from app.db.tables import Dataset, Model, Placement, Record, Target, Tombstone
from app.domain.coverage import Mark
from app.domain.errors import NotFound

# Where a model without a plan has met every record that is not held out: nothing lies before that.
_WITHOUT_PLAN = (0, 0)
# SQLite takes at most 32 766 bound values in one statement.
_BATCH = 5_000

_RECORD = (
    Record.row,
    Record.record_ref,
    Record.subject_ref,
    Record.salt,
    Record.content_digest,
    Record.is_held_out,
)


def dataset_named(session: Session, name: str, *, tenant: str) -> Dataset:
    """Return one dataset of a tenant.

    Raises:
        NotFound: the tenant has no such dataset.
    """
    dataset = session.scalar(select(Dataset).where(Dataset.tenant == tenant, Dataset.name == name))
    if dataset is None:
        raise NotFound(f"no dataset is called {name!r}: import it first")
    return dataset


def rows_of_subject(
    session: Session,
    dataset_id: str,
    *,
    subject_refs: Collection[bytes],
    record_refs: Collection[bytes] | None,
) -> list[int]:
    """Return where the records of a subject lie, in row order.

    ``record_refs`` may only narrow to records of that subject: a foreign one finds nothing.
    """
    query = select(Record.row).where(Record.dataset_id == dataset_id, Record.subject_ref.in_(subject_refs))
    if record_refs is not None:
        query = query.where(Record.record_ref.in_(record_refs))
    return list(session.scalars(query.order_by(Record.row)))


def rows_in(session: Session, dataset_id: str, rows: Sequence[int]) -> list[int]:
    """Return which of these rows of a dataset are still there, in order."""
    found: list[int] = []
    for part in in_batches(rows):
        query = select(Record.row).where(Record.dataset_id == dataset_id, Record.row.in_(part))
        found += session.scalars(query)
    return sorted(found)


def lock_dataset(session: Session, dataset_id: str) -> Dataset:
    """Return a dataset and keep others from adding a row to it until the transaction ends."""
    query = select(Dataset).where(Dataset.id == dataset_id).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).one()


def add_corrected(
    session: Session, dataset_id: str, *, before: int, after: int, salt: bytes, content_digest: bytes
) -> None:
    """Store the record at row ``before`` once more at row ``after``, with other content and a fresh salt."""
    own = session.get_one(Record, (dataset_id, before))
    kept = {column.key: getattr(own, column.key) for column in own.__table__.columns}
    changed = {"row": after, "salt": salt, "content_digest": content_digest}
    session.execute(insert(Record).values({**kept, **changed}))


def place_as(session: Session, model_id: str, *, row: int, like: int) -> None:
    """Put a row where the plan of a model has another; nothing is done where either is settled already."""
    if session.get(Placement, (model_id, row)) is not None:
        return
    own = session.get(Placement, (model_id, like))
    if own is not None:
        session.add(Placement(model_id=model_id, row=row, shard=own.shard, block=own.block, token=own.token))
        session.flush()


def add_tombstones(session: Session, marks: Sequence[Mapping[str, object]]) -> None:
    """Store new tombstones by column; a class may have as many as there are records."""
    if marks:
        session.execute(insert(Tombstone), marks)


def placements_of(session: Session, model: Model, rows: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Return (shard, block) by row; held-out records have no place."""
    if not model.has_plan:
        return dict.fromkeys(_trained_on(session, model.dataset_id, rows), _WITHOUT_PLAN)
    found: dict[int, tuple[int, int]] = {}
    for part in in_batches(rows):
        query = select(Placement.row, Placement.shard, Placement.block)
        for row, shard, block in session.execute(
            query.where(Placement.model_id == model.id, Placement.row.in_(part))
        ):
            found[row] = (shard, block)
    return found


def _trained_on(session: Session, dataset_id: str, rows: Sequence[int]) -> Iterator[int]:
    """Yield the rows that are not held out."""
    for part in in_batches(rows):
        query = select(Record.row).where(Record.dataset_id == dataset_id, Record.row.in_(part))
        yield from session.scalars(query.where(Record.is_held_out.is_(False)))


def tombstone_numbers(session: Session, model_id: str, rows: Sequence[int]) -> dict[int, int]:
    """Return the tombstone number by row, for those that have one."""
    found: dict[int, int] = {}
    for part in in_batches(rows):
        query = select(Tombstone.row, Tombstone.number)
        for row, number in session.execute(
            query.where(Tombstone.model_id == model_id, Tombstone.row.in_(part))
        ):
            if row is not None:
                found[row] = number
    return found


def rows_never_learned(session: Session, model_id: str) -> set[int]:
    """Return the rows whose content no run of a model may learn, whatever its n; without erased ones."""
    is_itself = Tombstone.replaced_by.is_not(None), Tombstone.row == Tombstone.replaced_by
    found = session.scalars(select(Tombstone.row).where(Tombstone.model_id == model_id, *is_itself))
    return {row for row in found if row is not None}


def was_met(session: Session, target: Target) -> bool:
    """Whether training met a record that a sealed target numbered; held-out ones it never does.

    True where an earlier request had numbered them all: then nobody looks again.
    """
    query = select(Tombstone.position).where(Tombstone.model_id == target.model_id)
    positions = session.scalars(query.where(Tombstone.request_id == target.request_id)).all()
    return not positions or any(position is not None for position in positions)


def successor_of(session: Session, model_id: str, row: int) -> int | None:
    """Return the row that takes a tombstoned one's place in a model, if there is one."""
    query = select(Tombstone.replaced_by).where(Tombstone.model_id == model_id, Tombstone.row == row)
    return session.scalars(query.where(Tombstone.replaced_by.is_not(None))).first()


def marks_of(session: Session, model_id: str, *, above: int = 0, through: int | None = None) -> list[Mark]:
    """Return the sealed tombstones of a model in order, from the one after ``above`` up to ``through``."""
    query = select(Tombstone.number, Tombstone.shard, Tombstone.position)
    query = query.where(Tombstone.model_id == model_id, Tombstone.number > above).order_by(Tombstone.number)
    if through is not None:
        query = query.where(Tombstone.number <= through)
    return [
        Mark(number=number, shard=shard, position=position)
        for number, shard, position in session.execute(query)
    ]


def retained_records(session: Session, model: Model, *, covers: int) -> Sequence[Any]:
    """Return the records a run with ``n = covers`` may train on or test on, in row order.

    A corrected content is there from the number on that tombstones the one before it.

    Each has row, record_ref, subject_ref, salt, content_digest, is_held_out and, for training records,
    shard, block and token.
    """
    is_retained = ~_is_forgotten(model, above=0, covers=covers), ~_is_to_come(model, covers=covers)
    return session.execute(_records(model).where(*is_retained)).all()


def forgotten_records(
    session: Session, model: Model, *, above: int, covers: int, is_learned: bool = False
) -> Sequence[Row[Any]]:
    """Return the records with a tombstone number in (above, covers] whose rows still exist.

    With ``is_learned`` only those that a run with ``n = above`` may have been trained on: a content that came
    and went since is none of them.
    """
    query = _records(model).where(_is_forgotten(model, above=above, covers=covers))
    return session.execute(query.where(~_is_to_come(model, covers=above)) if is_learned else query).all()


def corrected_records(session: Session, model: Model, *, above: int, covers: int) -> Sequence[Row[Any]]:
    """Return the retained records that take the places of others from a number in (above, covers] on."""
    rows = select(Tombstone.replaced_by).where(
        Tombstone.model_id == model.id, Tombstone.replaced_by.is_not(None), Tombstone.number > above,
        Tombstone.number <= covers,
    )  # fmt: skip
    is_retained = Record.row.in_(rows), ~_is_forgotten(model, above=0, covers=covers)
    return session.execute(_records(model).where(*is_retained)).all()


def training_records(session: Session, dataset_id: str) -> Sequence[Any]:
    """Return the records of a dataset that a training may use, without places, in row order."""
    no_place = (null().label("shard"), null().label("block"), null().label("token"))
    query = select(*_RECORD, Record.spread, Record.likelihood, *no_place).where(
        Record.dataset_id == dataset_id, Record.is_held_out.is_(False)
    )
    return session.execute(query.order_by(Record.row)).all()


def records_without_plan(session: Session, dataset_id: str) -> Sequence[Any]:
    """Return all records of a dataset as a model without a plan holds them, in row order."""
    return session.execute(_without_plan(dataset_id)).all()


def traits_of(session: Session, dataset_id: str) -> dict[int, tuple[int, float | None]]:
    """Return (spread, likelihood) by row: what a subject's place depends on besides its refs."""
    query = select(Record.row, Record.spread, Record.likelihood).where(Record.dataset_id == dataset_id)
    return {row: (spread, likelihood) for row, spread, likelihood in session.execute(query)}


def delete_records(session: Session, dataset_id: str, rows: Sequence[int]) -> None:
    """Delete refs, content digests, salts and tokens of records; tombstones keep number and place."""
    model_ids = list(session.scalars(select(Model.id).where(Model.dataset_id == dataset_id)))
    for part in in_batches(rows):
        session.execute(
            update(Tombstone)
            .where(Tombstone.model_id.in_(model_ids), Tombstone.row.in_(part))
            .values(row=None, replaced_by=None, request_id=None)
        )
        session.execute(
            update(Tombstone)
            .where(Tombstone.model_id.in_(model_ids), Tombstone.replaced_by.in_(part))
            .values(replaced_by=None)
        )
        session.execute(delete(Placement).where(Placement.model_id.in_(model_ids), Placement.row.in_(part)))
        session.execute(delete(Record).where(Record.dataset_id == dataset_id, Record.row.in_(part)))


def in_batches(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cut a long list into parts that fit one statement."""
    return (rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH))


def _without_plan(dataset_id: str) -> Any:
    shard, block = (
        case((Record.is_held_out, null()), else_=literal(place)).label(name)
        for name, place in zip(("shard", "block"), _WITHOUT_PLAN, strict=True)
    )
    query = select(*_RECORD, shard, block, null().label("token"))
    return query.where(Record.dataset_id == dataset_id).order_by(Record.row)


def _records(model: Model) -> Any:
    if not model.has_plan:
        return _without_plan(model.dataset_id)
    place = and_(Placement.model_id == model.id, Placement.row == Record.row)
    columns = (*_RECORD, Placement.shard, Placement.block, Placement.token)
    query = select(*columns).outerjoin(Placement, place)
    return query.where(Record.dataset_id == model.dataset_id).order_by(Record.row)


def _is_forgotten(model: Model, *, above: int, covers: int) -> ColumnElement[bool]:
    # One list for the whole query: asked record by record, SQLite would walk all tombstones each time.
    rows = select(Tombstone.row).where(
        Tombstone.model_id == model.id,
        Tombstone.row.is_not(None),
        Tombstone.number > above,
        Tombstone.number <= covers,
    )
    return Record.row.in_(rows)


def _is_to_come(model: Model, *, covers: int) -> ColumnElement[bool]:
    rows = select(Tombstone.replaced_by).where(
        Tombstone.model_id == model.id, Tombstone.replaced_by.is_not(None), Tombstone.number > covers
    )
    return Record.row.in_(rows)
