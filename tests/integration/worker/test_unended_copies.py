"""Copies whose sealing never ended: the sweep erases them, and never one that a sealing stores meanwhile."""

from collections.abc import Callable
from functools import partial
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
