"""Submitting: one row whoever asks however often, and never a raw id."""

import dataclasses
import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event

from app.db.session import reading
from app.db.tables import IdempotencyKey, Request, Suppression, Target
from app.domain.errors import DueDatePassed, IdempotencyKeyReused, UnknownModels
from app.domain.terms import DEFAULT_TENANT, Submission
from app.keyring import commitment
from app.services.close import destroy_revealed_nonces
from app.services.submit import Idempotency, submit
from tests.support.world import World

UUID = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
KEY = Idempotency(key_mac=b"k" * 32, body_mac=b"b" * 32)


def _submission(world: World, subject: str = "ann", **changes: object) -> Submission:
    nonce = secrets.token_bytes(32)
    submission = Submission(
        subject_refs=world.keyring.subject_refs(subject, subject_type="person"), subject_type="person",
        commitment=commitment(nonce, subject, subject_type="person"), nonce=nonce,
    )  # fmt: skip
    return dataclasses.replace(submission, **changes)


def _submit(world: World, submission: Submission, idempotency: Idempotency | None = None) -> str:
    return submit(
        world.sessions, submission, tenant=DEFAULT_TENANT, keyring=world.keyring, idempotency=idempotency
    )


def _count(world: World, table: type) -> int:
    with reading(world.sessions) as session:
        return session.query(table).count()


def test_repeats_in_flight_make_one_request(world: World) -> None:
    submissions = [_submission(world) for _ in range(12)]
    with ThreadPoolExecutor(6) as pool:
        ids = set(pool.map(lambda submission: _submit(world, submission, KEY), submissions))
    assert len(ids) == 1
    assert (_count(world, Request), _count(world, IdempotencyKey), _count(world, Suppression)) == (1, 1, 1)


def test_the_same_key_with_another_body_is_refused(world: World) -> None:
    _submit(world, _submission(world), KEY)
    with pytest.raises(IdempotencyKeyReused):
        _submit(world, _submission(world), Idempotency(key_mac=KEY.key_mac, body_mac=b"c" * 32))


def test_a_repeated_request_id_returns_its_request_under_any_key(world: World) -> None:
    first = _submit(world, _submission(world, request_uuid=UUID))
    assert _submit(world, _submission(world, request_uuid=UUID), KEY) == first
    with pytest.raises(IdempotencyKeyReused):
        _submit(world, _submission(world, "bob"), Idempotency(key_mac=KEY.key_mac, body_mac=b"c" * 32))


def test_a_request_id_used_for_two_people_is_refused(world: World) -> None:
    _submit(world, _submission(world, "ann", request_uuid=UUID))
    with pytest.raises(IdempotencyKeyReused):
        _submit(world, _submission(world, "bob", request_uuid=UUID))


def test_a_request_id_used_for_another_person_is_refused_even_after_the_first_was_revealed(
    world: World,
) -> None:
    first = _submit(world, _submission(world, "ann", request_uuid=UUID))
    world.shift(first, status="completed", completed_at=1.0, reveal_at=1.0)
    destroy_revealed_nonces(world.sessions)
    assert world.request(first).match_mac is None
    assert _submit(world, _submission(world, "ann", request_uuid=UUID)) == first
    with pytest.raises(IdempotencyKeyReused):
        _submit(world, _submission(world, "bob", request_uuid=UUID))


def test_what_is_kept_of_a_request_id_links_no_two_requests(world: World) -> None:
    uuids = (UUID, UUID.replace("1b", "2b"))
    kept = {world.request(_submit(world, _submission(world, request_uuid=uuid))).uuid_mac for uuid in uuids}
    assert len(kept) == 2
    assert None not in kept


def test_a_due_date_must_lie_ahead_but_a_repeat_may_come_after_it(world: World) -> None:
    with pytest.raises(DueDatePassed):
        _submit(world, _submission(world, due_at=1.0))
    first = _submit(world, _submission(world, due_at=4e9), KEY)
    assert _submit(world, _submission(world, due_at=1.0), KEY) == first


def test_unknown_models_are_named_by_their_places_and_nothing_is_stored(world: World) -> None:
    world.model("churn", dataset=world.dataset(subjects={}))
    with pytest.raises(UnknownModels) as refused:
        _submit(world, _submission(world, models=("nix", "churn", "nox")))
    assert refused.value.positions == [0, 2]
    assert "nix" not in str(refused.value)
    assert _count(world, Request) == 0


def test_every_model_in_scope_becomes_a_target_held_or_not(world: World) -> None:
    dataset = world.dataset(subjects={"ann": 1})
    for name in ("one", "two", "three"):
        world.model(name, dataset=dataset, num_records=1)
    _submit(world, _submission(world))
    _submit(world, _submission(world, "nobody"))
    _submit(world, _submission(world, models=("two",)))
    assert _count(world, Target) == 3 + 3 + 1


def test_a_request_narrowed_to_records_suppresses_those_and_not_the_subject(world: World) -> None:
    dataset = world.dataset(subjects={"ann": 2})
    narrowed = {dataset: (b"x" * 32, b"y" * 32)}
    _submit(world, _submission(world, record_refs=narrowed, suppression_refs=(b"r" * 32, b"s" * 32)))
    with reading(world.sessions) as session:
        found = {(row.subject_ref, row.record_ref) for row in session.query(Suppression)}
    assert found == {(None, b"r" * 32), (None, b"s" * 32)}


def test_a_second_post_is_linked_until_the_first_is_seen_completed(world: World) -> None:
    first = _submit(world, _submission(world))
    world.shift(first, status="completed", completed_at=1.0, reveal_at=4e9)
    second = _submit(world, _submission(world))
    assert world.request(second).duplicate_of == first
    for request_id in (first, second):
        world.shift(request_id, status="completed", completed_at=1.0, reveal_at=1.0)
    assert world.request(_submit(world, _submission(world))).duplicate_of is None


def test_held_and_unheld_subjects_cost_the_same_statements(world: World) -> None:
    world.trained(subjects={"ann": 3, "bob": 1})
    statements: list[str] = []
    engine = world.sessions.kw["bind"]
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    world.post("ann")
    held, statements[:] = list(statements), []
    world.post("nobody")
    assert held == statements
