"""A subject held by no model looks the same from outside; admins see the truth."""

import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event

from app.db.session import writing
from app.db.tables import Event
from app.domain.status import JobKind
from app.services.claim import fail, finish, finish_step, report_progress
from app.services.close import close_ready, destroy_revealed_nonces
from app.services.create_model import NewModel, create_model
from app.services.prepare import fix_scope
from app.services.purge import purge
from app.services.seal import seal_due
from app.signing import public_keys, verify
from tests.support.problems import problem_of
from tests.support.world import World

FAR = 4e9


def _posted(client: httpx.Client, subject: str) -> str:
    return str(client.post("/deletions", json={"subject_id": subject}).json()["id"])


def form_of(value: Any) -> Any:
    """Return the shape of an answer: what it says, without ids, times and signatures."""
    if isinstance(value, dict):
        return {key: form_of(part) for key, part in value.items()}
    if isinstance(value, list):
        return [form_of(part) for part in value]
    if isinstance(value, str) and value.startswith(("del_", "20")):
        return type(value).__name__
    return "number" if isinstance(value, int | float) else value


def _alike(client: httpx.Client, world: World, pair: tuple[str, str]) -> list[Any]:
    """Look at both requests and return what either shows; a second may strike between two looks."""
    for _ in range(3):
        held, unheld = (_shown(client, world, request_id) for request_id in pair)
        if held == unheld:
            break
    assert held == unheld
    return held


def _shown(client: httpx.Client, world: World, request_id: str) -> list[Any]:
    """Return all that a product can learn of one request, as forms."""
    status, events, receipt = (
        client.get(f"/deletions/{request_id}{part}") for part in ("", "/events", "/receipt")
    )
    listed = [item for item in client.get("/deletions").json()["items"] if item["id"] == request_id]
    token = receipt.text if receipt.status_code == 200 else None
    stated = token and {**verify(token, keys=public_keys(world.keyring)), "commitment": ""}
    wait = status.headers.get("retry-after")
    return [
        form_of(status.json()),
        form_of(events.json()),
        form_of(listed),
        receipt.status_code,
        form_of(stated),
        wait,
    ]


@pytest.fixture
def pair(product: httpx.Client, world: World) -> tuple[str, str]:
    """A deletion of somebody who was trained on, and one of nobody known, posted together."""
    world.trained(subjects={"ann": 2, "bob": 2}, training_seconds=3600)
    pair = _posted(product, "ann"), _posted(product, "nobody")
    # The same moment for both: what differs from here on depends on the subject.
    for request_id in pair:
        world.shift(request_id, posted_at=1e9, due_at=FAR, reveal_at=FAR)
    return pair


def _settle(world: World, tmp_path: Path, *, name: str = "churn") -> None:
    claim = world.claim()
    scope = fix_scope(world.sessions, claim)
    if not scope.is_covered:
        world.publish(claim, name=name, weights=f"weights of {claim.job_id}".encode())
    if claim.kind is JobKind.SETTLE:
        purge(world.sessions, claim, covers=scope.covers, store=world.store, scratch=tmp_path)
    finish(world.sessions, claim, output={}, store=world.store)


def test_at_every_step_a_held_and_an_unheld_subject_look_the_same(
    product: httpx.Client, world: World, pair: tuple[str, str], tmp_path: Path
) -> None:
    def look() -> list[Any]:
        return _alike(product, world, pair)

    assert look()[0]["status"] == "received"
    seal_due(world.sessions)
    assert look()[0]["status"] == "scheduled"
    close_ready(world.sessions, keyring=world.keyring, erase=world.erase)  # the unheld one is done here
    assert look()[0]["status"] == "scheduled"
    claim = world.claim()
    fix_scope(world.sessions, claim)
    report_progress(world.sessions, claim, {"share": 0.5})
    assert look()[0]["targets"][0]["status"] == "scheduled"
    world.expire(claim)
    _settle(world, tmp_path)
    close_ready(world.sessions, keyring=world.keyring, erase=world.erase)
    destroy_revealed_nonces(world.sessions)
    status, events, _, receipt, _, wait = look()
    assert (status["status"], status["completed_at"], receipt, wait) == ("scheduled", None, 404, "60")
    assert [event["name"] for event in events["items"]] == ["received", "scheduled"]
    for request_id in pair:
        assert world.request(request_id).nonce is not None
        world.shift(request_id, reveal_at=1.0)
    destroy_revealed_nonces(world.sessions)
    status, events, _, receipt, stated, wait = look()
    assert (status["status"], receipt, wait) == ("completed", 200, None)
    assert [event["name"] for event in events["items"]] == ["received", "scheduled", "completed"]
    assert stated["form"] == "product"
    assert world.request(pair[0]).nonce is None


def test_a_failure_is_not_shown_to_products(
    product: httpx.Client, world: World, pair: tuple[str, str]
) -> None:
    seal_due(world.sessions)
    claim = world.claim()
    fix_scope(world.sessions, claim)
    fail(world.sessions, claim, store=world.store, error="out of memory", is_retryable=True)
    _alike(product, world, pair)
    assert "memory" not in product.get(f"/deletions/{pair[0]}").text


