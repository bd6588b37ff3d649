"""Fast first, exact before the deadline: what an admin sees on the way, and what is left at its end.

One process serves, posts and works: the interim method is a stand-in that no other process would know.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.domain.access import Scope
from app.domain.status import JobKind
from app.domain.terms import Claim
from app.main import create_app
from app.services.seal import seal_due
from tests.support.client import client_of
from tests.support.methods import Shift
from tests.support.problems import problem_of
from tests.support.service import COMMANDS
from tests.support.trained import Lab, recipe_of
from worker.unlearners import UNLEARNERS

MODEL = "/models/digits-model"


@dataclass(frozen=True)
class Office:
    """A trained model, an admin and a product."""

    lab: Lab
    admin: httpx.Client
    product: httpx.Client

    def post(self, subject: str) -> str:
        """Post a deletion and let it be sealed."""
        answer = self.product.post("/deletions", json={"subject_id": subject})
        assert answer.status_code == 202
        seal_due(self.lab.own.sessions)
        return str(answer.json()["id"])

    def target(self, deletion: str) -> dict[str, Any]:
        """Return what an admin sees of the only target."""
        (target,) = self.admin.get(f"/deletions/{deletion}").json()["targets"]
        found: dict[str, Any] = target
        return found

    def claims(self) -> dict[JobKind, Claim]:
        """Claim whatever may run."""
        found = {}
        while (claim := self.lab.claim()) is not None:
            found[claim.kind] = claim
        return found

    def moves(self) -> list[int]:
        """Return where the alias has pointed, oldest first."""
        history = self.admin.get(f"{MODEL}/aliases/current").json()["history"]
        return [move["to_number"] for move in history]

    def targets_told(self, deletion: str) -> list[str]:
        """Return the moves of the target in the trail, in order."""
        events = self.admin.get(f"/deletions/{deletion}/events").json()["items"]
        return [event["name"] for event in events if event["name"].startswith("target_")]


@pytest.fixture
def office(migrated_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    monkeypatch.setitem(UNLEARNERS, Shift.name, Shift())
    shutil.copytree(migrated_home, tmp_path / "home")
    lab = Lab.create(tmp_path / "home", recipe_of(), checkpoints="all")
    lab.work()
    service = create_app(lab.own.settings)
    product_key = lab.world.key(Scope.DELETIONS_CREATE, Scope.DELETIONS_READ)
    with client_of(service, lab.world.key()) as admin, client_of(service, product_key) as product:
        yield Office(lab=lab, admin=admin, product=product)
    service.state.context.engine.dispose()
    lab.close()


def said_by_verify(office: Office, deletion: str, *, folder: Path) -> str:
    """Verify a full receipt offline and return what the command says of it."""
    receipt, keys = folder / "receipt", folder / "keys.json"
    receipt.write_text(office.admin.get(f"/deletions/{deletion}/receipt").text)
    keys.write_text(office.admin.get("/.well-known/jwks.json").text)
    command = [str(COMMANDS / "expunge"), "receipt", "verify", str(receipt), "--keys", str(keys)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["request"] == deletion
    return done.stderr


def test_the_interim_version_is_served_until_the_exact_one_has_replaced_it(
    office: Office, tmp_path: Path
) -> None:
    lab = office.lab
    lab.set_policy(interim_method=Shift.name)
    person = lab.in_block(2)[0]
    expected = lab.straight_digest(without=[person])
    deletion = office.post(person)
    jobs = office.claims()
    lab.finish(jobs[JobKind.INTERIM])

    seen = office.target(deletion)
    assert seen["status"] == "interim"
    assert seen["truth"]["interim"] == {
        "version": 2, "method": "shift", "guarantee": "empirical", "covers": 1, "settled": 0,
    }  # fmt: skip
    (hidden,) = office.product.get(f"/deletions/{deletion}").json()["targets"]
    assert (hidden["status"], hidden.keys() & {"truth"}) == ("scheduled", set())
    problem_of(office.admin.get(f"{MODEL}/versions/1/files/weights.safetensors"), 410, "version-revoked")
    served = office.admin.get(f"{MODEL}/versions/current").json()
    assert (served["number"], served["guarantee"], served["method"]) == (2, "empirical", "shift")

    lab.finish(jobs[JobKind.SETTLE])
    assert office.moves() == [1, 2, 3]
    told = ["running", "interim", "purging", "completed"]
    assert office.targets_told(deletion) == [f"target_{status}" for status in told]
    for number in (1, 2):
        answer = office.admin.get(f"{MODEL}/versions/{number}/files/weights.safetensors")
        problem_of(answer, 410, "version-purged")
    served = office.admin.get(f"{MODEL}/versions/current").json()
    assert (served["guarantee"], served["weights_digest"]) == ("exact", expected)
    assert lab.audit().is_equal
    seen = office.target(deletion)
    assert (seen["truth"]["outcome"], seen["truth"]["interim"]) == ("unlearned", None)
    assert "digits-model: unlearned: this version was trained without" in said_by_verify(
        office, deletion, folder=tmp_path
    )


def test_with_an_empirical_end_the_same_way_is_shorter_and_every_paper_says_treated(
    office: Office, tmp_path: Path
) -> None:
    lab = office.lab
    lab.set_policy(final_method=Shift.name, accept_empirical=True)
    deletion = office.post(lab.in_block(2)[0])
    jobs = office.claims()
    assert jobs.keys() == {JobKind.SETTLE}
    lab.finish(jobs[JobKind.SETTLE])
    assert office.moves() == [1, 2]
    told = ["running", "purging", "completed"]
    assert office.targets_told(deletion) == [f"target_{status}" for status in told]
    assert office.target(deletion)["truth"]["outcome"] == "treated"
    problem_of(office.admin.get(f"{MODEL}/versions/1/files/weights.safetensors"), 410, "version-purged")
    assert "digits-model: treated by shift: an empirical method" in said_by_verify(
        office, deletion, folder=tmp_path
    )
