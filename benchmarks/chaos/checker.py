"""The checker: every promise of the service as a function of the history and of what is left.

Pure: no process, file or database. Each check returns what it found wrong, in words; nothing wrong, nothing
returned. A check that could not fail would be worth nothing: the tests show each of them a bad history.
"""

import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Protocol, TypeVar

from app.domain.status import JobStatus, RequestStatus
from benchmarks.chaos.history import Asked, Audited, Died, Event, JobSeen, Posted, Seen, of_kind
from benchmarks.chaos.remains import Remains

ACCEPTED, SERVER_ERROR, UNAVAILABLE = 202, 500, 503
EXIT_REFUSED = 2
History = list[Event]
Check = Callable[[History, Remains], list[str]]


class _OfModel(Protocol):
    @property
    def model(self) -> str: ...


M = TypeVar("M", bound=_OfModel)


def lost(history: History, left: Remains) -> list[str]:
    """Every 202 is a row and ended ``completed``."""
    status = {request.id: request.status for request in left.requests}
    accepted = {post.id: post.key for post in of_kind(history, Posted) if post.status == ACCEPTED}
    return [
        f"{key}: {request_id} was acknowledged and is {status.get(request_id or '', 'no row')}"
        for request_id, key in accepted.items()
        if status.get(request_id or "") != RequestStatus.COMPLETED
    ]


def phantoms(history: History, left: Remains) -> list[str]:
    """Nothing was stored that nobody can have asked for: at most one request a key."""
    accepted = {post.id for post in of_kind(history, Posted) if post.id is not None}
    unanswered = {post.key for post in of_kind(history, Posted)} - {
        post.key for post in of_kind(history, Posted) if post.id is not None
    }
    unknown = [request.id for request in left.requests if request.id not in accepted]
    if len(unknown) <= len(unanswered):
        return []
    return [f"{len(unknown)} requests are stored that no 202 names, {len(unanswered)} keys got no answer"]


def unanswered(history: History, left: Remains) -> list[str]:
    """Every wish was answered in the end, and never with a mistake of the server's."""
    posts = of_kind(history, Posted)
    answered = {post.key for post in posts if post.id is not None}
    silent = sorted({post.key for post in posts} - answered)
    broken = [post for post in posts if _is_mistake(post.status)]
    return [f"{key} never got a 202" for key in silent] + [
        f"POST of {post.key} at {post.at:.1f} s was answered with {post.status}" for post in broken
    ]


def misread(history: History, left: Remains) -> list[str]:
    """No GET was answered with a mistake of the server's."""
    return [
        f"GET {asked.path} at {asked.at:.1f} s was answered with {asked.status}"
        for asked in of_kind(history, Asked)
        if _is_mistake(asked.status)
    ]


def repeated_keys(history: History, left: Remains) -> list[str]:
    """One Idempotency-Key, one request."""
    ids: dict[str, set[str]] = defaultdict(set)
    for post in of_kind(history, Posted):
        if post.id is not None:
            ids[post.key].add(post.id)
    shared = Counter(request_id for found in ids.values() for request_id in found)
    return [f"{key} names {len(found)} requests" for key, found in ids.items() if len(found) > 1] + [
        f"{request_id} answers {num} keys" for request_id, num in shared.items() if num > 1
    ]


def receipts(history: History, left: Remains) -> list[str]:
    """Every completed request has a receipt that verifies, is its own, and a trail without a gap."""
    completed = [request for request in left.requests if request.status == RequestStatus.COMPLETED]
    return [
        f"{request.id}: its receipt is {'missing or invalid' if request.receipt is None else 'another one'}"
        for request in completed
        if request.receipt != request.id
    ] + [f"{request.id}: its trail is broken" for request in left.requests if not request.has_whole_chain]


def published_twice(history: History, left: Remains) -> list[str]:
    """At most one version a job, and version numbers without gap or repetition."""
    found = [f"{job.id} published {job.num_versions} versions" for job in left.jobs if job.num_versions > 1]
    for model, versions in _by_model(left.versions).items():
        numbers = [version.number for version in versions]
        if numbers != list(range(1, len(numbers) + 1)):
            found.append(f"{model}: its versions are numbered {numbers}")
    return found


def alias_history(history: History, left: Remains) -> list[str]:
    """The alias moved from where it was to a version that exists, and points where it moved last."""
    found = []
    numbers = {(version.model, version.number) for version in left.versions}
    for model, moves in _by_model(left.moves).items():
        if moves[0].from_number is not None:
            found.append(f"{model}: the first move came from {moves[0].from_number}")
        found += [
            f"{model}: moved to {before.to_number}, then from {after.from_number}"
            for before, after in pairwise(moves)
            if before.to_number != after.from_number
        ]
        found += [f"{model}: moved to {move.to_number}, which is no version"
                  for move in moves if (model, move.to_number) not in numbers]  # fmt: skip
        if left.current.get(model) != moves[-1].to_number:
            found.append(
                f"{model}: current is {left.current.get(model)}, moved last to {moves[-1].to_number}"
            )
    return found


def coverage_fell(history: History, left: Remains) -> list[str]:
    """Neither ``covers`` nor ``settled`` ever fell, along the alias's moves and for whoever looked."""
    versions = {(version.model, version.number): version for version in left.versions}
    found = []
    for model, moves in _by_model(left.moves).items():
        steps = [versions[model, move.to_number] for move in moves if (model, move.to_number) in versions]
        found += [
            f"{model}: from version {before.number} to {after.number}, {before.covers}/{before.settled} "
            f"fell to {after.covers}/{after.settled}"
            for before, after in pairwise(steps)
            if after.covers < before.covers or after.settled < before.settled
        ]
    for model, looks in _by_model(of_kind(history, Seen)).items():
        found += [
            f"{model}: at {after.at:.1f} s somebody saw {after.covers}/{after.settled} after "
            f"{before.covers}/{before.settled}"
            for before, after in pairwise(looks)
            if after.covers < before.covers or after.settled < before.settled
        ]
    return found


