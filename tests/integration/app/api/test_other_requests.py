"""POST /class-deletions and /rectifications: what is accepted, what waits, what is refused and where."""

import hmac
from base64 import urlsafe_b64decode
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.db.session import reading, writing
from app.db.tables import Dataset, Event, Job, Model, Request, Suppression, Target
from app.domain.access import Scope
from app.domain.status import JobKind, JobStatus
from app.services.events import first_event
from app.settings import Settings
from models_store.manifest import canonical_json
from tests.support.client import client_of
from tests.support.problems import problem_of
from tests.support.world import World

UUID = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
LAYOUT = {"shape": [3], "dtype": "<f4", "num_classes": 2, "feature_names": ["age", "income", "debt"]}
CHANGE: dict[str, Any] = {"subject_id": "ann", "record_id": "r0", "changes": {"label": 1}}


@pytest.fixture(autouse=True)
def people(world: World) -> None:
    """A model of two classes over lists of three named numbers."""
    dataset = world.dataset(subjects={"ann": 2, "bob": 1})
    world.model("churn", dataset=dataset, num_records=3)
    with writing(world.sessions) as session:
        session.get_one(Dataset, dataset).layout = LAYOUT


@pytest.fixture
def corrector(service: FastAPI, world: World) -> httpx.Client:
    return client_of(service, world.key(Scope.RECORDS_CORRECT, Scope.DELETIONS_READ))


def _opened(body: dict[str, Any], text: bytes) -> bool:
    nonce, commitment = (
        urlsafe_b64decode(body[name] + "=" * (-len(body[name]) % 4)) for name in ("nonce", "commitment")
    )
    return hmac.digest(nonce, text, "sha256") == commitment


def test_a_class_deletion_is_acknowledged_like_a_deletion(admin: httpx.Client, world: World) -> None:
    answer = admin.post("/class-deletions", json={"model": "churn", "label": 1, "reason_code": "recall"})
    assert answer.status_code == 202
    assert _opened(answer.json(), b"class\0churn/1")
    shown = admin.get(answer.headers["location"]).json()
    assert (shown["kind"], shown["asked"], shown["status"]) == ("class_deletion", {"label": 1}, "received")
    assert [target["model"] for target in shown["targets"]] == ["churn"]
    with reading(world.sessions) as session:
        assert session.query(Suppression).count() == 0


def test_a_class_deletion_waits_where_the_policy_holds(admin: httpx.Client, world: World) -> None:
    world.trained("held", subjects={"eve": 1})
    with writing(world.sessions) as session:
        session.query(Dataset).filter_by(name="held-data").one().layout = LAYOUT
        session.query(Model).filter_by(name="held").one().policy = {"hold": True}
    held = admin.post("/class-deletions", json={"model": "held", "label": 0}).json()["id"]
    free = admin.post("/class-deletions", json={"model": "churn", "label": 0}).json()["id"]
    assert [admin.get(f"/deletions/{each}").json()["status"] for each in (held, free)] == ["held", "received"]
    assert admin.post(f"/deletions/{held}:approve").json()["status"] == "received"


@pytest.mark.parametrize("status", ["cancelled", "rejected"])
def test_a_class_whose_deletion_was_withdrawn_is_left(admin: httpx.Client, world: World, status: str) -> None:
    first = admin.post("/class-deletions", json={"model": "churn", "label": 1}).json()["id"]
    world.shift(first, status=status)
    assert admin.post("/class-deletions", json={"model": "churn", "label": 0}).status_code == 202


@pytest.mark.parametrize("status", ["received", "held", "scheduled", "running", "completed", "failed"])
def test_the_last_class_of_a_model_stays(admin: httpx.Client, world: World, status: str) -> None:
    first = admin.post("/class-deletions", json={"model": "churn", "label": 1}).json()["id"]
    world.shift(first, status=status)
    found = problem_of(
        admin.post("/class-deletions", json={"model": "churn", "label": 0}), 422, "does-not-fit"
    )
    assert [complaint["pointer"] for complaint in found["errors"]] == ["#/label"]
    assert admin.post("/class-deletions", json={"model": "churn", "label": 1}).status_code == 202


