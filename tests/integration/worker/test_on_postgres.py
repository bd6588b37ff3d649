"""The worker on a PostgreSQL server: what must hold whatever the database is, once each."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from app.db.session import reading
from app.db.tables import Blob
from app.domain.errors import NameTaken
from app.domain.status import VersionStatus
from app.domain.terms import DEFAULT_TENANT
from tests.integration.worker.test_crashes import (
    has_power_cut,
    require_one_ending,
    require_refused,
    step_named,
    take_over,
)
from tests.integration.worker.test_two_tiers import require_a_treated_end_and_then_an_exact_one
from tests.support.methods import Shift
from tests.support.outside import QUICK_POLICY, outside_recipe, save_outside, train_outside
from tests.support.servers import PostgresServer
from tests.support.trained import Lab, few_digits, imported, recipe_of
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
