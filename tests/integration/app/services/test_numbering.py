"""Tombstone numbers: gapless, append-only, one a record, whatever is sealed at the same time."""

from concurrent.futures import ThreadPoolExecutor

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.db.ids import new_id
from app.services.seal import seal, seal_due
from tests.support.world import World

SUBJECTS = {f"s{index}": index % 3 + 1 for index in range(12)}


def test_concurrent_seals_number_every_record_once_without_a_gap(world: World) -> None:
    dataset = world.dataset(subjects=SUBJECTS)
    num_records = sum(SUBJECTS.values())
    models = [world.model(name, dataset=dataset, num_records=num_records) for name in ("one", "two")]
    requests = [world.post(subject) for subject in [*SUBJECTS, "s3", "s4", "nobody"]]
    with ThreadPoolExecutor(4) as pool:
        jobs = [job for found in pool.map(lambda r: seal(world.sessions, r), requests) for job in found]
    assert len(jobs) == len(models)
    for model in models:
        assert [number for number, _, _ in world.tombstones(model)] == list(range(1, num_records + 1))


def test_two_sweeps_at_once_seal_each_request_once(world: World) -> None:
    model = world.model(dataset=world.dataset(subjects=SUBJECTS), num_records=sum(SUBJECTS.values()))
    for subject in SUBJECTS:
        world.post(subject)
    with ThreadPoolExecutor(2) as pool:
        jobs = [job for found in pool.map(lambda _: seal_due(world.sessions), range(2)) for job in found]
    assert len(jobs) == 1
    assert len(world.tombstones(model)) == sum(SUBJECTS.values())


def test_nothing_is_sealed_before_the_grace_ends(world: World) -> None:
    model = world.model(dataset=world.dataset(subjects={"ann": 1}), num_records=1)
    world.shift(world.post("ann"), seal_at=4e9)
    assert seal_due(world.sessions) == []
    assert world.tombstones(model) == []


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.sampled_from(sorted(SUBJECTS)), max_size=8))
def test_the_set_of_numbered_records_is_that_of_the_subjects_in_any_order(
    world: World, order: list[str]
) -> None:
    name = new_id("mdl")  # the database is shared by the examples
    model = world.model(name, dataset=world.dataset(name, subjects=SUBJECTS), num_records=24)
    for subject in order:
        world.sealed(subject, models=[name])
    expected = sum(SUBJECTS[subject] for subject in set(order))
    numbers = [number for number, _, _ in world.tombstones(model)]
    assert numbers == list(range(1, expected + 1))
