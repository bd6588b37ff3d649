"""Coverage, statuses and times: rules without a database."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.access import Caller, Scope
from app.domain.coverage import Artifact, Coverage, Mark, first_touched, is_clean, may_follow, saw
from app.domain.errors import IllegalMove, ScopeMissing
from app.domain.receipts import RequestFacts, product_statement
from app.domain.scheduling import (
    MAX_ATTEMPTS,
    MAX_ATTEMPTS_WITHOUT_PROGRESS,
    days_left,
    due_at,
    has_attempts_left,
    predicted_settle_seconds,
    visible_at,
)
from app.domain.status import ENDED_TARGETS, RequestStatus, TargetStatus, derived, moved
from app.domain.terms import DEFAULT_TENANT, KeyId
from app.domain.visibility import Clocked, public_status, public_target_status, seconds_to_wait

_coverage = st.integers(0, 5).flatmap(
    lambda covers: st.integers(0, covers).map(lambda settled: Coverage(covers=covers, settled=settled))
)
_mark = st.builds(
    Mark, number=st.integers(1, 9), shard=st.integers(0, 2), position=st.none() | st.integers(0, 9)
)  # fmt: skip


@given(st.lists(_coverage, min_size=1, max_size=12))
def test_along_any_lawful_way_neither_number_ever_falls(candidates: list[Coverage]) -> None:
    current = None
    for candidate in candidates:
        if may_follow(current, candidate):
            assert current is None or (
                candidate.covers >= current.covers and candidate.settled >= current.settled
            )
            current = candidate


@given(st.lists(_mark, max_size=8), st.integers(0, 9), st.integers(0, 9), st.integers(0, 2))
def test_a_checkpoint_before_the_first_touched_position_is_clean_and_at_it_is_not(
    marks: list[Mark], settled: int, covers: int, shard: int
) -> None:
    touched = first_touched(marks, settled=settled, covers=covers)
    counted = [mark for mark in marks if mark.number <= covers]
    for position in range(10):
        artifact = Artifact(shard=shard, position=position, settled=settled)
        assert is_clean(artifact, counted) is (position < touched.get(shard, 10))


@given(_mark, st.integers(0, 9))
def test_a_version_saw_every_placed_record_it_has_not_settled(mark: Mark, settled: int) -> None:
    version = Artifact(shard=None, position=None, settled=settled)
    assert saw(version, mark) is (mark.position is not None and mark.number > settled)


@pytest.mark.parametrize("status", TargetStatus)
def test_staying_is_lawful_and_nothing_leaves_an_ended_status(status: TargetStatus) -> None:
    assert moved(status, status) is status
    if status in ENDED_TARGETS:
        for other in TargetStatus:
            if other is not status:
                with pytest.raises(IllegalMove):
                    moved(status, other)


@pytest.mark.parametrize("status", [status for status in TargetStatus if status not in ENDED_TARGETS])
def test_every_unended_target_can_still_be_completed(status: TargetStatus) -> None:
    reached, frontier = {status}, [status]
    while frontier:
        here = frontier.pop()
        for other in TargetStatus:
            if other not in reached and _is_lawful(here, other):
                reached.add(other)
                frontier.append(other)
    assert TargetStatus.COMPLETED in reached


def _is_lawful(current: TargetStatus, to: TargetStatus) -> bool:
    try:
        moved(current, to)
    except IllegalMove:
        return False
    return True


@given(st.lists(st.sampled_from(TargetStatus), max_size=4))
def test_a_request_is_completed_exactly_when_all_its_targets_have_ended(targets: list[TargetStatus]) -> None:
    is_ended = all(target in ENDED_TARGETS for target in targets)
    assert (derived(targets) is RequestStatus.COMPLETED) is is_ended


def test_what_still_fails_or_waits_is_said() -> None:
    done, failed, waits = TargetStatus.COMPLETED, TargetStatus.FAILED, TargetStatus.SCHEDULED
    assert derived([done, failed]) is RequestStatus.FAILED
    assert derived([done, waits]) is RequestStatus.SCHEDULED
    assert derived([failed, waits]) is RequestStatus.RUNNING
    assert derived([TargetStatus.PURGING]) is RequestStatus.RUNNING


@given(st.sampled_from(RequestStatus), st.none() | st.floats(0, 10), st.floats(0, 10), st.floats(0, 10))
def test_products_see_completion_never_before_the_reveal_nor_before_the_end(
    status: RequestStatus, completed_at: float | None, reveal_at: float, now: float
) -> None:
    times = Clocked(completed_at=completed_at, reveal_at=reveal_at, now=now)
    shown = public_status(status, times)
    assert shown not in (RequestStatus.RUNNING, RequestStatus.FAILED)
    if shown is RequestStatus.COMPLETED:
        assert completed_at is not None
        assert now >= max(completed_at, reveal_at)
    assert public_target_status(status, times) in (
        TargetStatus.SCHEDULED, TargetStatus.COMPLETED, TargetStatus.CANCELLED,
    )  # fmt: skip
    assert 1 <= seconds_to_wait(times) <= 60


def test_due_dates_count_in_whole_days() -> None:
    day = 86_400.0
    assert due_at(0.0, None) == 30 * day
    assert due_at(0.0, 5.0) == 5.0
    assert [days_left(2 * day, now) for now in (0.0, 1.0, 2 * day, 2 * day + 1)] == [2, 1, 0, -1]
    assert visible_at(3.0, 5.0) == visible_at(5.0, 3.0) == 5.0
    assert predicted_settle_seconds(100.0) > 100.0


def test_attempts_end() -> None:
    assert has_attempts_left(0, 0)
    assert not has_attempts_left(MAX_ATTEMPTS, 0)
    assert not has_attempts_left(0, MAX_ATTEMPTS_WITHOUT_PROGRESS)


@pytest.mark.parametrize("scope", Scope)
def test_admin_implies_every_scope_and_no_other_does(scope: Scope) -> None:
    def caller(*scopes: Scope) -> Caller:
        return Caller(key_id=KeyId("k"), tenant=DEFAULT_TENANT, scopes=frozenset(scopes))

    caller(scope).require(scope)
    caller(Scope.ADMIN).require(scope)
    with pytest.raises(ScopeMissing):
        caller().require(scope)
    for other in set(Scope) - {scope, Scope.ADMIN}:
        with pytest.raises(ScopeMissing):
            caller(other).require(scope)


def test_the_product_statement_says_nothing_of_the_chain() -> None:
    facts = RequestFacts(
        request_id="r", commitment="c", posted_at=1.0, due_at=2.0, event_head="secret length"
    )
    statement = product_statement(facts, models={"b": [], "a": []}, visible_at=3.0)
    assert "event_head" not in statement
    assert "secret length" not in repr(statement)
