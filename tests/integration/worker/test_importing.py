"""Import: people are on one side of the split, the suppressed stay out, and a failure leaves nothing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from app.api.door import submission_of
from app.api.schemas import DeletionIn
from app.db.session import reading
from app.db.tables import Dataset, Record
from app.domain.errors import NameTaken
from app.domain.terms import DEFAULT_TENANT
from app.main import open_context
from app.services.submit import submit
from app.settings import Settings
from tests.support.trained import synthetic
from tests.support.world import World
from worker.data.data_files import Layout, open_data_file
from worker.data.importing import Imported, ImportOrder, import_source
from worker.data.sources import SourceRefused, SourceTable


@dataclass(frozen=True)
class Desk:
    """Imports into one installation."""

    settings: Settings
    world: World

    def take(self, source: SourceTable, **order: object) -> Imported:
        """Import a source as ``noise``."""
        return import_source(
            self.world.sessions,
            source,
            ImportOrder(**{"name": "noise", **order}),  # type: ignore[arg-type]
            tenant=DEFAULT_TENANT,
            keyring=self.world.keyring,
            data_folder=self.settings.data_folder,
        )

    @property
    def records(self) -> list[Record]:
        """All stored records."""
        with reading(self.world.sessions) as session:
            return session.query(Record).order_by(Record.row).all()

    @property
    def folders(self) -> list[Path]:
        """What lies in the data folder."""
        return list(self.settings.data_folder.glob("*"))


@pytest.fixture
def desk(settings: Settings, world: World) -> Desk:
    return Desk(settings=settings, world=world)


class PostsWhenRead(np.ndarray):
    """Features whose first reading, after the suppressions were looked up, runs something."""

    on_read: Callable[[], object] | None = None

    def __getitem__(self, key: object) -> np.ndarray:
        """Return what was asked for, after running it."""
        run, self.on_read = self.on_read, None
        if run is not None:
            run()
        return np.asarray(self)[key]


def families(num: int, *, size: int) -> SourceTable:
    """Return subjects of ``size`` records each."""
    table = synthetic(num * size)
    return replace(table, subject_ids=[f"subject-{row // size}" for row in range(num * size)])


def test_what_is_stored_is_what_the_source_held(desk: Desk) -> None:
    source = synthetic(50, shape=(2, 3))
    done = desk.take(source)
    layout = Layout(shape=(2, 3), dtype="<f4", num_classes=2)
    file = open_data_file(desk.settings.data_folder, done.dataset_id, layout=layout)
    assert np.array_equal(file.rows["features"], source.features)
    assert np.array_equal(file.rows["label"], source.labels)
    assert [record.row for record in desk.records] == list(range(50))
    refs = desk.world.keyring.record_refs
    assert [r.record_ref for r in desk.records] == [refs(i, dataset="noise")[0] for i in source.record_ids]


def test_a_person_is_wholly_held_out_or_wholly_not_in_about_the_share_asked_for(desk: Desk) -> None:
    done = desk.take(families(300, size=2), held_out_share=0.3)
    sides: dict[bytes, set[bool]] = {}
    for record in desk.records:
        sides.setdefault(record.subject_ref, set()).add(record.is_held_out)
    assert all(len(side) == 1 for side in sides.values())
    # Six standard deviations of 300 draws.
    assert 0.14 < done.num_held_out / 600 < 0.46


def test_a_split_of_the_source_is_taken_as_it_is(desk: Desk) -> None:
    held_out = np.arange(20) % 5 == 0
    desk.take(replace(synthetic(20), held_out=held_out), held_out_share=0.9)
    assert [record.is_held_out for record in desk.records] == held_out.tolist()


def test_who_was_deleted_before_does_not_come_back(desk: Desk) -> None:
    desk.world.post("subject-3")
    done = desk.take(families(10, size=2))
    assert (done.num_records, done.num_suppressed, done.num_subjects) == (18, 2, 9)
    assert ref_of(desk, "subject-3") not in {record.subject_ref for record in desk.records}
    assert [record.row for record in desk.records] == list(range(18))


def test_a_deletion_that_arrives_during_the_import_is_honoured_too(desk: Desk) -> None:
    source = synthetic(20)
    features = PostsWhenRead(source.features.shape, dtype=np.float32)
    features[:] = source.features
    features.on_read = lambda: desk.world.post("subject-7")
    done = desk.take(replace(source, features=features))
    assert (done.num_records, done.num_suppressed) == (19, 1)
    assert ref_of(desk, "subject-7") not in {record.subject_ref for record in desk.records}
    assert [folder.name for folder in desk.folders] == [done.dataset_id]


def test_a_deleted_record_does_not_come_back_in_a_dataset_of_another_name(desk: Desk) -> None:
    source = families(5, size=2)
    # The first record is another subject's, so that it cannot be named for this one.
    body = DeletionIn(subject_id=" subject-3", record_ids=[source.record_ids[i] for i in (6, 0)])
    context = open_context(desk.settings)
    submission = submission_of(body, context=context, tenant=DEFAULT_TENANT)
    context.engine.dispose()
    submit(desk.world.sessions, submission, tenant=DEFAULT_TENANT, keyring=desk.world.keyring)
    done = desk.take(source)
    assert (done.num_records, done.num_suppressed, done.num_subjects) == (9, 1, 5)
    gone = desk.world.keyring.record_refs(source.record_ids[6], dataset="noise")[0]
    assert gone not in {record.record_ref for record in desk.records}


def test_two_spellings_of_one_subject_are_one(desk: Desk) -> None:
    source = replace(synthetic(2), subject_ids=["Zoe\u0308 ", "Zo\u00eb"])
    assert desk.take(source).num_subjects == 1


def test_a_failed_import_leaves_no_folder_and_no_row(desk: Desk) -> None:
    traits = np.array([1, 2])
    source = replace(synthetic(2), subject_ids=["ann", "ann "], spread=traits)
    with pytest.raises(SourceRefused, match="another spread"):
        desk.take(source)
    require_nothing_stored(desk)


def test_a_source_of_suppressed_people_alone_leaves_nothing(desk: Desk) -> None:
    desk.world.post("subject-0")
    with pytest.raises(SourceRefused, match="no record is left"):
        desk.take(synthetic(1))
    require_nothing_stored(desk)


def test_a_name_that_is_taken_writes_nothing(desk: Desk) -> None:
    first = desk.take(synthetic(5))
    with pytest.raises(NameTaken):
        desk.take(synthetic(6))
    assert [folder.name for folder in desk.folders] == [first.dataset_id]


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_leaves_nobody_is_refused(share: float) -> None:
    with pytest.raises(SourceRefused, match="held-out share"):
        ImportOrder(name="noise", held_out_share=share)


def test_raw_ids_are_nowhere_on_the_disk(desk: Desk) -> None:
    desk.take(families(40, size=2))
    files = [path for path in desk.settings.home.rglob("*") if path.is_file()]
    assert any(path.name == "expunge.db" for path in files)
    for path in files:
        data = path.read_bytes()
        assert b"subject-" not in data
        assert b"record-" not in data


def require_nothing_stored(desk: Desk) -> None:
    assert desk.folders == []
    with reading(desk.world.sessions) as session:
        assert session.query(Dataset).all() == []
        assert session.query(Record).all() == []


def ref_of(desk: Desk, subject: str) -> bytes:
    return desk.world.keyring.subject_refs(subject, subject_type="person")[0]