def test_a_subject_really_done_late_shows_when_it_is_done(
    product: httpx.Client, world: World, pair: tuple[str, str]
) -> None:
    seal_due(world.sessions)
    world.shift(pair[0], reveal_at=1.0)
    assert product.get(f"/deletions/{pair[0]}").json()["status"] == "scheduled"
    world.shift(pair[0], reveal_at=1.0, status="completed", completed_at=2.0)
    body = product.get(f"/deletions/{pair[0]}").json()
    assert (body["status"], body["completed_at"]) == ("completed", "1970-01-01T00:00:02Z")


def test_reading_costs_the_same_statements_for_both(
    product: httpx.Client, service: Any, world: World, pair: tuple[str, str]
) -> None:
    seal_due(world.sessions)
    statements: list[str] = []
    engine = service.state.context.engine
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    counts = []
    for request_id in pair:
        statements.clear()
        for part in ("", "/events", "/receipt"):
            product.get(f"/deletions/{request_id}{part}")
        counts.append(list(statements))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("status", ["received", "scheduled", "running", "failed", "completed"])
def test_the_filter_by_status_means_the_status_that_is_shown(
    product: httpx.Client, admin: httpx.Client, world: World, status: str
) -> None:
    for name in ("received", "scheduled", "running", "failed"):
        world.shift(_posted(product, name), status=name)
    world.shift(_posted(product, "hidden"), status="completed", completed_at=1.0, reveal_at=FAR)
    world.shift(_posted(product, "seen"), status="completed", completed_at=1.0, reveal_at=1.0)
    for client in (product, admin):
        everything = client.get("/deletions").json()["items"]
        expected = [item["id"] for item in everything if item["status"] == status]
        found = client.get("/deletions", params={"status": status}).json()["items"]
        assert [item["id"] for item in found] == expected


def test_admins_see_the_job_the_outcome_and_the_whole_trail(
    admin: httpx.Client, world: World, pair: tuple[str, str], tmp_path: Path
) -> None:
    seal_due(world.sessions)
    claim = finish_step(world.sessions, world.claim(), next_step="unlearn", output={})
    report_progress(world.sessions, claim, {"blocks": 3})
    held, unheld = (admin.get(f"/deletions/{request_id}").json()["targets"][0] for request_id in pair)
    assert (held["status"], held["truth"]["num_records"], held["truth"]["through"]) == ("scheduled", 2, 2)
    assert (held["truth"]["job"]["step"], held["truth"]["job"]["progress"]) == ("unlearn", {"blocks": 3})
    assert (unheld["status"], unheld["truth"]["outcome"], unheld["truth"]["job"]) == (
        "completed",
        "no_data",
        None,
    )
    world.expire(claim)
    _settle(world, tmp_path)
    close_ready(world.sessions, keyring=world.keyring, erase=world.erase)
    done = admin.get(f"/deletions/{pair[0]}").json()
    assert (done["status"], done["targets"][0]["truth"]["outcome"]) == ("completed", "unlearned")
    assert done["targets"][0]["truth"]["findings"]["version"] == 2
    trail = admin.get(f"/deletions/{pair[0]}/events").json()
    assert [entry["sequence"] for entry in trail["items"]] == list(range(1, len(trail["items"]) + 1))
    assert {"target_purging", "target_completed"} < {entry["name"] for entry in trail["items"]}
    assert trail["broken_at"] is None
    with writing(world.sessions) as session:
        session.query(Event).filter_by(request_id=pair[0], sequence=3).one().body = {"model": "another"}
    assert admin.get(f"/deletions/{pair[0]}/events").json()["broken_at"] == 3
    receipt = admin.get(f"/deletions/{pair[0]}/receipt")
    assert receipt.headers["content-type"] == "application/jose"
    assert verify(receipt.text, keys=admin.get("/.well-known/jwks.json").json())["form"] == "full"


def test_there_is_no_receipt_before_the_end(admin: httpx.Client, pair: tuple[str, str]) -> None:
    problem_of(admin.get(f"/deletions/{pair[0]}/receipt"), 404, "receipt-not-ready")


def test_a_model_created_meanwhile_shows_in_neither_request(
    product: httpx.Client, admin: httpx.Client, world: World, pair: tuple[str, str], tmp_path: Path
) -> None:
    seal_due(world.sessions)
    close_ready(world.sessions, keyring=world.keyring, erase=world.erase)
    new = NewModel(
        name="later", dataset="churn-data", recipe={"plan": {}}, recipe_digest="b" * 64, policy={},
        training_seconds=3000.0,
    )  # fmt: skip
    soon = time.time() + 900.95
    for request_id in pair:
        world.shift(request_id, reveal_at=soon)
    create_model(world.sessions, new, tenant=world.tenant, place=lambda _id, _rows: [])

    def look_after(seconds: float) -> str:
        for request_id in pair:
            world.shift(request_id, reveal_at=world.request(request_id).reveal_at - seconds)
        return str(_alike(product, world, pair)[0]["status"])

    assert (look_after(0), look_after(850)) == ("scheduled", "scheduled")
    for name in ("churn", "later", "later"):
        _settle(world, tmp_path, name=name)
    close_ready(world.sessions, keyring=world.keyring, erase=world.erase)
    assert (look_after(0), look_after(60)) == ("scheduled", "completed")
    assert [item["id"] for item in product.get("/deletions", params={"model": "later"}).json()["items"]] == []
    truth = admin.get(f"/deletions/{pair[0]}").json()["targets"]
    assert [target["model"] for target in truth] == ["churn", "later"]
