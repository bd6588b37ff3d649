"""The checker of the chaos harness: a good history passes, and every kind of violation is caught."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from benchmarks.chaos import checker
from benchmarks.chaos.checker import CHECKS, violations
from benchmarks.chaos.history import Asked, Audited, Died, Event, JobSeen, Posted, Seen
from benchmarks.chaos.remains import JobLeft, Move, Remains, RequestLeft, VersionLeft

ACCEPTED, BUSY, BROKEN = 202, 503, 500

HISTORY: list[Event] = [
    Posted(at=1.0, key="a", subject="ann", models=None, status=None, id=None),
    Posted(at=2.0, key="a", subject="ann", models=None, status=BUSY, id=None),
    Posted(at=3.0, key="a", subject="ann", models=None, status=ACCEPTED, id="del_1"),
    Posted(at=4.0, key="a", subject="ann", models=None, status=ACCEPTED, id="del_1"),
    Asked(at=4.5, path="/deletions/del_1", status=BUSY),
    Seen(at=5.0, model="churn", number=1, covers=0, settled=0, manifest_digest="m1"),
    JobSeen(5.0, "job_2", "settle", "running", "unlearn", 1, "host:1", 1, None),
    JobSeen(6.0, "job_2", "settle", "running", "publish", 2, "host:2", 2, None),
    JobSeen(7.0, "job_2", "settle", "succeeded", "attest", 2, None, 2, None),
    Seen(at=7.0, model="churn", number=2, covers=3, settled=3, manifest_digest="m2"),
    Audited(at=8.0, model="churn", version=1, is_equal=None),
    Audited(at=9.0, model="churn", version=2, is_equal=True),
]
REMAINS = Remains(
    requests=[RequestLeft(id="del_1", status="completed", receipt="del_1", keeps_hashes=False)],
    jobs=[
        JobLeft(id="job_1", model="churn", kind="train", status="succeeded", owner=None, num_versions=1),
        JobLeft(id="job_2", model="churn", kind="settle", status="succeeded", owner=None, num_versions=1),
    ],
    versions=[
        VersionLeft(model="churn", number=1, covers=0, settled=0, manifest_digest="m1"),
        VersionLeft(model="churn", number=2, covers=3, settled=3, manifest_digest="m2"),
    ],
    moves=[
        Move(model="churn", from_number=None, to_number=1),
        Move(model="churn", from_number=1, to_number=2),
    ],
    current={"churn": 2},
    tombstones={"churn": ([1, 2, 3], 3)},
    blobs=frozenset({"b1", "b2"}),
    referenced=frozenset({"b1", "b2"}),
    registered=frozenset({"b1", "b2"}),
    exit_codes={"api": -15, "worker-1": 0},
)


@dataclass(frozen=True)
class Bad:
    """What a bad run has more, or otherwise, than the good one."""

    breaks: Callable[[list[Event], Remains], list[str]]
    because: str
    more: tuple[Event, ...] = ()
    left: Remains = REMAINS


def _posted(key: str, found: str | None, *, status: int | None = ACCEPTED) -> Posted:
    return Posted(at=9.0, key=key, subject="bob", models=None, status=status, id=found)


def _left(**changes: object) -> Remains:
    return replace(REMAINS, **changes)  # type: ignore[arg-type]


def _request(**changes: object) -> Remains:
    return _left(requests=[replace(REMAINS.requests[0], **changes)])  # type: ignore[arg-type]


def _last_job(**changes: object) -> Remains:
    return _left(jobs=[REMAINS.jobs[0], replace(REMAINS.jobs[1], **changes)])  # type: ignore[arg-type]


def _last_version(**changes: object) -> Remains:
    return _left(versions=[REMAINS.versions[0], replace(REMAINS.versions[1], **changes)])  # type: ignore[arg-type]


def _last_move(**changes: object) -> Remains:
    return _left(moves=[REMAINS.moves[0], replace(REMAINS.moves[1], **changes)])  # type: ignore[arg-type]


def _seen(at: float, number: int, covers: int, settled: int, digest: str) -> Seen:
    return Seen(at=at, model="churn", number=number, covers=covers, settled=settled, manifest_digest=digest)


BAD = [
    Bad(checker.lost, "an acknowledged request has no row", (_posted("b", "del_2"),)),
    Bad(checker.lost, "an acknowledged request never completed", left=_request(status="running")),
    Bad(
        checker.phantoms, "a request nobody asked for is stored",
        left=_left(requests=[*REMAINS.requests, RequestLeft("del_9", "completed", "del_9", False)]),
    ),
    Bad(checker.unanswered, "a wish got no answer", (_posted("b", None, status=None),)),
    Bad(checker.unanswered, "a post was answered with a mistake", (_posted("a", None, status=BROKEN),)),
    Bad(checker.misread, "a read was answered with a mistake", (Asked(9.0, "/deletions/del_1", BROKEN),)),
    Bad(checker.repeated_keys, "a repeated key made a second request", (_posted("a", "del_2"),)),
    Bad(checker.repeated_keys, "two keys share a request", (_posted("b", "del_1"),)),
    Bad(checker.receipts, "there is no receipt that verifies", left=_request(receipt=None)),
    Bad(checker.receipts, "the receipt is of another request", left=_request(receipt="del_7")),
    Bad(checker.receipts, "the trail is broken", left=_request(has_whole_chain=False)),
    Bad(checker.published_twice, "a job published twice", left=_last_job(num_versions=2)),
    Bad(checker.published_twice, "a version number is missing", left=_last_version(number=3)),
    Bad(checker.alias_history, "the first move came from somewhere", left=_left(moves=REMAINS.moves[1:])),
    Bad(checker.alias_history, "a move began elsewhere", left=_last_move(from_number=2)),
    Bad(checker.alias_history, "the alias went to no version", left=_last_move(to_number=5)),
    Bad(checker.alias_history, "the alias is not where it moved last", left=_left(current={"churn": 1})),
    Bad(checker.coverage_fell, "covers fell with a move", left=_left(
        versions=[replace(REMAINS.versions[0], covers=4), REMAINS.versions[1]])),
    Bad(checker.coverage_fell, "settled fell with a move", left=_left(
        versions=[replace(REMAINS.versions[0], settled=4), REMAINS.versions[1]])),
    Bad(checker.coverage_fell, "somebody saw covers fall", (_seen(9.0, 2, 2, 3, "m2"),)),
    Bad(checker.coverage_fell, "somebody saw settled fall", (_seen(9.0, 2, 3, 2, "m2"),)),
    Bad(checker.changed_versions, "a version changed", (_seen(9.0, 2, 3, 3, "m3"),)),
    Bad(checker.behind, "a tombstone number is missing", left=_left(tombstones={"churn": ([1, 3], 3)})),
    Bad(checker.behind, "the last tombstones are not covered", left=_left(
        tombstones={"churn": ([1, 2, 3, 4], 4)})),
    Bad(checker.oracles, "the oracle differs", (Audited(9.0, "churn", 1, False),)),
    Bad(checker.oracles, "nobody audited the last version", left=_left(
        versions=[*REMAINS.versions, VersionLeft("churn", 3, 3, 3, "m3")], current={"churn": 3})),
    Bad(checker.fences, "a fence fell", (
        JobSeen(9.0, "job_2", "settle", "succeeded", "attest", 1, None, 2, None),)),
    Bad(checker.fences, "an ended job ran again", (
        JobSeen(9.0, "job_2", "settle", "running", "attest", 3, "host:1", 2, None),)),
    Bad(checker.accidents, "a server crashed", (Died(9.0, "api", -11, ""),)),
    Bad(checker.accidents, "a worker ended with a trace", (Died(9.0, "worker 1", 1, "Traceback"),)),
    Bad(checker.unfinished, "a job waits", left=_last_job(status="queued")),
    Bad(checker.unfinished, "a job is still held", left=_last_job(owner="host:2")),
    Bad(checker.blobs, "a blob is needed by nobody", left=_left(blobs=frozenset({"b1", "b2", "b3"}))),
    Bad(checker.blobs, "a needed blob is missing", left=_left(blobs=frozenset({"b1"}))),
    Bad(checker.blobs, "a blob is registered for nobody", left=_left(registered=frozenset({"b1", "b9"}))),
    Bad(checker.blobs, "a blob is damaged", left=_left(damaged_blobs=frozenset({"b1"}))),
    Bad(checker.left_behind, "a process lives on", left=_left(orphans=["17 python"])),
    Bad(checker.left_behind, "a file was left behind", left=_left(leftovers=["store/tmp/half"])),
    Bad(checker.left_behind, "a worker would not end", left=_left(exit_codes={"worker-1": None})),
    Bad(checker.left_behind, "a worker ended badly", left=_left(exit_codes={"worker-1": 1})),
    Bad(checker.traces, "a trace was found", left=_left(traces=["ann: row 3"])),
    Bad(checker.traces, "a completed request keeps hashes", left=_request(keeps_hashes=True)),
]  # fmt: skip


def test_a_run_in_which_nothing_went_wrong_passes_every_check() -> None:
    assert violations(HISTORY, REMAINS) == {}


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.because)
def test_a_violation_is_caught_by_the_check_of_its_promise(bad: Bad) -> None:
    assert bad.breaks([*HISTORY, *bad.more], bad.left)
    assert bad.breaks.__name__ in violations([*HISTORY, *bad.more], bad.left)


def test_every_check_is_shown_something_that_it_must_catch() -> None:
    assert {bad.breaks for bad in BAD} == set(CHECKS)
