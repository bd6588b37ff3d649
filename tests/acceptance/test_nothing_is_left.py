"""After `completed`, no byte of the person is left in the store, the database, the data files or the logs."""

from collections.abc import Callable

from tests.acceptance.conftest import forgotten_subject
from tests.support.people import Subject, search, traces_of
from tests.support.service import Home


def tainted_blobs(home: Home, subject: Subject) -> set[str]:
    """Return the blobs that only what met the subject refers to."""
    files = {row["digest"] for row in home.rows("SELECT digest FROM version_files")}
    met = home.rows("SELECT digest FROM checkpoints WHERE position >= ?", subject.block)
    return files | {row["digest"] for row in met}


def leave_a_copy_behind(home: Home) -> None:
    """Kill an oracle while its copy of the records lies in the scratch folder."""
    oracle = home.begin("expunge-worker", "oracle", "digits")
    home.wait_for("the copy", lambda: list((home.path / "scratch").glob("*/plan.key")))
    oracle.destroy()


def leave_a_half_written_blob_behind(home: Home) -> None:
    """Leave in the store what a writer does that is killed before its blob has a name."""
    (weights,) = home.rows("SELECT digest FROM version_files WHERE name LIKE 'weights%'")
    blob = home.path / "store" / "blobs" / weights["digest"][:2] / weights["digest"]
    (home.path / "store" / "tmp" / "left-behind").write_bytes(blob.read_bytes())


def test_no_trace_of_a_forgotten_subject_is_left(copy_of: Callable[[Home], Home], trained: Home) -> None:
    home = copy_of(trained)
    subject = forgotten_subject(home)
    leave_a_copy_behind(home)
    leave_a_half_written_blob_behind(home)
    traces, tainted = traces_of(home, subject), tainted_blobs(home, subject)

    assert search(home, traces.stored).keys() == traces.stored.keys()  # the search can find them
    assert tainted <= set(home.store_files())

    worker = home.worker()
    with home.service() as service:
        with home.database() as reader:  # a backup, for instance, that began before the deletion
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM records").fetchone()
            service.forget(subject.id, reason_code="art17", request_id="6f1c1d0e-8f6b-4c0c-9d0e-0b8f5a6d7e11")
            assert "home/expunge.db" in search(home, traces.all)[f"salt of row {subject.rows[0]}"]
        # Once it is over, nothing is left, though the server and the worker hold the database open.
        home.wait_for("an empty write-ahead log", lambda: not (home.path / "expunge.db-wal").stat().st_size)
        assert search(home, traces.all) == {"subject_ref": ["home/expunge.db"]}
    assert worker.stop() == 0

    assert search(home, traces.all) == {"subject_ref": ["home/expunge.db"]}
    assert tainted.isdisjoint(home.store_files())
    assert not list((home.path / "store" / "tmp").iterdir())
    assert not list((home.path / "scratch").glob("*"))
    # The keyed hash stood in the suppression alone: with it, the last trace goes.
    home.run_with_input(subject.id, "expunge", "subjects", "readmit")
    assert search(home, traces.all) == {}
