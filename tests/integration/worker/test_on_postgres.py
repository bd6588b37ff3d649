"""The worker on a PostgreSQL server: what must hold whatever the database is, once each."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from time import sleep
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.db.records import retained_records
from app.db.session import reading, writing
from app.db.tables import Blob, Model, Record
from app.domain.changes import Changes
from app.domain.errors import NameTaken
from app.domain.status import RequestStatus, VersionStatus
from app.domain.terms import DEFAULT_TENANT, DatasetId, ModelId
from app.services.approve import approve
from app.services.clear_copies import clear_copies
from app.services.close import close_ready
from app.services.create_model import NewModel, Place, create_model
from app.services.seal import seal
from tests.integration.worker.test_crashes import (
    has_power_cut,
    require_one_ending,
    require_refused,
    step_named,
    take_over,
)
from tests.integration.worker.test_rectification import correct, other_label
from tests.integration.worker.test_two_tiers import require_a_treated_end_and_then_an_exact_one
from tests.integration.worker.test_unended_copies import killed_and_cancelled
from tests.support.asked import ADMIN, post_rectification, row_of, sealed
from tests.support.methods import Shift
from tests.support.outside import QUICK_POLICY, outside_recipe, save_outside, train_outside
from tests.support.servers import PostgresServer
from tests.support.trained import Lab, few_digits, imported, recipe_of
from worker.checking import placer
from worker.data.contents import FileContents
from worker.data.high_water import MARK_FILE
from worker.data.importing import ImportOrder, import_source
from worker.registering import register
from worker.unlearners import UNLEARNERS

_TRAINED = "trained"

pytestmark = pytest.mark.xdist_group("test_on_postgres")  # they share what takes seconds to start


@pytest.fixture(scope="module")
def trained_home(
    tmp_path_factory: pytest.TempPathFactory,
    migrated_home: Path,
    migrated_database: str,
    postgres: PostgresServer,
) -> Iterator[Path]:
    """A training like that of the other tests; its rows are in a database to copy."""
    home = tmp_path_factory.mktemp("trained-on-postgres") / "home"
    shutil.copytree(migrated_home, home)
    (home / "expunge.db").unlink()
    url = postgres.create_database(_TRAINED, template=migrated_database)
    lab = Lab.create(home, recipe_of(), database_url=url, checkpoints="all")
    lab.work()
    lab.close()
    yield home
    postgres.drop_database(_TRAINED)


@pytest.fixture
def lab(trained_home: Path, postgres: PostgresServer, tmp_path: Path) -> Iterator[Lab]:
    with postgres.database(template=_TRAINED) as url:
        lab = Lab.copied(trained_home, to=tmp_path / "lab", database_url=url)
        yield lab
        lab.close()


def test_the_rows_are_on_the_server(lab: Lab) -> None:
    with reading(lab.own.sessions) as session:
        assert str(session.scalar(text("SELECT version()"))).startswith("PostgreSQL 18")
    assert not (lab.own.settings.home / "expunge.db").exists()


def test_two_deletions_in_one_job_equal_the_oracle_and_leave_no_row_of_theirs(lab: Lab) -> None:
    loner, family = lab.loners(3)[0], lab.families[4]
    expected = lab.straight_digest(without=[loner, family])
    lab.world.sealed(loner)
    context = lab.advance(lab.settle_claim(family), until="purge")
    assert lab.audit(poisoned=True).is_equal
    lab.finish(context.claim)
    assert lab.version.weights_digest == expected
    assert [version.status for version in lab.versions] == ["purged", "published"]
    assert {loner, family}.isdisjoint(lab.blocks)


def test_one_of_several_workers_gets_a_job(lab: Lab) -> None:
    lab.world.sealed(lab.loners(1)[0])
    workers = [f"worker-{number}" for number in range(6)]
    with ThreadPoolExecutor(len(workers)) as pool:
        claims = list(pool.map(lambda owner: lab.claim(owner=owner), workers))
    assert len([claim for claim in claims if claim is not None]) == 1


@pytest.mark.parametrize("step", ["unlearn", "publish", "purge"])
def test_a_job_that_died_before_it_could_say_so_repeats_the_step(lab: Lab, step: str) -> None:
    person = lab.in_block(2)[0]
    expected = lab.straight_digest(without=[person])
    claim = lab.settle_claim(person)
    context = lab.advance(claim, until=step)
    step_named(step, claim.kind)(context)
    take_over(lab, claim)
    require_one_ending(lab, claim, weights_digest=expected)


def test_a_job_survives_a_power_cut_amid_its_checkpoints(lab: Lab) -> None:
    person = lab.in_block(1)[0]
    expected = lab.straight_digest(without=[person])
    claim = lab.settle_claim(person)
    assert has_power_cut(lab, claim, num_writes=4, after_bytes=False)
    take_over(lab, claim)
    require_one_ending(lab, claim, weights_digest=expected)


def test_who_lost_the_lease_writes_nothing(lab: Lab) -> None:
    claim = lab.settle_claim(lab.in_block(2)[0])
    stale = lab.advance(claim, until="publish")
    lab.world.expire(claim)
    assert lab.claim(owner="somebody else") is not None
    require_refused(lab, stale.claim)


def test_a_treated_person_is_settled_by_the_next_replay(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(UNLEARNERS, Shift.name, Shift())
    require_a_treated_end_and_then_an_exact_one(lab)


def test_a_model_trained_elsewhere_is_registered_and_treated(
    migrated_home: Path, migrated_database: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    shutil.copytree(migrated_home, tmp_path / "home")
    weights = save_outside(train_outside(few_digits(), num_epochs=40), tmp_path / "outside.safetensors")
    with postgres.database(template=migrated_database) as url:
        own = imported(tmp_path / "home", database_url=url)
        done = register(own, outside_recipe(), QUICK_POLICY, weights=weights, tenant=DEFAULT_TENANT)
        lab = Lab(own=own, model_id=done.model_id)
        with pytest.raises(NameTaken):
            register(own, outside_recipe(), QUICK_POLICY, weights=weights, tenant=DEFAULT_TENANT)
        version = lab.forget(lab.families[0])
        assert (version.number, version.covers, version.settled) == (2, 4, 0)
        assert lab.versions[0].status == VersionStatus.PURGED
        with reading(own.sessions) as session:
            assert {row.digest for row in session.query(Blob)} == set(own.store.digests())
        lab.close()


class Slow(FileContents):
    """Data files that are long in writing a correction: until somebody says so."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.has_written, self.may_go_on = Event(), Event()

    def write_changed(self, dataset_id: DatasetId, **given: Any) -> bytes:
        digest = super().write_changed(dataset_id, **given)
        self.has_written.set()
        assert self.may_go_on.wait(timeout=30)
        return digest


