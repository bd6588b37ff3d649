"""Rows that several workers want to make at once."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from app.db.jobs import lock_blob
from app.db.session import Sessions, reading, writing
from app.db.tables import Blob

NUM_WORKERS = 4
DIGESTS = [f"{number:064x}" for number in range(25)]


def test_workers_that_need_the_same_new_blob_at_once_all_lock_its_row(sessions: Sessions) -> None:
    together = Barrier(NUM_WORKERS)

    def need(digest: str) -> str:
        together.wait()
        with writing(sessions) as session:
            return lock_blob(session, digest).digest

    with ThreadPoolExecutor(NUM_WORKERS) as pool:
        for digest in DIGESTS:
            assert set(pool.map(need, [digest] * NUM_WORKERS)) == {digest}
    with reading(sessions) as session:
        assert session.query(Blob).count() == len(DIGESTS)
