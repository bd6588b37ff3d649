"""Scratch copies of records: registered before they are written, so that a purge finds them."""

from sqlalchemy import select

from app.db.ids import new_id
from app.db.session import Sessions, reading, writing
from app.db.tables import ScratchCopy, Tombstone
from app.domain.errors import Refused
from app.domain.terms import ModelId


def register_copy(sessions: Sessions, model_id: ModelId, *, settled: int) -> str:
    """Return the id (and folder name) of a copy about to be made of what a version was trained on.

    Raises:
        Refused: records that the version was trained on have been purged since.
    """
    with writing(sessions) as session:
        purged = select(Tombstone.number).where(
            Tombstone.model_id == model_id,
            Tombstone.number > settled,
            Tombstone.row.is_(None),
            Tombstone.position.is_not(None),
        )
        number = session.scalar(purged.order_by(Tombstone.number).limit(1))
        if number is not None:
            raise Refused(
                f"this version was trained on a record that has been purged since (tombstone {number}): "
                "nobody can train it again"
            )
        copy = ScratchCopy(id=new_id("scr"), model_id=model_id, settled=settled)
        session.add(copy)
        return copy.id


def require_copy(sessions: Sessions, copy_id: str) -> None:
    """Make sure that a copy is still in the lineage; ask once its folder is there for a purge to find.

    Raises:
        Refused: a purge took it out of the lineage before it was written.
    """
    with reading(sessions) as session:
        if session.get(ScratchCopy, copy_id) is None:
            raise Refused("records of this copy have been purged meanwhile: ask again")


def forget_copy(sessions: Sessions, copy_id: str) -> None:
    """Take a copy out of the lineage once its folder is gone."""
    with writing(sessions) as session:
        copy = session.get(ScratchCopy, copy_id)
        if copy is not None:
            session.delete(copy)
