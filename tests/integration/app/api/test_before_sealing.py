"""Requests that are not sealed yet: cancelled by who posted them, held for an admin's word."""

import httpx
import pytest

from app.db.requests import live_suppressions
from app.db.session import reading, writing
from app.db.tables import Model
from app.domain.access import Scope
from app.domain.terms import ModelId
from app.services.seal import seal_due
from tests.integration.app.api.test_visibility import form_of
from tests.support.client import client_of
from tests.support.world import World


@pytest.fixture
def model(world: World) -> ModelId:
    return world.trained(subjects={"ann": 2, "bob": 1})


@pytest.fixture
def holding(world: World, model: ModelId) -> ModelId:
    """A model whose policy holds every deletion."""
    with writing(world.sessions) as session:
        session.get_one(Model, model).policy = {"hold": True}
    return model


def post(client: httpx.Client, subject: str, **more: object) -> str:
    answer = client.post("/deletions", json={"subject_id": subject, **more})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def status_of(client: httpx.Client, deletion: str) -> str:
    return str(client.get(f"/deletions/{deletion}").json()["status"])


def num_suppressed(world: World) -> int:
    with reading(world.sessions) as session:
        return len(live_suppressions(session, tenant=world.tenant, now=0.0)[0])


def test_a_request_is_cancelled_freely_before_it_is_sealed(
    world: World, model: ModelId, admin: httpx.Client
) -> None:
    deletion = post(admin, "ann")
    answers = [admin.delete(f"/deletions/{deletion}") for _ in range(2)]
    assert [(answer.status_code, answer.json()["status"]) for answer in answers] == [(202, "cancelled")] * 2
    assert [target["status"] for target in answers[0].json()["targets"]] == ["cancelled"]
    assert seal_due(world.sessions) == []
    assert (world.tombstones(model), num_suppressed(world)) == ([], 0)
    row = world.request(deletion)
    assert (row.subject_refs, row.record_refs, row.nonce, row.match_mac) == (None, None, None, None)


def test_a_sealed_request_cannot_be_cancelled(world: World, model: ModelId, admin: httpx.Client) -> None:
    deletion = post(admin, "ann")
    seal_due(world.sessions)
    answer = admin.delete(f"/deletions/{deletion}")
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:expunge:problem:under-way")
    assert len(world.tombstones(model)) == 2


def test_cancelling_needs_its_own_scope_and_the_own_tenant(
    world: World, model: ModelId, admin: httpx.Client, product: httpx.Client, service: object
) -> None:
    deletion = post(admin, "ann")
    assert product.delete(f"/deletions/{deletion}").status_code == 403
    with client_of(service, world.key(Scope.ADMIN, tenant="other")) as stranger:  # type: ignore[arg-type]
        assert stranger.delete(f"/deletions/{deletion}").status_code == 404
    assert status_of(admin, deletion) == "received"


def test_a_held_request_waits_for_an_approval(
    world: World, holding: ModelId, admin: httpx.Client, product: httpx.Client
) -> None:
    deletion = post(product, "ann")
    assert status_of(product, deletion) == "held"
    assert seal_due(world.sessions) == []
    before = world.request(deletion)
    assert product.post(f"/deletions/{deletion}:approve").status_code == 403
    assert admin.post(f"/deletions/{deletion}:approve").json()["status"] == "received"
    after = world.request(deletion)
    assert after.due_at == before.due_at
    assert after.reveal_at > before.reveal_at
    assert len(seal_due(world.sessions)) == 1
    assert [event.name for event in world.events(deletion)] == ["received", "approved", "scheduled"]
    assert admin.post(f"/deletions/{deletion}:approve").status_code == 409
    assert admin.post(f"/deletions/{deletion}:reject").status_code == 409


def test_a_rejected_request_leaves_nothing_and_never_runs(
    world: World, holding: ModelId, admin: httpx.Client
) -> None:
    deletion = post(admin, "ann")
    for _ in range(2):
        assert admin.post(f"/deletions/{deletion}:reject").json()["status"] == "rejected"
    assert admin.post(f"/deletions/{deletion}:approve").status_code == 409
    assert admin.delete(f"/deletions/{deletion}").status_code == 409
    assert seal_due(world.sessions) == []
    assert (world.tombstones(holding), num_suppressed(world)) == ([], 0)


def test_a_held_request_may_be_cancelled(world: World, holding: ModelId, admin: httpx.Client) -> None:
    deletion = post(admin, "ann")
    assert admin.delete(f"/deletions/{deletion}").json()["status"] == "cancelled"


@pytest.mark.parametrize("end", ["cancel", "approve", "reject"])
def test_nothing_tells_whether_the_subject_was_held_by_a_model(
    world: World, holding: ModelId, admin: httpx.Client, product: httpx.Client, end: str
) -> None:
    shown = []
    for subject in ("ann", "nobody"):
        deletion = post(product, subject)
        answer = (
            admin.delete(f"/deletions/{deletion}")
            if end == "cancel"
            else admin.post(f"/deletions/{deletion}:{end}")
        )
        assert answer.is_success
        seal_due(world.sessions)
        seen = product.get(f"/deletions/{deletion}").json()
        trail = [event["name"] for event in product.get(f"/deletions/{deletion}/events").json()["items"]]
        shown.append((form_of(seen), trail))
    assert shown[0] == shown[1]


def test_a_model_created_while_a_request_is_held_is_in_its_scope(
    world: World, holding: ModelId, admin: httpx.Client
) -> None:
    deletion = post(admin, "ann")
    other = world.trained("other", subjects={"ann": 1})
    admin.post(f"/deletions/{deletion}:approve")
    seal_due(world.sessions)
    assert len(world.tombstones(other)) == 1
    assert len(world.targets(deletion)) == 2
