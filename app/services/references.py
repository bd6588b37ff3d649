"""Who needs which blob. The reference comes first, the bytes second; unlinking excludes both.

Promises: a blob with a live reference is never unlinked, because references are counted in the
transaction that unlinks, under the lock of the blob's row.
"""

from collections.abc import Iterable

from sqlalchemy.orm import Session

from app.db.jobs import fenced, is_referenced, lock_blob, references_of
from app.db.session import Sessions, writing
from app.db.tables import BlobReference
from app.domain.terms import Claim
from models_store.blobs import BlobStore, Digest, digest_of


def put_blob(sessions: Sessions, data: bytes, *, claim: Claim, store: BlobStore) -> Digest:
    """Register a job's need of a blob, then make sure that the store holds it.

    Raises:
        LeaseLost: another worker holds the job; what this one made may have been purged meanwhile.
    """
    with writing(sessions) as session:
        fenced(session, claim)
        add_reference(session, digest_of(data), owner=f"job:{claim.job_id}")
    return store.put(data)


def add_reference(session: Session, digest: str, *, owner: str) -> None:
    """Register a need; registering it twice is once."""
    lock_blob(session, digest)
    if session.get(BlobReference, (digest, owner)) is None:
        session.add(BlobReference(digest=digest, owner=owner))
        session.flush()


def drop_references(session: Session, owner: str) -> list[str]:
    """Forget every need of an owner and return the digests it needed."""
    references = references_of(session, owner)
    for reference in references:
        session.delete(reference)
    session.flush()
    return [reference.digest for reference in references]


def unlink_unreferenced(session: Session, digests: Iterable[str], *, store: BlobStore) -> list[str]:
    """Unlink those blobs that nobody needs any more and return their digests.

    If the transaction is rolled back afterwards, rows point at absent blobs: a checkpoint then misses, and
    a repeated purge finds them absent, which is done already.
    """
    gone = []
    for digest in sorted(set(digests)):
        blob = lock_blob(session, digest)
        if is_referenced(session, digest):
            continue
        store.remove(Digest(digest))
        session.delete(blob)
        gone.append(digest)
    session.flush()
    return gone
