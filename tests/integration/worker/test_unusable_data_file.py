"""A rectification whose data file cannot be used waits, whoever the subject is, and its trail says why."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app.domain.access import Caller, Scope
from app.domain.changes import Changes
from app.domain.terms import DEFAULT_TENANT, KeyId
from app.services.approve import approve
from app.services.seal import seal_due
from app.services.show_deletions import show_events
from tests.support.asked import ADMIN, post_rectification
from tests.support.trained import Lab
from worker.data.contents import FileContents
from worker.data.erasure import data_path

PRODUCT = Caller(key_id=KeyId("product"), tenant=DEFAULT_TENANT, scopes=frozenset({Scope.DELETIONS_READ}))


def cut_short(path: Path) -> None:
    row_bytes = int((path.parent / "row_bytes").read_text())
    path.write_bytes(path.read_bytes()[:-row_bytes])


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def swept(lab: Lab) -> None:
    for _ in range(3):
        seal_due(lab.own.sessions, contents=lab.own.contents)


@pytest.mark.parametrize("spoil", [Path.unlink, cut_short, torn])
def test_the_held_and_the_unheld_wait_alike_and_the_trail_names_the_file_once(
    lab: Lab, spoil: Callable[[Path], None]
) -> None:
    changes, path = Changes(label=1), data_path(lab.own.settings.data_folder, lab.dataset.id)
    held = post_rectification(lab, lab.loners(1)[0], changes)
    ids = [held, post_rectification(lab, "stranger", changes, record_id="unknown")]
    for each in ids:
        approve(lab.own.sessions, each, caller=ADMIN)
    whole = path.read_bytes()
    spoil(path)
    swept(lab)
    assert {lab.world.request(each).status for each in ids} == {"received"}
    for each in ids:
        names = [event.name for event in lab.world.events(each)]
        assert names == ["received", "approved", "waiting"]
        assert str(path) in lab.world.events(each)[-1].body["problem"]
        shown = show_events(lab.own.sessions, each, caller=PRODUCT).items
        assert [event.name for event in shown] == ["received", "approved"]
    path.write_bytes(whole)
    swept(lab)
    assert {lab.world.request(each).status for each in ids} <= {"scheduled", "running"}
    assert lab.work().covers == 1
    assert {lab.world.request(each).status for each in ids} == {"completed"}


def test_of_workers_that_meet_different_problems_in_turn_each_is_said_once(lab: Lab, tmp_path: Path) -> None:
    request_id = post_rectification(lab, lab.loners(1)[0], Changes(label=1))
    approve(lab.own.sessions, request_id, caller=ADMIN)
    for _ in range(3):
        for folder in (tmp_path / "one", tmp_path / "other"):
            seal_due(lab.own.sessions, contents=FileContents(folder))
    names = [event.name for event in lab.world.events(request_id)]
    assert names == ["received", "approved", "waiting", "waiting"]


def test_a_dataset_that_the_request_does_not_reach_keeps_it_from_nothing(lab: Lab) -> None:
    path = data_path(lab.own.settings.data_folder, lab.world.dataset("others", subjects={}))
    request_id = post_rectification(lab, lab.loners(1)[0], Changes(label=1), dataset="digits")
    approve(lab.own.sessions, request_id, caller=ADMIN)
    swept(lab)
    assert not path.exists()
    assert lab.world.request(request_id).status == "scheduled"
