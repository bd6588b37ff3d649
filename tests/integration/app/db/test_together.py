"""Rows of several tables at once: what is read is what was stored, and all of it or none."""

from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.exc import IntegrityError

from app.db.session import reading, writing_once
from app.db.tables import Event, Request, Suppression, Table
from app.db.together import store_together
from tests.support.world import World

REQUEST_ID = "del_" + "0" * 32
FLOATS = (0.1 + 0.2, 1_800_000_000.123456789, 5e-324, 1.7976931348623157e308, -0.0)
TEXTS = ("plain", "\\x41", "'; DROP TABLE requests; --", "%(requests)s", "\u00e9\U0001f600", '{"a": 1}')


def _request(**changes: Any) -> dict[str, Any]:
    return {
        "id": REQUEST_ID, "tenant": "t", "status": "received", "subject_type": "person",
        "subject_refs": ["ab"], "record_refs": None, "is_narrowed_by_models": False,
        "commitment": bytes(range(256)), "nonce": b"", "posted_at": 1.0, "due_at": 1.0, "seal_at": 1.0,
        "reveal_at": 1.0,
    } | changes  # fmt: skip


def _event(sequence: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "request_id": REQUEST_ID, "sequence": sequence, "at": 1.0, "name": "received", "body": {},
        "previous_hash": "", "hash": "",
    } | changes  # fmt: skip


def _store(world: World, rows: dict[type[Table], list[dict[str, Any]]]) -> None:
    with writing_once(world.sessions) as session:
        store_together(session, rows)


@pytest.mark.parametrize("number", FLOATS)
@pytest.mark.parametrize("said", TEXTS)
def test_every_value_is_read_as_it_was_stored(world: World, number: float, said: str) -> None:
    row = _request(posted_at=number, reason_code=said, record_refs={said: [said]})
    _store(world, {Request: [row], Event: [_event(body={said: [number, None, True]})]})
    with reading(world.sessions) as session:
        found, trail = session.get(Request, REQUEST_ID), session.get(Event, (REQUEST_ID, 1))
    assert {name: getattr(found, name) for name in row} == row
    assert trail.body == {said: [number, None, True]}


def test_the_database_numbers_rows_whose_number_is_not_named(world: World) -> None:
    rows = [
        {"tenant": "t", "request_id": REQUEST_ID, "subject_ref": bytes([n]), "expires_at": 1.0}
        for n in range(3)
    ]
    _store(world, {Suppression: rows})
    with reading(world.sessions) as session:
        found = session.scalars(select(Suppression).order_by(Suppression.id)).all()
    assert {row.subject_ref for row in found} == {b"\0", b"\1", b"\2"}
    assert len({row.id for row in found}) == 3


def test_when_one_row_is_refused_none_is_stored(world: World) -> None:
    with pytest.raises(IntegrityError):
        _store(world, {Request: [_request()], Suppression: [], Event: [_event(1), _event(2), _event(2)]})
    with reading(world.sessions) as session:
        assert session.get(Request, REQUEST_ID) is None
        assert session.scalars(select(Event)).all() == []


def test_a_row_that_refers_to_nothing_is_refused(world: World) -> None:
    with pytest.raises(IntegrityError):
        _store(world, {Event: [_event()]})


def test_a_server_is_sent_one_statement_for_all_tables(world: World) -> None:
    statements: list[str] = []
    engine = world.sessions.kw["bind"]
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    _store(world, {Request: [_request()], Event: [_event(1), _event(2)]})
    tables = 2 if engine.dialect.name == "sqlite" else 1
    assert len([each for each in statements if "INSERT" in each]) == tables
