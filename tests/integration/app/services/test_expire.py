"""What has served its time goes; what a client could still miss stays."""

from app.db.session import reading, writing
from app.db.tables import IdempotencyKey, Suppression
from app.services.close import destroy_revealed_nonces
from app.services.expire import IDEMPOTENCY_SECONDS, expire_leftovers
from tests.support.world import World

DONE = {"status": "completed", "completed_at": 1.0}


def _key(world: World, request_id: str, *, name: bytes, age_seconds: float) -> None:
    posted_at = world.request(request_id).posted_at
    with writing(world.sessions) as session:
        session.add(
            IdempotencyKey(
                tenant=world.tenant, key_mac=name * 32, body_mac=b"b" * 32, request_id=request_id,
                created_at=posted_at - age_seconds,
            )
        )  # fmt: skip


def test_old_idempotency_keys_of_revealed_requests_go_and_all_others_stay(world: World) -> None:
    revealed, hidden, running = (world.post(name) for name in ("ann", "bob", "cat"))
    world.shift(revealed, reveal_at=1.0, **DONE)
    world.shift(hidden, reveal_at=4e9, **DONE)
    for name, request_id in ((b"r", revealed), (b"h", hidden), (b"o", running)):
        _key(world, request_id, name=name, age_seconds=IDEMPOTENCY_SECONDS + 1)
    _key(world, revealed, name=b"y", age_seconds=IDEMPOTENCY_SECONDS - 100)
    assert expire_leftovers(world.sessions) == 1
    with reading(world.sessions) as session:
        assert {row.key_mac[:1] for row in session.query(IdempotencyKey)} == {b"h", b"o", b"y"}


def test_a_suppression_goes_on_its_expiry_date(world: World) -> None:
    requests = [world.post(name) for name in ("ann", "bob")]
    with writing(world.sessions) as session:
        session.query(Suppression).filter_by(request_id=requests[0]).one().expires_at = 1.0
    assert expire_leftovers(world.sessions) == 1
    with reading(world.sessions) as session:
        assert [row.request_id for row in session.query(Suppression)] == requests[1:]


def test_a_sweep_that_finds_nothing_keeps_no_writer_waiting(world: World) -> None:
    world.post("ann")
    with writing(world.sessions):
        # Would wait for the writer, and fail, if it wanted to write.
        assert expire_leftovers(world.sessions) == 0
        assert destroy_revealed_nonces(world.sessions) == 0
