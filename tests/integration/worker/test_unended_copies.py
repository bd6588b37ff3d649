"""Copies whose sealing never ended: the sweep erases them, and never one that a sealing stores meanwhile."""

import fcntl
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Event, Thread

import pytest

from app.db.session import reading
from app.db.tables import Request
from app.domain.terms import DatasetId, JsonObject
from app.services.clear_copies import clear_copies
from app.services.withdraw import cancel
from app.services.workers import WorkerFacts
from tests.integration.worker.test_rectification import Killed, correct, data_of, other_label
from tests.support.asked import ADMIN, row_of
from tests.support.trained import Lab, few_digits
from worker.data import contents as contents_module
from worker.data.contents import FileContents
from worker.data.erasure import data_path
from worker.housekeeper import Housekeeper

NUM_RECORDS = len(few_digits().labels)
FACTS = WorkerFacts(owner="w", device_class="cpu", environment_digest="e" * 64)


def after_write(monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]) -> None:
    write = FileContents.write_changed

    def write_and(self: FileContents, *given: object, **more: object) -> bytes:
        digest = write(self, *given, **more)  # type: ignore[arg-type]
        then()
        return digest

    monkeypatch.setattr(FileContents, "write_changed", write_and)


def killed_and_cancelled(lab: Lab, monkeypatch: pytest.MonkeyPatch, subject: str) -> None:
    def die() -> None:
        raise Killed

    with monkeypatch.context() as patch:
        after_write(patch, die)
        with pytest.raises(Killed):
            correct(lab, subject)
    with reading(lab.own.sessions) as session:
        request_id = session.query(Request).one().id
    cancel(lab.own.sessions, request_id, caller=ADMIN)


def test_of_a_cancelled_correction_the_sweep_leaves_nothing_and_touches_no_record(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, later = lab.loners(2)[0], lab.loners(3)[0]
    expected = lab.straight_digest(labels={row_of(later): other_label(later)})
    path = data_path(lab.own.settings.data_folder, lab.dataset.id)
    before = path.read_bytes()
    killed_and_cancelled(lab, monkeypatch, subject)
    assert any(path.read_bytes()[len(before) :])
    for _ in range(2):
        Housekeeper(lab.own, FACTS).sweep()
        assert path.read_bytes()[: len(before)] == before
        assert not any(path.read_bytes()[len(before) :])
    correct(lab, later)
    assert lab.work().weights_digest == expected
    assert len(data_of(lab).rows) == NUM_RECORDS + 1


class Watched(FileContents):
    """Says when somebody has looked behind the last record."""

    has_looked = Event()

    def has_copies(self, dataset_id: DatasetId, *, layout: JsonObject, num_rows: int) -> bool:
        """Look and say so."""
        found = super().has_copies(dataset_id, layout=layout, num_rows=num_rows)
        self.has_looked.set()
        return found


def test_a_copy_that_is_stored_after_the_sweep_has_seen_it_stays(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = lab.loners(2)[0]
    expected = lab.straight_digest(labels={row_of(subject): other_label(subject)})
    watched = Watched(lab.own.settings.data_folder)
    sweep = Thread(target=partial(clear_copies, lab.own.sessions, contents=watched))

    def look_meanwhile() -> None:
        sweep.start()
        assert watched.has_looked.wait(60)

    after_write(monkeypatch, look_meanwhile)
    correct(lab, subject)
    sweep.join()
    assert int(data_of(lab).rows["label"][NUM_RECORDS]) == other_label(subject)
    assert lab.work().weights_digest == expected


def test_a_data_file_that_is_away_keeps_no_sweep_from_its_work(lab: Lab) -> None:
    data_path(lab.own.settings.data_folder, lab.dataset.id).unlink()
    Housekeeper(lab.own, FACTS).sweep()


def test_a_file_that_cannot_be_looked_at_is_said_once_until_that_changes(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data_path(lab.own.settings.data_folder, lab.dataset.id)
    whole, keeper = path.read_bytes(), Housekeeper(lab.own, FACTS)
    for _ in range(2):
        path.unlink()
        path.mkdir()
        keeper.sweep(), keeper.sweep()
        assert logged(capsys).count("copies_not_erased") == 1
        path.rmdir()
        path.write_bytes(whole)
        keeper.sweep()


def logged(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr()
    return said.out + said.err


def test_an_erasure_is_logged_with_its_dataset(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed_and_cancelled(lab, monkeypatch, lab.loners(2)[0])
    keeper = Housekeeper(lab.own, FACTS)
    keeper.sweep(), keeper.sweep()
    (line,) = [line for line in logged(capsys).splitlines() if "copies_erased" in line]
    assert lab.dataset.id in line


def test_a_database_put_back_to_an_older_state_costs_no_corrected_record(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, own = data_path(lab.own.settings.data_folder, lab.dataset.id), lab.own.settings.home / "expunge.db"
    copy_database(own, tmp_path / "older.db")
    correct(lab, lab.loners(2)[0])
    lab.work()
    before, keeper = path.read_bytes(), Housekeeper(lab.own, FACTS)
    copy_database(tmp_path / "older.db", own)
    keeper.sweep(), keeper.sweep()
    assert path.read_bytes() == before
    (line,) = [line for line in logged(capsys).splitlines() if "database_older_than_data" in line]
    assert lab.dataset.id in line
    with pytest.raises(ValueError, match=f"fewer records of {lab.dataset.id} than were committed"):
        correct(lab, lab.loners(3)[0])
    assert path.read_bytes() == before


def copy_database(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)


def is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_whoever_erases_or_writes_a_copy_is_alone_with_the_file(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = data_path(lab.own.settings.data_folder, lab.dataset.id), []
    write = contents_module.write_all

    def look_and_write(descriptor: int, data: bytes, *, at: int) -> None:
        seen.append(is_locked(path))
        write(descriptor, data, at=at)

    monkeypatch.setattr(contents_module, "write_all", look_and_write)
    killed_and_cancelled(lab, monkeypatch, lab.loners(2)[0])
    Housekeeper(lab.own, FACTS).sweep()
    assert seen == [True, True]
    assert not is_locked(path)
