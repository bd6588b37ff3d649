"""POST /deletions: the acknowledgement, its repeats, and what it refuses."""

import hmac
from base64 import urlsafe_b64decode
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fastapi import FastAPI

from app.domain.terms import TenantName
from tests.support.client import client_of
from tests.support.problems import problem_of
from tests.support.world import World

UUID = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"


def _post(client: httpx.Client, key: str | None = None, **body: object) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post("/deletions", json={"subject_id": "ann", **body}, headers=headers)


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_a_post_is_acknowledged_with_a_nonce_that_opens_the_commitment(product: httpx.Client) -> None:
    answer = _post(product, subject_id="  Zoe\u0308 ", reason_code="art17")
    body = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/deletions/{body['id']}"
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert body["status"] == "received"
    assert body["posted_at"].endswith("Z")
    expected = hmac.digest(_bytes(body["nonce"]), b"person\0" + "Zo\u00eb".encode(), "sha256")
    assert _bytes(body["commitment"]) == expected
    assert product.get(answer.headers["location"]).json()["id"] == body["id"]


@pytest.mark.parametrize("key", ["abc", '"abc"', ' "abc" '])
def test_a_repeat_gets_the_first_answer_again_key_quoted_or_bare(product: httpx.Client, key: str) -> None:
    first, again = _post(product, "abc"), _post(product, key)
    assert (again.status_code, again.content) == (202, first.content)
    for name in ("location", "retry-after"):
        assert again.headers[name] == first.headers[name]
    assert len(product.get("/deletions").json()["items"]) == 1


def test_a_repeat_long_after_completion_gets_the_first_answer_without_the_nonce(
    product: httpx.Client, world: World
) -> None:
    first = _post(product, "abc").json()
    world.shift(first["id"], status="completed", completed_at=2.0, reveal_at=1.0, nonce=None)
    assert _post(product, "abc").json() == {**first, "nonce": None}


def test_the_same_key_with_another_body_is_refused(product: httpx.Client) -> None:
    _post(product, "abc")
    problem_of(_post(product, "abc", reason_code="other"), 422, "idempotency-key-reused")


def test_an_equal_body_written_differently_is_the_same_body(product: httpx.Client) -> None:
    first = _post(product, "abc", subject_id="ann", subject_type="person")
    again = product.post(
        "/deletions", content=b'{ "subject_id":\n " ann" }',
        headers={"Idempotency-Key": "abc", "Content-Type": "application/json; charset=utf-8"},
    )  # fmt: skip
    assert again.json() == first.json()


def test_keys_of_two_tenants_do_not_meet(product: httpx.Client, service: FastAPI, world: World) -> None:
    first = _post(product, "abc").json()
    other = client_of(service, world.key(tenant=TenantName("other")))
    assert _post(other, "abc").json()["id"] != first["id"]
    problem_of(other.get(f"/deletions/{first['id']}"), 404, "not-found")
    assert len(other.get("/deletions").json()["items"]) == 1


def test_repeats_in_flight_get_one_answer(served: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: _post(served, "abc"), range(16)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1


def test_a_repeated_request_id_returns_its_request(product: httpx.Client) -> None:
    first = _post(product, request_id=UUID)
    assert _post(product, request_id=UUID.upper()).json() == first.json()
    problem_of(_post(product, request_id=UUID, subject_id="bob"), 422, "idempotency-key-reused")


def test_an_unknown_model_is_named_by_its_place(product: httpx.Client, world: World) -> None:
    world.trained(subjects={"ann": 1})
    body = problem_of(_post(product, models=["churn", "ghost"]), 422, "unknown-model")
    assert body["errors"] == [{"pointer": "#/models/1", "detail": "no such model"}]
    assert "ghost" not in str(body)


def test_a_due_date_in_the_past_is_refused(product: httpx.Client) -> None:
    body = problem_of(_post(product, due_at="2001-01-01T00:00:00Z"), 422, "due-date-passed")
    assert body["errors"][0]["pointer"] == "#/due_at"


def test_a_due_date_with_an_offset_becomes_utc(product: httpx.Client) -> None:
    assert _post(product, due_at="2400-01-01T02:00:00+02:00").json()["due_at"] == "2400-01-01T00:00:00Z"
