"""Coverage: which version may follow which, and which artifact saw whom.

Sealed tombstones are numbered 1, 2, 3 ... per model without gaps. A version says ``covers = n`` (it has
forgotten every tombstone up to n) and ``settled = m`` (so has its exact ancestor). Everything else, from
refusing a rollback to choosing a clean checkpoint, follows from these two numbers and the positions.

A *position* counts the blocks of one shard over all passes: pass * blocks + block.
"""

from collections.abc import Iterable
from dataclasses import dataclass


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