class LosesItsLock(FileContents):
    """Data files whose user loses the database, and with it its locks, just before it has the file alone."""

    def __init__(self, lab: Lab, *, then: Callable[[], None]) -> None:
        super().__init__(lab.own.settings.data_folder)
        self.lab, self.then = lab, then

    @contextmanager
    def alone(self, dataset_id: DatasetId) -> Iterator[None]:
        others = "pid <> pg_backend_pid() AND state = 'idle in transaction' AND datname = current_database()"
        with writing(self.lab.own.sessions) as session:
            session.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))
        self.then()
        with super().alone(dataset_id):
            yield


def test_a_sweep_that_lost_its_lock_erases_no_record_that_was_sealed_meanwhile(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, later = lab.loners(2)[0], lab.loners(3)[0]
    expected = lab.straight_digest(labels={row_of(later): other_label(later)})
    killed_and_cancelled(lab, monkeypatch, first)

    def seal_without_a_mark() -> None:
        correct(lab, later)
        (lab.own.settings.data_folder / lab.dataset.id / MARK_FILE).unlink()

    with pytest.raises(SQLAlchemyError):
        clear_copies(lab.own.sessions, contents=LosesItsLock(lab, then=seal_without_a_mark))
    assert lab.work().weights_digest == expected


def wait_for_the_end_or_a_lock(lab: Lab, work: Future[Any]) -> None:
    while not work.done():
        with reading(lab.own.sessions) as session:
            if session.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                return
        sleep(0.05)


def test_of_two_corrections_that_are_sealed_at_once_the_later_one_is_learned(lab: Lab) -> None:
    subject = lab.loners(2)[0]
    labels = [(other_label(subject) + step) % 10 for step in (0, 1)]
    expected = lab.straight_digest(labels={row_of(subject): labels[1]})
    ids = [post_rectification(lab, subject, Changes(label=label)) for label in labels]
    for each in ids:
        approve(lab.own.sessions, each, caller=ADMIN)
    slow = Slow(lab.own.settings.data_folder)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(seal, lab.own.sessions, ids[0], contents=slow)
        assert slow.has_written.wait(timeout=30)
        second = pool.submit(seal, lab.own.sessions, ids[1], contents=lab.own.contents)
        wait_for_the_end_or_a_lock(lab, second)
        slow.may_go_on.set()
        first.result(), second.result()
    assert lab.work().weights_digest == expected


def test_a_model_made_while_a_correction_begins_and_ends_learns_the_true_content(lab: Lab) -> None:
    subject = lab.loners(2)[0]
    request_id = post_rectification(lab, subject, Changes(label=other_label(subject)))
    recipe = recipe_of().model_copy(update={"name": "second"})
    with ThreadPoolExecutor(1) as pool:

        def place(model_id: ModelId, records: Sequence[Any]) -> Iterable[Place]:
            wait_for_the_end_or_a_lock(lab, pool.submit(correct_at_once))
            return placer(lab.own.keyring, recipe, model_id, records)

        def correct_at_once() -> None:
            sealed(lab, request_id)
            while (claim := lab.claim()) is not None:
                lab.finish(claim)
            close_ready(lab.own.sessions, keyring=lab.own.keyring, erase=lab.own.erase)

        new = NewModel(
            name=recipe.name, dataset=recipe.data.dataset, recipe=recipe.to_json(),
            recipe_digest=recipe.digest(), policy={}, training_seconds=1.0,
        )  # fmt: skip
        model_id = create_model(lab.own.sessions, new, tenant=DEFAULT_TENANT, place=place).model_id
    with reading(lab.own.sessions) as session:
        model = session.get_one(Model, model_id)
        kept = {r.row: r.block for r in retained_records(session, model, covers=model.num_sealed)}
    assert row_of(subject) not in kept
    assert kept[len(few_digits().labels)] is not None


def test_a_deletion_that_closes_while_its_record_is_corrected_takes_the_new_content_along(lab: Lab) -> None:
    names = [f"untrained-{n}" for n in range(len(few_digits().labels))]
    import_source(
        lab.own.sessions, replace(few_digits(), subject_ids=names), ImportOrder(name="untrained"),
        tenant=DEFAULT_TENANT, keyring=lab.own.keyring, data_folder=lab.own.settings.data_folder,
    )  # fmt: skip
    record_id, slow = few_digits().record_ids[3], Slow(lab.own.settings.data_folder)
    correction = post_rectification(lab, names[3], Changes(label=1), record_id=record_id)
    approve(lab.own.sessions, correction, caller=ADMIN)
    deletion = lab.world.sealed(names[3])
    with ThreadPoolExecutor(2) as pool:
        sealing = pool.submit(seal, lab.own.sessions, correction, contents=slow)
        assert slow.has_written.wait(timeout=30)
        closing = pool.submit(close_ready, lab.own.sessions, keyring=lab.own.keyring, erase=lab.own.erase)
        wait_for_the_end_or_a_lock(lab, closing)
        slow.may_go_on.set()
        sealing.result(), closing.result()
    lab.work()
    assert {lab.world.request(each).status for each in (correction, deletion)} == {RequestStatus.COMPLETED}
    owner = lab.own.keyring.subject_refs(names[3], subject_type="person")
    with reading(lab.own.sessions) as session:
        assert session.query(Record).filter(Record.subject_ref.in_(owner)).count() == 0
