"""What is committed at the same moment finds each other: imports, models and deletions on both databases."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.db.ids import new_id
from app.db.session import reading, writing
from app.db.tables import Dataset, Record, Request, Tombstone
from app.domain.status import JobKind
from app.domain.terms import DatasetId
from app.services import seal as seal_module
from app.services.claim import finish
from app.services.close import close_ready
from app.services.create_model import NewModel, Place, create_model
from app.services.import_dataset import NewDataset, SuppressedMeanwhile, add_dataset, suppressed
from app.services.prepare import fix_scope
from app.services.purge import purge
from app.services.seal import seal, seal_due, seal_late_targets
from tests.support.world import World

NUM_ROUNDS = 8


def test_no_subject_slips_through_between_an_import_and_a_deletion(world: World) -> None:
    for number in range(NUM_ROUNDS):
        subject = f"person-{number}"
        with ThreadPoolExecutor(2) as pool:
            importing = pool.submit(import_of, world, subject, name=f"data-{number}")
            pool.submit(world.post, subject).result()
            importing.result()
        sweep(world)
        with reading(world.sessions) as session:
            refs = world.keyring.subject_refs(subject, subject_type="person")
            assert session.query(Record).filter(Record.subject_ref.in_(refs)).count() == 0


def test_no_subject_slips_through_between_a_new_model_and_a_deletion(world: World) -> None:
    subjects = {f"person-{number}": 1 for number in range(NUM_ROUNDS)}
    dataset = world.dataset("people", subjects=subjects)
    stop = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        sealing = pool.submit(seal_until, world, stop)
        for number, subject in enumerate(subjects):
            making = pool.submit(model_on, world, "people", name=f"model-{number}")
            request = world.post(subject)
            making.result()
            while not world.request(request).sealed_at:
                pass
            row = list(subjects).index(subject)
            with reading(world.sessions) as session:
                marked = session.query(Tombstone).filter(Tombstone.row == row).count()
                assert marked == number + 1, f"{subject} has no tombstone in some model on {dataset}"
        stop.set()
        sealing.result()


def import_of(world: World, subject: str, *, name: str) -> object:
    """Import one record of a subject, as often as a deletion comes between."""
    while True:
        honoured = suppressed(world.sessions, tenant=world.tenant)
        ref = world.keyring.subject_refs(subject, subject_type="person")[0]
        if ref in honoured.subject_refs:
            return None
        record = {
            "row": 0, "record_ref": b"r", "subject_ref": ref, "salt": b"s", "content_digest": b"d",
            "is_held_out": False, "spread": 1, "likelihood": None,
        }  # fmt: skip
        new = NewDataset(
            id=DatasetId(new_id("dat")), name=name, subject_type="person", num_records=1, layout={}
        )
        try:
            return add_dataset(world.sessions, new, tenant=world.tenant, records=[record], honoured=honoured)
        except SuppressedMeanwhile:
            continue


def model_on(world: World, dataset: str, *, name: str) -> None:
    """Create a model whose plan has one block."""
    new = NewModel(
        name=name, dataset=dataset, recipe={"plan": {}}, recipe_digest=name, policy={}, training_seconds=0.0
    )  # fmt: skip
    create_model(
        world.sessions, new, tenant=world.tenant,
        place=lambda _, records: [Place(row=r.row, shard=0, block=0, token=bytes(16)) for r in records],
    )  # fmt: skip


def seal_until(world: World, stop: threading.Event) -> None:
    while not stop.is_set():
        seal_due(world.sessions)


def sweep(world: World) -> None:
    """Seal and close until nothing is open."""
    while True:
        seal_due(world.sessions)
        close_ready(world.sessions, keyring=world.keyring, erase=world.erase)
        with reading(world.sessions) as session:
            if session.query(Request).filter(Request.completed_at.is_(None)).count() == 0:
                return


def test_a_model_committed_while_a_request_is_being_sealed_has_its_target(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.trained(subjects={"ann": 1})
    request = world.post("ann")
    has_looked, goes_on = threading.Event(), threading.Event()
    number = seal_module.number_records

    def slow(*given: Any, **named: Any) -> Any:
        has_looked.set()
        goes_on.wait(10)
        return number(*given, **named)

    with ThreadPoolExecutor(2) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(seal_module, "number_records", slow)
            sealing = pool.submit(seal, world.sessions, request)
            has_looked.wait(10)
        making = pool.submit(model_on, world, "churn-data", name="second")
        threading.Timer(0.5, goes_on.set).start()
        sealing.result()
        making.result()
    assert len(world.targets(request)) == 2
    assert [target.through for target in world.targets(request)] == [1, 1]


def test_a_request_that_is_about_to_close_takes_up_a_model_that_came_meanwhile(
    world: World, tmp_path: Path
) -> None:
    world.trained(subjects={"ann": 1, "bob": 1})
    request = world.sealed("ann")
    settle(world, scratch=tmp_path)
    late = world.model("second", dataset=dataset_of(world), num_records=2)
    assert not world.close(request)
    assert world.tombstones(late) == [(1, 0, 0)]
    assert world.erased == []
    settle(world, scratch=tmp_path, publishes=False)  # it was never trained, so it holds nothing
    assert world.close(request)
    assert [rows for _, rows in world.erased] == [[0]]


def test_a_training_that_leaves_the_subject_out_does_not_keep_the_bytes(world: World, tmp_path: Path) -> None:
    world.trained(subjects={"ann": 1, "bob": 1})
    request = world.sealed("ann")
    late = world.model("second", dataset=dataset_of(world), num_records=2)
    assert not world.close(request)
    with writing(world.sessions) as session:
        seal_late_targets(session, session.get_one(Request, request))
    for publishes in (True, False):
        settle(world, scratch=tmp_path, publishes=publishes)
    world.queue(late, kind=JobKind.TRAIN)
    assert fix_scope(world.sessions, world.claim()).covers == 1
    assert world.close(request)
    assert [rows for _, rows in world.erased] == [[0]]


def settle(world: World, *, scratch: Path, publishes: bool = True) -> None:
    """Run the next settle job as a worker would."""
    claim = world.claim()
    covers = fix_scope(world.sessions, claim).covers
    if publishes:
        world.publish(claim, weights=b"weights 2")
    purge(world.sessions, claim, covers=covers, store=world.store, scratch=scratch)
    finish(world.sessions, claim, output={}, store=world.store)


def dataset_of(world: World) -> DatasetId:
    with reading(world.sessions) as session:
        return DatasetId(session.query(Dataset).one().id)