def changed_versions(history: History, left: Remains) -> list[str]:
    """A version is what it was when it was first seen."""
    digests = {(version.model, version.number): version.manifest_digest for version in left.versions}
    return sorted({
        f"{seen.model}: version {seen.number} was seen with another manifest"
        for seen in of_kind(history, Seen)
        if digests.get((seen.model, seen.number)) != seen.manifest_digest
    })  # fmt: skip


def behind(history: History, left: Remains) -> list[str]:
    """In the end every model has forgotten every tombstone, and their numbers have no gap."""
    versions = {(version.model, version.number): version for version in left.versions}
    found = []
    for model, (numbers, num_sealed) in left.tombstones.items():
        if numbers != list(range(1, num_sealed + 1)):
            found.append(f"{model}: {len(numbers)} tombstones, {num_sealed} numbers given")
        current = versions.get((model, left.current.get(model, 0)))
        if current is None or current.settled < num_sealed:
            settled = current.settled if current else "nothing"
            found.append(f"{model}: current settles {settled} of {num_sealed}")
    return found


def oracles(history: History, left: Remains) -> list[str]:
    """The oracle agreed whenever it could be asked, and with every current version in the end."""
    audits = of_kind(history, Audited)
    found = [f"{a.model}: version {a.version} is not what the oracle trains" for a in audits
             if a.is_equal is False]  # fmt: skip
    agreed = {(audit.model, audit.version) for audit in audits if audit.is_equal}
    return found + [
        f"{model}: nobody trained its last version {number} again"
        for model, number in left.current.items()
        if (model, number) not in agreed
    ]


def fences(history: History, left: Remains) -> list[str]:
    """A job's fence never fell, and an ended job stayed ended."""
    found = []
    by_job: dict[str, list[JobSeen]] = defaultdict(list)
    for seen in of_kind(history, JobSeen):
        by_job[seen.id].append(seen)
    for job, looks in by_job.items():
        for before, after in pairwise(looks):
            if after.fence < before.fence:
                found.append(f"{job}: its fence fell from {before.fence} to {after.fence}")
            if before.status in (JobStatus.SUCCEEDED, JobStatus.FAILED) and after.status != before.status:
                found.append(f"{job}: {before.status}, then {after.status}")
    return found


def unfinished(history: History, left: Remains) -> list[str]:
    """No job waits, runs or is held by anybody."""
    return [
        f"{job.id} ({job.kind} of {job.model}) is {job.status}, held by {job.owner}"
        for job in left.jobs
        if job.status in (JobStatus.QUEUED, JobStatus.RUNNING) or job.owner is not None
    ]


def blobs(history: History, left: Remains) -> list[str]:
    """The store holds exactly the blobs that somebody needs, each whole."""
    pairs = {
        "in the store and needed by nobody": left.blobs - left.referenced,
        "needed and not in the store": left.referenced - left.blobs,
        "registered and needed by nobody": left.registered - left.referenced,
        "damaged": left.damaged_blobs,
    }
    return [f"blob {digest[:12]}... is {what}" for what, found in pairs.items() for digest in sorted(found)]


def left_behind(history: History, left: Remains) -> list[str]:
    """No process, file or exit code speaks of what went wrong."""
    orphans = [f"process {orphan} lives though its session has ended" for orphan in left.orphans]
    files = [f"{name} was left behind" for name in left.leftovers]
    badly = {name: code for name, code in left.exit_codes.items() if code not in (0, -signal.SIGTERM)}
    return [*orphans, *files, *(f"{name} was asked to end: code {code}" for name, code in badly.items())]


def traces(history: History, left: Remains) -> list[str]:
    """Nothing of the forgotten is left, and no completed request keeps a hash of its subject."""
    return left.traces + [
        f"{request.id} is completed and keeps the hashes of its subject"
        for request in left.requests
        if request.status == RequestStatus.COMPLETED and request.keeps_hashes
    ]


def accidents(history: History, left: Remains) -> list[str]:
    """Nobody ended by itself but with exit code 2: what it needs was away when it began."""
    return [
        f"{death.whom} ended with {death.code}: {death.words}"
        for death in of_kind(history, Died)
        if death.code != EXIT_REFUSED
    ]


CHECKS: tuple[Check, ...] = (
    lost, phantoms, unanswered, misread, repeated_keys, receipts, published_twice, alias_history,
    coverage_fell, changed_versions, behind, oracles, fences, unfinished, blobs, left_behind, traces,
    accidents,
)  # fmt: skip


def violations(history: History, left: Remains) -> dict[str, list[str]]:
    """Return what is wrong, by the promise that it breaks."""
    found = {check.__name__: check(history, left) for check in CHECKS}
    return {name: words for name, words in found.items() if words}


def forgotten_subjects(history: History) -> list[str]:
    """Return whom the service was asked to forget everywhere, in the order of the first 202."""
    posts = of_kind(history, Posted)
    return list(dict.fromkeys(p.subject for p in posts if p.id is not None and p.models is None))


def _is_mistake(status: int | None) -> bool:
    """Whether an answer is neither a success, a refusal of the caller's doing, nor "try again"."""
    return status is not None and status >= SERVER_ERROR and status != UNAVAILABLE


def _by_model(items: Iterable[M]) -> dict[str, list[M]]:
    found: dict[str, list[M]] = defaultdict(list)
    for item in items:
        found[item.model].append(item)
    return found