def test_an_earlier_failure_is_not_shown_as_a_new_requests_own(admin: httpx.Client, world: World) -> None:
    model = world.trained("failing", subjects={"eve": 1})
    job = world.queue(model, kind=JobKind.SETTLE)
    with writing(world.sessions) as session:
        row = session.get_one(Job, job)
        row.status, row.finished_at, row.error = JobStatus.FAILED, 1.0, "long ago"
    deletion = admin.post("/deletions", json={"subject_id": "eve", "models": ["failing"]}).json()["id"]
    (target,) = admin.get(f"/deletions/{deletion}").json()["targets"]
    assert target["truth"]["job"] is None
    with writing(world.sessions) as session:
        session.get_one(Job, job).finished_at = 4e9
        session.query(Target).filter_by(request_id=deletion).one().through = 1
    (target,) = admin.get(f"/deletions/{deletion}").json()["targets"]
    assert target["truth"]["job"]["error"] == "long ago"


def test_where_several_datasets_could_be_meant_the_refusal_says_how_to_name_one(
    corrector: httpx.Client, world: World
) -> None:
    other = world.dataset("others", subjects={"ann": 1})
    with writing(world.sessions) as session:
        session.get_one(Dataset, other).layout = {**LAYOUT, "num_classes": 1}
    found = problem_of(corrector.post("/rectifications", json=CHANGE), 422, "does-not-fit")
    assert found["detail"].endswith("name the dataset that is meant")
    assert corrector.post("/rectifications", json={**CHANGE, "dataset": "people"}).status_code == 202


def test_a_rectification_always_waits_and_only_an_admin_lets_it_go_on(
    corrector: httpx.Client, admin: httpx.Client
) -> None:
    answer = corrector.post("/rectifications", json=CHANGE)
    assert answer.status_code == 202
    assert answer.json()["status"] == "held"
    where = answer.headers["location"]
    shown = corrector.get(where).json()
    assert (shown["kind"], shown["status"]) == ("rectification", "held")
    assert "asked" not in shown
    assert admin.get(where).json()["asked"] == {"label": 1}
    problem_of(corrector.post(f"{where}:approve"), 403, "forbidden")
    assert admin.post(f"{where}:approve").json()["status"] == "received"


def test_of_a_rejected_rectification_nothing_is_kept(
    corrector: httpx.Client, admin: httpx.Client, world: World
) -> None:
    deletion = corrector.post("/rectifications", json=CHANGE).json()["id"]
    assert admin.post(f"/deletions/{deletion}:reject").json()["status"] == "rejected"
    request = world.request(deletion)
    assert (request.asked, request.subject_refs, request.record_refs) == (None, None, None)


@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.parametrize("verb", ["reject", "cancel"])
def test_of_withdrawn_changes_no_file_of_the_database_keeps_a_word(
    admin: httpx.Client, settings: Settings, verb: str
) -> None:
    def traces() -> list[str]:
        files = settings.home.glob("expunge.db*")
        return [path.name for path in files if b"31337.25" in path.read_bytes()]

    body = {**CHANGE, "changes": {"features": {"income": 31337.25}}}
    where = admin.post("/rectifications", json=body).headers["location"]
    assert traces()
    answer = admin.post(f"{where}:reject") if verb == "reject" else admin.delete(where)
    assert answer.json()["asked"] is None
    assert traces() == []


def test_the_same_key_gives_the_same_request_and_other_changes_are_another(corrector: httpx.Client) -> None:
    headers = {"Idempotency-Key": "abc"}
    first = corrector.post("/rectifications", json=CHANGE, headers=headers)
    assert corrector.post("/rectifications", json=CHANGE, headers=headers).content == first.content
    other = {**CHANGE, "changes": {"label": 0}}
    problem_of(corrector.post("/rectifications", json=other, headers=headers), 422, "idempotency-key-reused")
    assert corrector.post("/rectifications", json=CHANGE).json()["duplicate_of"] == first.json()["id"]
    assert corrector.post("/rectifications", json=other).json()["duplicate_of"] is None


