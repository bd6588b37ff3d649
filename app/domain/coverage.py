"""Coverage: which version may follow which, and which artifact saw whom.

Sealed tombstones are numbered 1, 2, 3 ... per model without gaps. A version says ``covers = n`` (it has
forgotten every tombstone up to n) and ``settled = m`` (so has its exact ancestor). Everything else, from
refusing a rollback to choosing a clean checkpoint, follows from these two numbers and the positions.

A *position* counts the blocks of one shard over all passes: pass * blocks + block.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MAX_RETURNS = 2


@dataclass(frozen=True)
class Coverage:
    """Up to which tombstone number a version has forgotten, and its exact ancestor has."""

    covers: int
    settled: int


@dataclass(frozen=True)
class Mark:
    """A tombstone: its number, and where training first met the record.

    ``shard`` and ``position`` are None for a held-out record, which no training ever met.
    """

    number: int
    shard: int | None
    position: int | None


@dataclass(frozen=True)
class Artifact:
    """Something made by training: it went through ``shard`` up to and with ``position``.

    ``shard`` None means all shards, ``position`` None means to the end (a version). It learned from no
    record whose tombstone number is at most ``settled``.
    """

    shard: int | None
    position: int | None
    settled: int


def may_follow(current: Coverage | None, candidate: Coverage) -> bool:
    """Whether an alias may move from ``current`` to ``candidate``: neither number falls."""
    if current is None:
        return True
    return candidate.covers >= current.covers and candidate.settled >= current.settled


def saw(artifact: Artifact, mark: Mark) -> bool:
    """Whether ``artifact`` learned from the record behind ``mark`` without treatment."""
    if mark.position is None or mark.number <= artifact.settled:
        return False
    if artifact.shard is not None and artifact.shard != mark.shard:
        return False
    return artifact.position is None or mark.position <= artifact.position


def is_clean(artifact: Artifact, marks: Iterable[Mark]) -> bool:
    """Whether ``artifact`` saw none of ``marks``."""
    return not any(saw(artifact, mark) for mark in marks)


def first_touched(marks: Iterable[Mark], *, settled: int, covers: int) -> dict[int, int]:
    """Return, per shard, the first position that a run from ``settled`` to ``covers`` must redo."""
    touched: dict[int, int] = {}
    for mark in marks:
        if mark.shard is None or mark.position is None or not settled < mark.number <= covers:
            continue
        touched[mark.shard] = min(mark.position, touched.get(mark.shard, mark.position))
    return touched


@dataclass(frozen=True)
class Reach:
    """How far the n of a running job moves: ``returns`` are the shards that must go back for it."""

    covers: int
    returns: frozenset[int] = frozenset()
    is_frozen: bool = False


def reach(marks: Iterable[Mark], *, covers: int, finished: Mapping[int, int], num_returns: int) -> Reach:
    """Move ``covers`` over the gapless run of ``marks`` that a running job can still leave out.

    ``marks`` are the tombstones above ``covers`` in order, ``finished`` the last position that each shard's
    state went through. A mark that lies ahead in its own shard, and one that training never meets, only moves
    n. A mark that lies behind sends its shard back, at most ``MAX_RETURNS`` times per job; the one that would
    be one time more freezes n: that mark and all after it, ahead or not, wait for the next job.
    """
    returns: set[int] = set()
    for mark in marks:
        if not _is_behind(mark, finished=finished) or mark.shard in returns:
            covers = mark.number
            continue
        if num_returns + len(returns) == MAX_RETURNS:
            return Reach(covers=covers, returns=frozenset(returns), is_frozen=True)
        assert mark.shard is not None  # a mark without a place is never behind
        returns.add(mark.shard)
        covers = mark.number
    return Reach(covers=covers, returns=frozenset(returns))


def _is_behind(mark: Mark, *, finished: Mapping[int, int]) -> bool:
    if mark.shard is None or mark.position is None:
        return False
    return mark.position <= finished.get(mark.shard, mark.position - 1)


def may_revoke(version: Coverage, mark: Mark, *, published: Coverage) -> bool:
    """Whether nobody may fetch ``version`` any more because of ``mark``, now that ``published`` is there.

    An exact version replaces whatever learned from the record, treated or not; an interim one replaces only
    what was not even treated for it.
    """
    if mark.position is None or mark.number > published.covers:
        return False
    forgotten = version.settled if mark.number <= published.settled else version.covers
    return mark.number > forgotten
