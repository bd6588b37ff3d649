"""What is committed at the same moment finds each other: imports, models and deletions on both databases."""

import threading
from concurrent.futures import ThreadPoolExecutor

from app.db.ids import new_id
from app.db.session import reading
from app.db.tables import Record, Request, Tombstone
from app.domain.terms import DatasetId
from app.services.close import close_ready
from app.services.create_model import NewModel, Place, create_model
from app.services.import_dataset import NewDataset, SuppressedMeanwhile, add_dataset, suppressed
from app.services.seal import seal_due
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
        name=name, dataset=dataset, recipe={}, recipe_digest=name, policy={}, training_seconds=0.0
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
