"""Requests that are closed while a chain's next treatment runs: their bytes go unless it reads them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db.jobs import now
from app.db.session import writing
from app.db.tables import Target
from app.domain.status import Outcome, RequestStatus, TargetStatus
from app.domain.terms import Claim, DatasetId
from app.services.claim import finish
from app.services.close import close
from tests.integration.worker.test_rectification import data_of
from tests.support.asked import row_of
from tests.support.trained import Lab


@pytest.fixture
def chains(registered_home: Path, tmp_path: Path) -> Iterator[list[Lab]]:
    """A model that was trained elsewhere, twice."""
    labs = [Lab.copied(registered_home, to=tmp_path / name) for name in ("one", "other")]
    yield labs
    for lab in labs:
        lab.close()


def closed(lab: Lab, request_id: str) -> bool:
    return close(lab.own.sessions, request_id, keyring=lab.own.keyring, erase=lab.own.erase)


def begun(lab: Lab) -> Claim:
    """Let the next job fix whom it treats."""
    return lab.advance(lab.settle_claim(), until="unlearn").claim


def test_who_was_treated_before_is_erased_under_a_running_treatment_and_it_ends_with_the_same_bits(
    chains: list[Lab],
) -> None:
    chain, other = chains
    first, second = chain.families[:2]
    expected = [other.forget(name).weights_digest for name in (first, second)][-1]
    ids = [chain.world.sealed(first)]
    context = chain.advance(chain.settle_claim(), until="attest")
    finish(chain.own.sessions, context.claim, output={}, store=chain.own.store)
    ids.append(chain.world.sealed(second))
    claim = begun(chain)
    assert [closed(chain, each) for each in ids] == [True, False]
    assert not any(data_of(chain).rows[row_of(first)].tobytes())
    chain.finish(claim)
    assert chain.version.weights_digest == expected
    chain.work()
    assert {chain.world.request(each).status for each in ids} == {RequestStatus.COMPLETED}


def test_whom_a_running_treatment_retains_keeps_their_bytes_until_it_ends(chains: list[Lab]) -> None:
    chain = chains[0]
    first, kept = chain.families[:2]
    chain.world.model("side", dataset=DatasetId(chain.dataset.id))
    chain.world.sealed(first, models=["outside"])
    claim = begun(chain)
    request_id = chain.world.sealed(kept, models=["side"])
    with writing(chain.own.sessions) as session:
        target = session.query(Target).filter_by(request_id=request_id).one()
        target.status, target.purged_at = TargetStatus.PURGING, now(session)
        target.outcome = Outcome.UNLEARNED
    chain.world.sealed(kept)  # numbered above what the job covers
    assert not closed(chain, request_id)
    chain.finish(claim)
    assert chain.world.request(request_id).status == RequestStatus.COMPLETED
    assert any(data_of(chain).rows[row_of(kept)].tobytes())  # the next treatment reads them
