"""How far the n of a running job moves over what was sealed meanwhile."""

from hypothesis import given
from hypothesis import strategies as st

from app.domain.coverage import MAX_RETURNS, Coverage, Mark, may_revoke, reach

_place = st.none() | st.tuples(st.integers(0, 2), st.integers(0, 9))
_marks = st.lists(_place, max_size=8).map(
    lambda places: [
        Mark(number=n, shard=None if p is None else p[0], position=None if p is None else p[1])
        for n, p in enumerate(places, start=1)
    ]
)
_finished = st.dictionaries(st.integers(0, 2), st.integers(-1, 9))


def is_behind(mark: Mark, finished: dict[int, int]) -> bool:
    return mark.position is not None and mark.shard in finished and mark.position <= finished[mark.shard]


@given(_marks, _finished, st.integers(0, MAX_RETURNS))
def test_n_covers_a_mark_only_if_it_lies_ahead_or_its_shard_goes_back(
    marks: list[Mark], finished: dict[int, int], num_returns: int
) -> None:
    reached = reach(marks, covers=0, finished=finished, num_returns=num_returns)
    for mark in marks[: reached.covers]:
        assert not is_behind(mark, finished) or mark.shard in reached.returns
    assert all(
        any(is_behind(mark, finished) and mark.shard == shard for mark in marks[: reached.covers])
        for shard in reached.returns
    )


@given(_marks, _finished, st.integers(0, MAX_RETURNS))
def test_n_stops_only_where_a_shard_would_go_back_once_too_often(
    marks: list[Mark], finished: dict[int, int], num_returns: int
) -> None:
    reached = reach(marks, covers=0, finished=finished, num_returns=num_returns)
    assert num_returns + len(reached.returns) <= MAX_RETURNS
    assert reached.is_frozen is (reached.covers < len(marks))
    if reached.is_frozen:
        following = marks[reached.covers]
        assert is_behind(following, finished)
        assert following.shard not in reached.returns
        assert num_returns + len(reached.returns) == MAX_RETURNS


_pairs = st.integers(0, 6).flatmap(
    lambda covers: st.integers(0, covers).map(lambda settled: Coverage(covers=covers, settled=settled))
)


@given(_pairs, _pairs, st.integers(1, 6))
def test_an_exact_version_replaces_what_was_only_treated_and_an_interim_one_does_not(
    version: Coverage, published: Coverage, number: int
) -> None:
    mark = Mark(number=number, shard=0, position=0)
    is_replaced = may_revoke(version, mark, published=published)
    if number <= published.settled:
        assert is_replaced is (number > version.settled)
    elif number <= published.covers:
        assert is_replaced is (number > version.covers)
    else:
        assert not is_replaced
    assert not may_revoke(published, mark, published=published)
    assert not may_revoke(version, Mark(number=number, shard=None, position=None), published=published)