AGAIN: list[tuple[str, dict[str, Any]]] = [
    ("/rectifications", CHANGE),
    ("/rectifications", {**CHANGE, "dataset": "people"}),
    ("/deletions", {"subject_id": "ann", "record_ids": ["r1", "r0"]}),
]


def imported(world: World, name: str, *, num_classes: int) -> None:
    other = world.dataset(name, subjects={"ann": 1})
    with writing(world.sessions) as session:
        session.get_one(Dataset, other).layout = {**LAYOUT, "num_classes": num_classes}


@pytest.mark.parametrize("num_classes", [1, 2])
@pytest.mark.parametrize("named", ["by_key", "by_id"])
@pytest.mark.parametrize(("path", "body"), AGAIN)
def test_a_repeat_gets_the_first_answer_whatever_was_imported_since(
    admin: httpx.Client, world: World, path: str, body: dict[str, Any], named: str, num_classes: int
) -> None:
    headers = {"Idempotency-Key": "abc"} if named == "by_key" else {}
    body = body if named == "by_key" else {**body, "request_id": UUID}
    first = admin.post(path, json=body, headers=headers)
    imported(world, "others", num_classes=num_classes)
    again = admin.post(path, json=body, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.content == first.content


def set_hold(world: World, *, holds: bool) -> None:
    with writing(world.sessions) as session:
        session.query(Model).filter_by(name="churn").one().policy = {"hold": holds}


@pytest.mark.parametrize(("path", "body"), [*AGAIN, ("/class-deletions", {"model": "churn", "label": 1})])
@pytest.mark.parametrize("holds", [True, False])
def test_a_post_says_whether_the_request_is_held_and_its_repeat_says_the_same_whatever_came_since(
    admin: httpx.Client, world: World, path: str, body: dict[str, Any], holds: bool
) -> None:
    set_hold(world, holds=holds)
    first = admin.post(path, json=body, headers={"Idempotency-Key": "abc"})
    is_held = holds or path == "/rectifications"
    assert first.json()["status"] == ("held" if is_held else "received")
    where = first.headers["location"]
    assert admin.get(where).json()["status"] == first.json()["status"]
    set_hold(world, holds=not holds)
    if is_held:
        admin.post(f"{where}:approve")
    again = admin.post(path, json=body, headers={"Idempotency-Key": "abc"})
    assert (again.status_code, again.content) == (202, first.content)
    assert admin.get(f"{where}/events").json()["broken_at"] is None


def as_it_was_stored_once(world: World, request_id: str) -> None:
    """Give a request an earlier form: a first event without a mark, records by their datasets."""
    with writing(world.sessions) as session:
        request = session.get_one(Request, request_id)
        (refs,) = world.keyring.subject_refs("ann", subject_type="person")[:1]
        whom = {"subject": refs.hex(), "models": None, "records": request.record_refs, "uuid": UUID}
        if request.kind != "deletion":
            whom |= {"kind": request.kind, "asked": request.asked}
        request.uuid_mac = world.keyring.mac("request-uuid", canonical_json(whom))
        own = first_event(request_id, at=request.posted_at, is_held=False)
        kept = session.get_one(Event, (request_id, 1))
        kept.body, kept.hash = own.body, own.hash


@pytest.mark.parametrize(("path", "body"), AGAIN)
def test_a_repeat_of_what_an_earlier_version_stored_gets_the_first_answer(
    admin: httpx.Client, world: World, path: str, body: dict[str, Any]
) -> None:
    body = {**body, "request_id": UUID}
    first = admin.post(path, json=body)
    as_it_was_stored_once(world, first.json()["id"])
    again = admin.post(path, json=body)
    assert (again.status_code, again.content) == (202, first.content)
    assert admin.get(f"{first.headers['location']}/events").json()["broken_at"] is None
    other = admin.post(path, json={**body, "subject_id": "bob"})
    problem_of(other, 422, "idempotency-key-reused")


def test_one_request_id_for_two_datasets_is_refused(corrector: httpx.Client, world: World) -> None:
    imported(world, "others", num_classes=2)
    corrector.post("/rectifications", json={**CHANGE, "request_id": UUID, "dataset": "others"})
    for other in ({"dataset": "people"}, {}, {"dataset": "others", "record_id": "r1"}):
        found = corrector.post("/rectifications", json={**CHANGE, "request_id": UUID, **other})
        problem_of(found, 422, "idempotency-key-reused")


def test_a_repeated_class_deletion_gets_the_first_answer_when_no_class_is_left(
    admin: httpx.Client, world: World
) -> None:
    bodies = [{"model": "churn", "label": label, "request_id": UUID[:-1] + str(label)} for label in (0, 1)]
    firsts = []
    for body in bodies:
        firsts.append(admin.post("/class-deletions", json=body))
        world.shift(firsts[-1].json()["id"], status="cancelled")
    for first in firsts:
        world.shift(first.json()["id"], status="scheduled")
    assert [admin.post("/class-deletions", json=body).content for body in bodies] == [
        first.content for first in firsts
    ]


MISFITS: list[tuple[str, dict[str, Any], str]] = [
    ("/class-deletions", {"model": "churn", "label": 2}, "#/label"),
    ("/class-deletions", {"model": "nobody", "label": 0}, "#/model"),
    ("/rectifications", {**CHANGE, "changes": {"label": 2}}, "#/changes/label"),
    ("/rectifications", {**CHANGE, "changes": {"features": {"height": 1}}}, "#/changes/features"),
    ("/rectifications", {**CHANGE, "changes": {"features": {"age": 1e39}}}, "#/changes/features/age"),
    ("/rectifications", {**CHANGE, "dataset": "others"}, "#/dataset"),
]
INVALID: list[tuple[str, dict[str, Any], str]] = [
    ("/class-deletions", {"model": "churn", "label": -1}, "#/label"),
    ("/class-deletions", {"model": "churn", "label": "1"}, "#/label"),
    ("/class-deletions", {"model": "churn", "label": 1, "subject_id": "ann"}, "#"),
    ("/rectifications", {**CHANGE, "changes": {}}, "#/changes"),
    ("/rectifications", {**CHANGE, "changes": {"label": True}}, "#/changes/label"),
    ("/rectifications", {**CHANGE, "changes": {"features": {}}}, "#/changes/features"),
    ("/rectifications", {**CHANGE, "changes": {"features": {"age": "40"}}}, "#/changes/features"),
    ("/rectifications", {**CHANGE, "changes": {"features": {"age": None}}}, "#/changes/features"),
    ("/rectifications", {**CHANGE, "changes": {"features": {"age": 2**60}}}, "#/changes/features"),
    ("/rectifications", {**CHANGE, "models": ["churn"]}, "#"),
    ("/rectifications", {"subject_id": "ann", "changes": {"label": 1}}, "#/record_id"),
]


@pytest.mark.parametrize(("path", "body", "pointer"), MISFITS)
def test_what_does_not_fit_is_refused_at_its_place_and_nothing_is_stored(
    admin: httpx.Client, world: World, path: str, body: dict[str, Any], pointer: str
) -> None:
    found = problem_of(admin.post(path, json=body), 422, "does-not-fit")
    assert [complaint["pointer"] for complaint in found["errors"]] == [pointer]
    with reading(world.sessions) as session:
        assert session.query(Request).count() == 0


@pytest.mark.parametrize(("path", "body", "pointer"), INVALID)
def test_what_is_malformed_is_refused_at_its_place(
    admin: httpx.Client, path: str, body: dict[str, Any], pointer: str
) -> None:
    found = problem_of(admin.post(path, json=body), 422, "invalid-request")
    assert [complaint["pointer"] for complaint in found["errors"]] == [pointer]


def test_a_name_that_was_sent_is_never_repeated(admin: httpx.Client) -> None:
    for value in (1.0, "x"):
        body = {**CHANGE, "changes": {"features": {"ann-smith": value}}}
        assert "ann-smith" not in admin.post("/rectifications", json=body).text
