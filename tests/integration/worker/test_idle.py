"""What an idle worker does at every poll, and what it does once a second or when a job has ended."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

from app.db.session import reading, writing
from app.db.tables import Suppression
from app.services.workers import WorkerFacts
from app.settings import Settings
from tests.support.world import World
from worker.housekeeper import Housekeeper
from worker.installation import Installation, open_installation


@pytest.fixture
def own(settings: Settings) -> Iterator[Installation]:
    own = open_installation(settings)
    yield own
    own.engine.dispose()


@pytest.fixture
def housekeeper(own: Installation) -> Housekeeper:
    facts = WorkerFacts(owner="w", device_class="cpu", environment_digest="e" * 64)
    housekeeper = Housekeeper(own, facts)
    housekeeper.look()
    return housekeeper


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """Collect the statements that a block runs."""
    found: list[str] = []

    def collect(_connection: object, _cursor: object, statement: str, *_: Any) -> None:
        found.append(statement)

    event.listen(engine, "before_cursor_execute", collect)
    yield found
    event.remove(engine, "before_cursor_execute", collect)


def expire_a_suppression(world: World) -> None:
    request_id = world.post("ann")
    with writing(world.sessions) as session:
        session.query(Suppression).filter_by(request_id=request_id).one().expires_at = 1.0


def num_suppressions(world: World) -> int:
    with reading(world.sessions) as session:
        return session.query(Suppression).count()


def test_a_look_asks_once_whether_a_request_is_due(housekeeper: Housekeeper, own: Installation) -> None:
    numbers = []
    for _ in range(20):
        with statements(own.engine) as found:
            housekeeper.look()
        numbers.append(len([one for one in found if one != "BEGIN"]))
    assert min(numbers) == 1


def test_a_sweep_clears_what_a_look_would_leave_for_later(housekeeper: Housekeeper, world: World) -> None:
    expire_a_suppression(world)
    housekeeper.sweep()
    assert num_suppressions(world) == 0


def test_a_look_clears_everything_after_a_job(housekeeper: Housekeeper, world: World) -> None:
    expire_a_suppression(world)
    housekeeper.scrub_soon()
    housekeeper.look()
    assert num_suppressions(world) == 0
