"""The service as a whole: health, description, logs, and errors that nobody expected."""

import re

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from structlog.testing import capture_logs

from app.db.migrate import downgrade
from app.db.session import reading, writing
from app.db.tables import Table
from app.main import create_app, openapi_document
from app.settings import Settings
from tests.support.client import client_of
from tests.support.problems import problem_of
from tests.support.world import World

SUBJECT = "ann.lovelace@example.com"


def test_a_service_in_order_is_alive_and_ready(anonymous: httpx.Client) -> None:
    assert anonymous.get("/livez").json() == {"status": "alive"}
    assert anonymous.get("/readyz").json() == {"database": True, "migrations": True, "keys": True}


@pytest.mark.own_database
def test_a_database_that_is_not_at_the_head_is_not_ready(anonymous: httpx.Client, settings: Settings) -> None:
    downgrade(settings.resolved_database_url)
    body = problem_of(anonymous.get("/readyz"), 503, "not-ready")
    assert "migrations" in body["detail"]
    assert anonymous.get("/livez").status_code == 200


def test_a_service_with_other_keys_than_the_database_was_filled_with_is_not_ready(
    settings: Settings, world: World
) -> None:
    with writing(world.sessions) as session:
        session.execute(text("INSERT INTO schema_notes VALUES ('hmac_key:0123456789abcdef', 'in use')"))
    app = create_app(settings)
    assert "keys" in problem_of(client_of(app).get("/readyz"), 503, "not-ready")["detail"]
    app.state.context.engine.dispose()


def test_the_description_is_openapi_3_1_and_documents_every_refusal() -> None:
    document = openapi_document()
    assert document["openapi"].startswith("3.1")
    operations = [op for path in document["paths"].values() for op in path.values()]
    ids = [op["operationId"] for op in operations]
    assert len(ids) == len(set(ids))
    for operation in operations:
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                assert list(answer["content"]) == ["application/problem+json"]
    posted = document["components"]["schemas"]["DeletionIn"]
    assert posted["additionalProperties"] is False
    assert posted["examples"]
    assert set(re.findall(r"#/components/schemas/(\w+)", repr(document))) <= set(
        document["components"]["schemas"]
    )


def test_neither_logs_nor_answers_nor_the_database_hold_the_subject_id(
    product: httpx.Client, world: World, settings: Settings
) -> None:
    with capture_logs() as logs:
        good = product.post(
            "/deletions", json={"subject_id": SUBJECT, "record_ids": [f"record of {SUBJECT}"]}
        )
        bad = product.post("/deletions", json={"subject_id": [SUBJECT]})
        lost = product.get(f"/deletions?subject={SUBJECT}")
        path = product.get(f"/{SUBJECT}")
    assert [answer.status_code for answer in (good, bad, lost, path)] == [202, 422, 422, 404]
    for answer in (good, bad, lost, path):
        assert SUBJECT not in answer.text + repr(answer.headers)
    assert len(logs) == 4
    assert SUBJECT not in repr(logs)
    assert {log["route"] for log in logs} == {"/deletions", "unmatched"}
    stored = b"".join(file.read_bytes() for file in settings.home.rglob("*") if file.is_file())
    assert SUBJECT.encode() not in stored
    with reading(world.sessions) as session:
        rows = {table.name: session.execute(table.select()).all() for table in Table.metadata.sorted_tables}
    assert rows["requests"]
    assert SUBJECT not in repr(rows)


def test_what_nobody_expected_is_a_bare_500_and_a_line_in_the_log(service: FastAPI, world: World) -> None:
    def broken() -> None:
        raise RuntimeError("the cause")

    service.add_api_route("/broken", broken)
    with capture_logs() as logs:
        answer = client_of(service).get("/broken")
    problem_of(answer, 500, "internal-error")
    assert "the cause" not in answer.text
    assert "the cause" in logs[0]["trace"]
    assert logs[0]["event"] == "unhandled"


def test_every_answer_has_a_request_id_of_ours(anonymous: httpx.Client) -> None:
    answers = [
        anonymous.get(path, headers={"X-Request-Id": SUBJECT}) for path in ("/livez", "/nix", "/models")
    ]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == len(answers)
    assert SUBJECT not in ids


@pytest.mark.parametrize("path", ["/livez", "/models"])
def test_answers_are_not_kept_by_caches(anonymous: httpx.Client, path: str) -> None:
    assert anonymous.get(path).headers["cache-control"] == "no-store"
