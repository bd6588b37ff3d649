"""Readmit a subject: later data of this person may be imported again, by an admin's word."""

from collections.abc import Sequence

from app.db.requests import delete_suppressions
from app.db.session import Sessions, writing
from app.domain.terms import TenantName


def readmit(sessions: Sessions, subject_refs: Sequence[bytes], *, tenant: TenantName) -> int:
    """Lift the suppressions of a subject and return how many there were; records already gone stay gone."""
    with writing(sessions) as session:
        return delete_suppressions(session, subject_refs, tenant=tenant)
